"""The content that a file of a checkpoint must have, by its name.

Whatever is no weights file that is scored must be of a kind from which no library reads weights, whatever follows its
first bytes. `torch.load` reads archives, and pickles that hold PyTorch's magic number: its bytes never occur in UTF-8,
and no pickle begins as the pictures and the binary files below do.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Final

from invmm_gate.core.errors import ModelError
from invmm_gate.files.git_lfs import FETCH

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


PICKLE_SUFFIXES: Final = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".joblib", ".dill", ".pt2", ".distcp"}
)
CODE_SUFFIXES: Final = frozenset(
    {".py", ".pyc", ".pyo", ".pyd", ".pyw", ".pyx", ".pth", ".so", ".dll", ".dylib", ".exe", ".sh", ".bash", ".bat"}
    | {".ps1", ".cmd", ".ipynb", ".js", ".jar", ".class", ".whl", ".egg", ".lua", ".rb", ".pl", ".c", ".cpp", ".cu"}
)
OTHER_WEIGHTS: Final = frozenset(
    {".h5", ".hdf5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".ggml", ".pb", ".tflite", ".pdparams", ".engine"}
    | {".mlmodel", ".safetensors"}
)
_QUANTISED: Final = frozenset({".gguf", ".ggml"})
SPIECES: Final = frozenset({"spiece.model", "tokenizer.model"})
"""Binary; hashed, never read: the vocabulary of a T5, Gemma or Llama tokenizer, which `tokenizer.json` says again."""
SYSTEM_FILES: Final[dict[str, tuple[bytes, ...]]] = {
    ".ds_store": (b"\0\0\0\x01Bud1",),
    "thumbs.db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",),
    "desktop.ini": (b"\xff\xfe", b"[", b"\r\n["),
}
"""What macOS and Windows leave in any folder that somebody looks at, and how it begins."""
WEIGHT_PICKLES: Final = (".bin", ".ckpt")
"""What --allow-pickle may let in, under the name of a component's weights."""

