"""Hostile safetensors headers: always a ModelError or a sound file, never another exception."""

import io
import json
import struct
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.weight_files import Header, read_header

SOUND = save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16)}, metadata={"k": "v"})


def read(data: bytes) -> Header:
    return read_header(io.BytesIO(data), size=len(data), name="file.safetensors")


def packed(header: dict[str, Any] | str, body: bytes = b"") -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_a_sound_header_is_read_in_full() -> None:
    header = read(SOUND)
    assert {key: (entry.dtype, entry.shape) for key, entry in header.tensors.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("F16", (4,)),
    }
    assert header.metadata["k"] == "v"


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 7, b"\0" * 8, struct.pack("<Q", 100_000_001) + b"{}", struct.pack("<Q", 2**63) + b"{}",
        packed("[]"), packed("{}", b"extra"), packed(" {}"), packed("{\n}"), packed('{"a":1}'),
        packed({"a": entry()}), packed({"a": entry()}, b"12345"), packed({"a": entry(dtype="F9")}, b"1234"),
        packed({"a": entry(shape=[2])}, b"1234"), packed({"a": entry(shape=[-1])}, b"1234"),
        packed({"a": entry(shape=[1.0])}, b"1234"), packed({"a": entry(shape=[True])}, b"1234"),
        packed({"a": entry(shape=[2**62, 2**62])}, b"1234"), packed({"a": entry(shape=[1] * 17)}, b"1234"),
        packed({"a": entry(data_offsets=[4, 0])}, b"1234"), packed({"a": entry(data_offsets=[0])}, b"1234"),
        packed({"a": entry(data_offsets=[4, 8])}, b"12345678"), packed({"a": entry(more=1)}, b"1234"),
        packed({"a": entry(), "b": entry()}, b"1234"),
        packed({"a": entry(), "b": entry(data_offsets=[8, 12])}, b"123456789012"),
        packed('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 1 + '"a":{}}', b"1234"),
        packed({"__metadata__": {"a": 1}}), packed({"__metadata__": []}), packed('{"a":' * 5000),
    ],
)  # fmt: skip
def test_each_breach_of_the_format_is_refused(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"file\.safetensors"):
        read(data)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_corrupted_bytes_give_a_sound_file_or_a_clear_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SOUND)
    for position, value in changes:
        data[position] = value
    _no_laxer_than_the_format(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(SOUND) - 1), st.binary(max_size=20))
def test_cut_and_extended_files_give_a_clear_error(cut: int, extra: bytes) -> None:
    _no_laxer_than_the_format(SOUND[:cut] + extra)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "auto_map", "x"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(json_values, st.binary(max_size=16))
def test_any_json_as_a_header_gives_a_sound_file_or_a_clear_error(value: Any, body: bytes) -> None:
    _no_laxer_than_the_format(packed(json.dumps(value), body))


def _no_laxer_than_the_format(data: bytes) -> None:
    """Whatever our reader accepts, the format's own reader accepts too, with the same shapes."""
    try:
        header = read(data)
    except ModelError:
        return
    try:
        tensors = load(data)
    except SafetensorError as error:
        pytest.fail(f"accepted {data[:80]!r}, but safetensors says {error}")
    assert {key: entry.shape for key, entry in header.tensors.items()} == {
        key: tuple(tensor.shape) for key, tensor in tensors.items()
    }
