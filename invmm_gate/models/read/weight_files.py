"""Where a network's weights lie: one safetensors file, shards named by an index, or an allowed pickle."""

from collections.abc import Iterable
from typing import Final

from invmm_gate.core.errors import ModelError
from invmm_gate.files.strict_json import parse_object
from invmm_gate.models.read.allowed_files import WEIGHT_PICKLES
from invmm_gate.models.read.checkpoint_files import MAX_JSON_BYTES, CheckpointFiles
from invmm_gate.models.read.safetensors_header import Header, read_header

DIFFUSERS_STEM: Final = "diffusion_pytorch_model"
"""Stem of every weights file that diffusers saves."""
TRANSFORMERS_STEM: Final = "model"
"""Stem of every weights file that transformers saves."""
PICKLE_STEMS: Final = {DIFFUSERS_STEM: DIFFUSERS_STEM, TRANSFORMERS_STEM: "pytorch_model"}
"""Stem of safetensors -> stem of the same weights as a pickle."""


def read_json(files: CheckpointFiles, path: str) -> dict[str, object]:
    """The object in a JSON file of at most 10 MB."""
    if files.files[path].size > MAX_JSON_BYTES:
        raise ModelError(f"{path!r} is larger than {MAX_JSON_BYTES:,} bytes", expected="a configuration")
    return parse_object(files.read(path), path)


def header_of(files: CheckpointFiles, path: str) -> Header:
    """The checked safetensors header of a file."""
    return files.peek(path, lambda stream: read_header(stream, size=files.files[path].size, name=path))


def find_weights(files: CheckpointFiles, prefix: str, *, stem: str) -> tuple[tuple[str, ...], dict[str, str] | None]:
    """The weights files below `prefix` and, if sharded, tensor -> file. Raises ModelError unless it is one set."""
    single, index = f"{prefix}{stem}.safetensors", f"{prefix}{stem}.safetensors.index.json"
    pickles = [f"{prefix}{PICKLE_STEMS[stem]}{suffix}" for suffix in WEIGHT_PICKLES]
    found = [path for path in (single, index, *pickles) if path in files]
    if len(found) != 1:
        what = "holds no weights: model folder without weights" if not found else f"holds {' and '.join(found)}"
        raise ModelError(f"{prefix or 'the folder'!s} {what}", expected=f"one {stem}.safetensors, whole or as shards")
    if found[0] != index:
        return (found[0],), None
    shards = _shards(files, index, prefix)
    return tuple(sorted(set(shards.values()))), shards


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
        return ModelError(
            "model folder without weights", expected="a diffusers checkpoint", do="check the path given as --model"
        )
    return ModelError(
        f"the folder holds {weights[0]!r} but neither model_index.json nor config.json",
        expected="a pipeline as diffusers saves it, or a network with its config.json",
        do="give the folder that save_pretrained wrote, or the single weights file itself",
    )
