"""Whether a file is a SentencePiece model, by the outline that its format (protobuf) gives it. Nothing is decoded."""

from typing import Final

_FIELDS: Final = frozenset(number << 3 | 2 for number in range(1, 6))
"""Tags of pieces, trainer, normalizer, self-test and denormalizer: fields 1 to 5, each with a length before it."""


def is_sentencepiece(data: bytes) -> bool:
    """Whether the bytes are fields of a SentencePiece model from the first to the last, pieces first."""
    place = 0
    while place < len(data) and data[place] in _FIELDS:
        length, place = _varint(data, place + 1)
        if length is None:
            return False
        place += length
    return data.startswith(b"\x0a") and place == len(data)


def _varint(data: bytes, place: int) -> tuple[int | None, int]:
    """A number of up to five groups of seven bits, lowest first, and the place after it; None where it breaks off."""
    value = 0
    for shift, byte in enumerate(data[place : place + 5]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, place + shift + 1
    return None, place
