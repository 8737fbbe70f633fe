"""Files of weights: one safetensors file, shards named by an index, or an allowed pickle; what safetensors headers say.

A safetensors file is 8 bytes little-endian header length, the header as JSON, the buffer. The header is checked in full
before any library reads the file, by the rules of the format's own reader (contiguous, no overlap, nothing uncovered).
"""

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Final

from invmm_gate.core.errors import ModelError
from invmm_gate.files.strict_json import parse_object
from invmm_gate.models.read.allowed_files import WEIGHT_PICKLES
from invmm_gate.models.read.checkpoint_files import MAX_JSON_BYTES, MAX_TOKENIZER_BYTES, CheckpointFiles
from invmm_gate.models.read.weight_file_names import PICKLE_STEMS, index_name, single_name, variant_of

MAX_HEADER_BYTES: Final = 10_000_000
"""The format allows 100 MB, which Python turns into gigabytes; a network of 10,000 tensors needs about 1 MB."""

DTYPE_BYTES: Final[dict[str, int]] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor of a header; `begin` and `end` are bytes of the buffer."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The tensors that a safetensors file says it holds."""

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(stream: BufferedIOBase, *, size: int, name: str) -> Header:
    """The checked header of a file of `size` bytes. Raises ModelError, naming the file, for any breach."""
    prefix = stream.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise _broken(name, f"a header of {length} bytes does not fit a file of {size}")
    header = stream.read(length)
    # The reference writers never emit these; with them a file can be a safetensors file and a pickle at once.
    if not header.startswith(b"{") or any(byte < 0x20 for byte in header):
        raise _broken(name, "the header is not one line of JSON")
    content = parse_object(header, name)
    metadata = _metadata(content.pop("__metadata__", {}), name)
    entries = [_entry(key, value, name) for key, value in content.items()]
    _refuse_gaps(entries, size - 8 - length, name)
    return Header(tensors={entry.key: entry for entry in entries}, metadata=metadata)


