"""The header of a safetensors file, checked in full before any library reads the file.

Layout: 8 bytes little-endian header length, the header as JSON, the buffer. The rules are those of the
format's own reader (contiguous, no overlap, nothing uncovered), with a smaller cap on the header.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Final

from invmm_gate.core.errors import ModelError
from invmm_gate.files.strict_json import parse_object

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