MOST_NAMED: Final = 10
"""Files that one refusal names."""
_PICKLE_SHARD: Final = re.compile(r"-\d{5}-of-\d{5}.*\.bin$|\.bin\.index(\.\w+)?\.json$")
_WEIGHTS: Final = OTHER_WEIGHTS | PICKLE_SUFFIXES
_VARIANTS: Final = (".fp16.", ".fp32.", ".bf16.", ".non_ema.", ".ema.", ".int8.", ".fp16-", ".bf16-")
_ADAPTERS: Final = ("adapter", "lora", "textual_inversion", "learned_embeds")
_PICKLE_MAGIC: Final = (
    *((bytes([0x80, protocol]), f"a pickle (protocol {protocol})") for protocol in range(2, 6)),
    (b"PK\x03\x04", "a zip archive, as torch.save writes it"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x93NUMPY", "a numpy file"),
)
_CODE_MAGIC: Final = (
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a script"),
    (b"\x1f\x8b", "a compressed archive"),
    (b"BZh", "a compressed archive"),
    (b"\xfd7zXZ", "a compressed archive"),
    (b"(\xb5/\xfd", "a compressed archive"),
    (b"7z\xbc\xaf", "a compressed archive"),
)
_CONTROL: Final = bytes(sorted(set(range(0x20)) - set(b"\t\n\f\r")))


def _is_guidance(place: PurePosixPath) -> bool:
    return any(part.startswith(("controlnet", "ip_adapter", "ip-adapter", "t2i_adapter")) for part in place.parts)


_KINDS: Final[tuple[tuple[str, Callable[[PurePosixPath], bool]], ...]] = (
    ("a git repository's own folder", lambda place: place.name == ".git"),
    ("a part of pickled weights", lambda place: bool(_PICKLE_SHARD.search(place.name))),
    ("quantised weights", lambda place: place.suffix in _QUANTISED),
    ("a ControlNet or an adapter, which nobody scores", _is_guidance),
    ("a pickle by its name", lambda place: place.suffix in PICKLE_SUFFIXES),
    ("code", lambda place: place.suffix in CODE_SUFFIXES),
    ("an adapter", lambda place: any(word in place.name for word in _ADAPTERS)),
    ("the index of another pipeline", lambda place: place.name == "model_index.json"),
    ("a variant of weights", lambda place: place.suffix in _WEIGHTS and any(mark in place.name for mark in _VARIANTS)),
    ("weights", lambda place: place.suffix in _WEIGHTS),
)
"""Kind of a file -> whether it is one, by its path in lower case; the first that fits."""


def kind_of(path: str, *, allow_pickle: bool = False) -> str:
    """The kind of a file that nothing scores, in a few words for a message."""
    place = PurePosixPath(path.lower())
    let_in = allow_pickle and place.suffix in WEIGHT_PICKLES
    for kind, fits in _KINDS:
        if fits(place) and not (let_in and kind == "a pickle by its name"):
            return f"{kind} ({place.suffix})" if kind == "a pickle by its name" else kind
    return "no part of a checkpoint"


def lfs_pointers(paths: Sequence[str]) -> ModelError:
    """The error for files that Git LFS has not fetched."""
    named = ", ".join(map(repr, sorted(paths)[:MOST_NAMED]))
    more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
    several = len(paths) > 1
    return ModelError(
        f"{named}{more} {'are Git LFS pointers' if several else 'is a Git LFS pointer'} of a few lines, not the "
        f"{'files themselves' if several else 'file itself'}",
        expected="the content that Git LFS keeps elsewhere",
        do=FETCH,
    )


def refuse_content(path: str, data: bytes) -> None:
    """Raises ModelError where a file does not hold what its name says. Not for weights, which are parsed in full."""
    name = PurePosixPath(path).name.lower()
    suffix = PurePosixPath(name).suffix
    kind = magic(data[:512])
    if kind is not None:
        raise refused_pickle(path, f"{kind} under another name")
    if suffix in PICTURES:
        fault = picture_fault(data, suffix)
        if fault is not None:
            raise ModelError(f"{path!r} {fault}", expected="one whole picture, and nothing after it", do="remove it")
    elif name in SPIECES:
        if not is_sentencepiece(data):
            raise ModelError(f"{path!r} is no SentencePiece model", expected="that of a T5, Gemma or Llama tokenizer")
    elif name in SYSTEM_FILES:
        if data and not data.startswith(SYSTEM_FILES[name]):
            raise ModelError(f"{path!r} is not what its name says", expected="a system's own file", do="remove it")
    else:
        _refuse_binary(path, data)


def _refuse_binary(path: str, data: bytes) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{path!r} is not UTF-8: byte {error.start} is {data[error.start]:#04x}",
            expected="text",
            do="remove it, or save it as UTF-8",
        ) from error
    if data.translate(None, _CONTROL) != data:
        raise ModelError(f"{path!r} holds binary data", expected="text without control characters", do="remove it")


def magic(head: bytes) -> str | None:
    """What the first bytes say where they are a pickle's, an archive's or a program's; else None."""
    if _is_tar(head):
        return "a tar archive, as old torch.save wrote it"
    return next((kind for start, kind in _PICKLE_MAGIC + _CODE_MAGIC if head.startswith(start)), None)


def _is_tar(head: bytes) -> bool:
    """By the magic of today's format, or the checksum of the old one, which begins with any bytes."""
    if head[257:262] == b"ustar":
        return True
    stated = head[148:156].strip(b"\0 ")
    digits = len(head) == 512 and stated.isdigit() and not stated.strip(b"01234567")
    return digits and int(stated, 8) == sum(head[:148]) + 8 * ord(" ") + sum(head[156:])


def refused_pickle(path: str, what: str) -> ModelError:
    """The error for a file that could run code when it is loaded."""
    do = "save the checkpoint with safe_serialization=True, without this file"
    if path.lower().endswith(WEIGHT_PICKLES):
        do += ", or pass --allow-pickle for a network's weights that you trust"
    return ModelError(f"{path!r} is {what}", expected="safetensors, which cannot run code", do=do)