def _metadata(value: object, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise _broken(name, "__metadata__ must map names to texts")
    return value


def _entry(key: str, value: object, name: str) -> TensorEntry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(name, f"tensor {key!r} needs dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], _sizes(value["shape"]), _sizes(value["data_offsets"])
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _broken(name, f"tensor {key!r} has the unknown dtype {str(dtype)[:40]!r}")
    if shape is None or offsets is None or len(offsets) != 2:
        raise _broken(name, f"tensor {key!r} has a shape or offsets that are not sizes")
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise _broken(name, f"tensor {key!r} does not fill its bytes {begin} to {end}")
    return TensorEntry(key=key, dtype=dtype, shape=shape, begin=begin, end=end)


def _sizes(value: object) -> tuple[int, ...] | None:
    """Numbers from 0 to 2**63 - 1; no tensor has 17 axes."""
    if not isinstance(value, list) or len(value) > 16:
        return None
    return tuple(value) if all(type(item) is int and 0 <= item < 2**63 for item in value) else None


def _refuse_gaps(entries: list[TensorEntry], buffer: int, name: str) -> None:
    position = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise _broken(name, f"tensor {entry.key!r} begins at byte {entry.begin}, not {position}")
        position = entry.end
    if position != buffer:
        raise _broken(name, f"the tensors cover {position} of the {buffer} bytes of data")


def _broken(name: str, what: str) -> ModelError:
    return ModelError(
        f"{name!r} is not a sound safetensors file: {what}",
        expected="a file as safetensors writes it",
        do="save the checkpoint again",
    )


def read_json(files: CheckpointFiles, path: str) -> dict[str, object]:
    """The object in a JSON file of at most 10 MB; `tokenizer.json` may have 50."""
    limit = MAX_TOKENIZER_BYTES if path.endswith("/tokenizer.json") else MAX_JSON_BYTES
    if files.files[path].size > limit:
        raise ModelError(f"{path!r} is larger than {limit:,} bytes", expected="a configuration")
    return parse_object(files.read(path), path)


def read_part(files: CheckpointFiles, component: str, path: str) -> dict[str, object]:
    """The object in a JSON file that a component must have. Raises ModelError where it is not there."""
    if path not in files:
        raise ModelError(f"component {component!r} has no {path}", expected="a complete pipeline", do="save it again")
    return read_json(files, path)


def header_of(files: CheckpointFiles, path: str) -> Header:
    """The checked safetensors header of a file."""
    with files.open(path) as stream:
        return read_header(stream, size=files.files[path].size, name=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSet:
    """The weights of one network."""

    files: tuple[str, ...]
    index: str = ""
    """The file that says which shard holds which tensor; empty for one file."""
    shards: Mapping[str, str] | None = None
    """Tensor -> file."""


def find_weights(files: CheckpointFiles, prefix: str, *, stem: str, variant: str = "") -> WeightSet:
    """The weights below `prefix`. Raises ModelError unless it is one set."""
    single, index = prefix + single_name(stem, variant), prefix + index_name(stem, variant)
    pickles = [prefix + single_name(PICKLE_STEMS[stem], variant, suffix) for suffix in WEIGHT_PICKLES]
    found = [path for path in (single, index, *pickles) if path in files]
    if len(found) != 1:
        held = f"holds {' and '.join(found)}" if found else _without_weights(files, prefix)
        raise ModelError(
            f"{prefix or 'the folder'!s} {held}",
            expected=f"one {single_name(stem, variant)}, whole or as shards, of every network",
        )
    if found[0] != index:
        return WeightSet(files=(found[0],))
    shards = _shards(files, index, prefix)
    return WeightSet(files=tuple(sorted(set(shards.values()))), index=index, shards=shards)


def _without_weights(files: CheckpointFiles, prefix: str) -> str:
    names = (path.removeprefix(prefix) for path in files.files if path.startswith(prefix))
    variants = sorted({variant_of(name) or "" for name in names} - {""})
    if variants:
        return f"holds weights only as {' and '.join(map(repr, variants))}: an incomplete variant set"
    return "holds no weights: model folder without weights"


def _shards(files: CheckpointFiles, index: str, prefix: str) -> dict[str, str]:
    mapping = read_json(files, index).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise ModelError(f"{index!r} has no weight_map", expected="an index as diffusers saves it")
    for shard in {str(value) for value in mapping.values()}:
        plain = shard.endswith(".safetensors") and "/" not in shard and "\\" not in shard
        if not plain or prefix + shard not in files:
            raise ModelError(
                f"{index!r} names the shard {shard!a}",
                expected="a .safetensors file that lies beside the index",
                do="save the checkpoint again",
            )
    return {key: prefix + str(shard) for key, shard in mapping.items()}


def without_index(paths: Iterable[str]) -> ModelError:
    """The error for a folder that no index or configuration explains."""
    weights = [path for path in paths if path.endswith((".safetensors", *WEIGHT_PICKLES))]
    if not weights:
        return ModelError("model folder without weights", expected="a diffusers checkpoint", do="check the path")
    return ModelError(
        f"the folder holds {weights[0]!r} but neither model_index.json nor config.json",
        expected="a pipeline as diffusers saves it, or a network with its config.json",
        do="give the folder that save_pretrained wrote; a network in one file has its configuration beside it, as "
        "NAME.config.json",
    )


def verified_metadata(files: CheckpointFiles, path: str) -> Mapping[str, str]:
    """From bytes whose sha256 is known, as the configuration that they hold decides what is scored."""
    if not path.endswith(".safetensors"):
        return {}
    data = files.read(path)
    return read_header(io.BytesIO(data), size=len(data), name=path).metadata


def embedded_config(
    files: CheckpointFiles, metadata: Mapping[str, str], *, key: str, sibling: str
) -> dict[str, object]:
    """The configuration that is in the header or beside the file. Raises ModelError unless it is in one of them."""
    if (key in metadata) == (sibling in files):
        found = "both" if key in metadata else "neither"
        raise ModelError(
            f"the weights have {found} of metadata {key!r} and a file {sibling!r}",
            expected="exactly one of the two",
            do="give the configuration that diffusers saved, or check the pipeline's folder instead",
        )
    return parse_object(metadata[key], f"metadata {key}") if key in metadata else read_json(files, sibling)
