"""The pictures of a model card: whole, by their format's own structure, with nothing after their end.

GIF is none of them: a GIF may be a pickle at the same time, as `G` begins both.
"""

import re
from collections.abc import Callable
from typing import Final

_SCAN_END: Final = re.compile(rb"\xff[^\x00\xd0-\xd7]", re.DOTALL)
"""The marker after a JPEG's compressed data, in which 0xff stands before 0 or a restart marker alone."""
_JPEG_FILL, _JPEG_END, _JPEG_SCAN = 0xFF, 0xD9, 0xDA


def picture_fault(data: bytes, suffix: str) -> str | None:
    """Why the bytes are not one picture of the format that the suffix names; None if they are. Pixels are not read."""
    starts, end_of = PICTURES[suffix]
    if not data.startswith(starts):
        return "is not the image that its name says"
    end = end_of(data)
    if end is None or end > len(data):
        return "is an image that breaks off"
    return f"holds {len(data) - end} bytes after the image's end" if end < len(data) else None


def _png_end(data: bytes) -> int | None:
    """Chunks of 4 bytes length, 4 bytes kind, the content and 4 bytes checksum; the last one is IEND."""
    place = 8
    while place + 12 <= len(data):
        kind = data[place + 4 : place + 8]
        place += 12 + int.from_bytes(data[place : place + 4], "big")
        if kind == b"IEND":
            return place
    return None


def _jpeg_end(data: bytes) -> int | None:
    """Segments of 2 bytes marker, 2 bytes length and the content; after a scan's header follows compressed data."""
    place = 2
    while data[place : place + 1] == b"\xff" and place + 1 < len(data):
        marker = data[place + 1]
        if marker == _JPEG_END:
            return place + 2
        if marker == _JPEG_FILL:
            place += 1
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _JPEG_SCAN:
            found = _SCAN_END.search(data, place)
            place = found.start() if found else len(data)
    return None


def _webp_end(data: bytes) -> int | None:
    """A RIFF file: its length stands after the first four bytes, without the eight before and the padding."""
    length = int.from_bytes(data[4:8], "little")
    return 8 + length + length % 2 if data[8:12] == b"WEBP" else None


PICTURES: Final[dict[str, tuple[bytes, Callable[[bytes], int | None]]]] = {
    ".png": (b"\x89PNG\r\n\x1a\n", _png_end),
    ".jpg": (b"\xff\xd8\xff", _jpeg_end),
    ".jpeg": (b"\xff\xd8\xff", _jpeg_end),
    ".webp": (b"RIFF", _webp_end),
}
"""Suffix -> how the file begins, and where it ends."""
