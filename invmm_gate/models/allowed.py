"""Which files a checkpoint may hold: an allow-list of names, backed by what the first bytes say."""

from pathlib import PurePosixPath
from typing import Final

from invmm_gate.errors import ModelError

PICKLE_SUFFIXES: Final = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".joblib", ".dill", ".pt2", ".distcp"}
)
CODE_SUFFIXES: Final = frozenset(
    {".py", ".pyc", ".pyo", ".pyd", ".pyw", ".pyx", ".pth", ".so", ".dll", ".dylib", ".exe", ".sh", ".bash", ".bat"}
    | {".ps1", ".cmd", ".ipynb", ".js", ".jar", ".class", ".whl", ".egg", ".lua", ".rb", ".pl", ".c", ".cpp", ".cu"}
)
OTHER_WEIGHTS: Final = frozenset(
    {".h5", ".hdf5", ".msgpack", ".onnx", ".gguf", ".ggml", ".pb", ".tflite", ".pdparams", ".engine", ".mlmodel"}
)
PASSIVE_SUFFIXES: Final = frozenset({".md", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".log", ".rst"})
PASSIVE_NAMES: Final = frozenset({"license", "licence", "notice", ".gitattributes", ".gitignore", "copying"})
OPAQUE_NAMES: Final = frozenset({"spiece.model"})
"""Binary files that ship with a checkpoint and are hashed, but never read: the vocabulary of a T5 tokenizer."""
IMAGE_MAGIC: Final[dict[str, tuple[bytes, ...]]] = {
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".jpeg": (b"\xff\xd8\xff",),
    ".gif": (b"GIF87a", b"GIF89a"),
    ".webp": (b"RIFF",),
}
WEIGHT_PICKLES: Final = (".bin", ".ckpt")
"""What --allow-pickle may let in, under the name of a component's weights."""

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


def refuse_name(path: str, *, allow_pickle: bool) -> None:
    """Refuse code, pickles, weights in other formats and everything not on the list, by name alone."""
    name = PurePosixPath(path).name.lower()
    suffix = PurePosixPath(name).suffix
    if suffix in PICKLE_SUFFIXES and not (allow_pickle and suffix in WEIGHT_PICKLES):
        raise refused_pickle(path, f"a pickle by its name ({suffix})")
    if suffix in CODE_SUFFIXES:
        raise ModelError(f"{path!r} is code", expected="weights and configurations only", do="remove it")
    if suffix in OTHER_WEIGHTS:
        raise ModelError(
            f"{path!r} holds weights that would not be scored", expected="safetensors only", do="remove it"
        )
    known = suffix in PASSIVE_SUFFIXES | IMAGE_MAGIC.keys() | {".safetensors", *WEIGHT_PICKLES}
    known = known or name in PASSIVE_NAMES | OPAQUE_NAMES
    if not known:
        raise ModelError(
            f"{path!r} is no file that a checkpoint needs",
            expected="weights, configurations, texts or images",
            do="remove it, or copy the checkpoint's own files to a folder of their own",
        )


def refuse_content(path: str, head: bytes) -> None:
    """Refuse a file whose first bytes (up to 512) contradict its name. Not for weights, which are parsed in full."""
    kind = magic(head)
    if kind is not None:
        raise refused_pickle(path, f"{kind} under another name")
    if PurePosixPath(path).name.lower() in OPAQUE_NAMES:
        return
    expected = IMAGE_MAGIC.get(PurePosixPath(path).suffix.lower())
    if expected is None and b"\0" in head:
        raise ModelError(f"{path!r} holds binary data", expected="text", do="remove it")
    if expected is not None and not head.startswith(expected):
        raise ModelError(f"{path!r} is not the image that its name says", expected="an image", do="remove it")


def magic(head: bytes) -> str | None:
    """What the first bytes say where they are a pickle's, an archive's or a program's; else None."""
    if head[257:262] == b"ustar":
        return "a tar archive, as old torch.save wrote it"
    return next((kind for start, kind in _PICKLE_MAGIC + _CODE_MAGIC if head.startswith(start)), None)


def refused_pickle(path: str, what: str) -> ModelError:
    """The error for a file that could run code when it is loaded."""
    do = "save the checkpoint with safe_serialization=True, without this file"
    if path.lower().endswith(WEIGHT_PICKLES):
        do += ", or pass --allow-pickle for a network's weights that you trust"
    return ModelError(f"{path!r} is {what}", expected="safetensors, which cannot run code", do=do)
