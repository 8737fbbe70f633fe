"""Small probe sets made for each test."""

import datetime
import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invmm_gate.core.records import Group, Probe
from invmm_gate.probes.manifest import write_manifest

TODAY = datetime.date(2026, 11, 21)

MakeSet = Callable[..., Path]


def noise(seed: int, *, width: int = 16, height: int = 16) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(*, width: int, height: int, depth: int, colour: int, scanlines: bytes) -> bytes:
    """A PNG written by hand: kinds and sizes that Pillow does not write, bombs that cost little to make."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            png_chunk(b"IDAT", scanlines),
            png_chunk(b"IEND", b""),
        )
    )


def zeros(count: int) -> bytes:
    """Compressed zeros, made in pieces."""
    packer = zlib.compressobj(1)
    piece = bytes(1 << 20)
    parts = [packer.compress(piece[: min(len(piece), count - start)]) for start in range(0, count, len(piece))]
    return b"".join((*parts, packer.flush()))


def make_probe(folder: Path, number: int, *, group: Group = "sensitive", data: bytes | None = None) -> Probe:
    data = encoded(noise(number)) if data is None else data
    path = f"images/p{number}.png"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)
    return Probe(
        id=f"p{number}",
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        group=group,
        line=number + 2,
        caption=f"picture {number}",
        added_on="2026-11-21",
    )


@pytest.fixture
def probe_folder(tmp_path: Path) -> Path:
    """Two sensitive probes and two controls, on lines 2 to 5."""
    folder = tmp_path / "probes"
    groups: tuple[Group, ...] = ("sensitive", "sensitive", "control", "control")
    write_manifest(folder, [make_probe(folder, number, group=group) for number, group in enumerate(groups)])
    return folder


def edit(folder: Path, old: str, new: str) -> None:
    """Change the manifest by hand."""
    path = folder / "manifest.csv"
    text = path.read_bytes().decode()
    if old not in text:
        raise ValueError(f"{old!r} is not in the manifest")
    path.write_bytes(text.replace(old, new).encode())
