"""Entries of the training data: an image, and what a table's columns say of it. Some files are left out by name."""

import datetime
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Final, Protocol

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.files.regular import IMAGE_LIMIT, read_head, read_probe_file

BESIDE: Final = frozenset(
    (".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".ini", ".md", ".html")
) | {".cls", ".npz", ".log", ".py", ".sha256", ".gitattributes", ".gitignore", ".ds_store", "thumbs.db"}
"""Suffixes and whole names of what lies beside images: captions, metadata, labels, latents that a trainer keeps.

All other files are images for all that is known: what cannot be opened is told of, as training may have used it.
"""
VERSIONS: Final = frozenset((".git", ".dvc", ".hg", ".svn"))
"""Folders of version control."""
NO_IMAGE: Final = "is not PNG, JPEG or WebP"
_HEAD: Final = 16
"""Bytes that tell what a file is."""
ROLES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "path": ("path", "file_name"),
        "image": ("image",),
        "caption": ("caption", "text"),
        "date": ("date",),
        "label": (),
    }
)
"""What a column of a table can be for, and the columns that are taken for it: the first one that is there.

A column of labels is read only where it is named: many tables have one that is no class of a model.
"""
_YES: Final = ("1", "1.0", "true", "t", "yes", "y")
_NO: Final = ("", "0", "0.0", "false", "f", "no", "n", "none", "nan")
_KINDS: Final = 8
"""Suffixes of files that are told apart in a count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image of the training data, or why it cannot be read."""

    position: int
    """Its number in the source, from 0."""
    name: str
    """Its path as the source states it; `shard.tar/0001.jpg`; `shard.parquet/row 2` of a table that holds images."""
    data: bytes = b""
    problem: str = ""
    caption: str = ""
    label: int | None = None
    """Its class, for class-conditional models; None where the source gives none."""
    date: datetime.date | None = None
    marked: bool = False
    """Whether the column that was asked for marks it as sensitive."""
    value: str | None = None
    """What its cell in that column says; None without such a column."""
    beside: bool = False
    """Whether it is no image but a file that lies beside images."""


class TrainingData(Protocol):
    """Something that holds training images."""

    @property
    def place(self) -> Path:
        """The folder or file."""
        ...

    @property
    def root(self) -> Path | None:
        """Where the entries' names begin; None where the images lie in the file itself."""
        ...

    def count(self) -> int:
        """Entries, those that cannot be read included."""
        ...

    def names(self) -> Iterator[str]:
        """The names of all entries, in order; no image is read."""
        ...

    def entries(self, only: Collection[int] | None = None) -> Iterator[Entry]:
        """The entries in order, with their bytes; or those at some positions only. One at a time in memory."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a table are read, and for what."""

    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Role -> the name of its column, where that is another one."""
    dated: bool = False
    """Whether every row must have a date."""
    marked_by: str = ""
    """The column that marks an image as sensitive; empty for none."""
    marked_value: str | None = None
    """The value that does; None where a cell says yes or no."""

    class_folders: bool = False
    """Whether each folder of a folder of images is a class."""
    described: bool = False
    """Whether the table is the `metadata` file of a folder, where `file_name` and `text` come first."""

    def of(self, role: str) -> tuple[str, ...]:
        """The columns for a role, the best first; the named one alone, where one is named."""
        known = ROLES[role]
        return (self.names[role],) if role in self.names else known[::-1] if self.described else known

    def marks(self, value: object, *, place: str) -> bool:
        """Whether a cell marks its row as sensitive. Raises ProbeSetError for one that says neither yes nor no."""
        text = text_of(value)
        if self.marked_value is not None:
            return text == self.marked_value
        if text.casefold() not in (*_YES, *_NO):
            raise ProbeSetError(
                f"{place}: {self.marked_by} {text[:60]!r} says neither yes nor no",
                expected=f"{', '.join(_YES)}; or nothing, {', '.join(filter(None, _NO))}",
                do=f"correct it, or name the value that marks an image: --sensitive-column {self.marked_by}=VALUE",
            )
        return text.casefold() in _YES


def text_of(cell: object) -> str:
    """A cell as it is compared with yes, no, or the value that marks an image."""
    return "" if cell is None else str(cell).strip()


def lies_beside(name: str) -> bool:
    """Whether a file's name is that of a caption, of metadata or of version control. What it holds counts for more."""
    path = PurePath(name)
    return path.name in VERSIONS or not BESIDE.isdisjoint((path.suffix.lower(), path.name.lower()))


def read_image_file(root: Path, name: str) -> tuple[bytes, str]:
    """The bytes of a file below `root`, or what is wrong with it: outside the root, behind a link, too large, no image.

    What it holds decides whether it is an image, not what it is called.
    """
    found = path_problem(root, name)
    if found:
        return b"", found
    try:
        if not is_opened(read_head(root / name, _HEAD)):
            return b"", NO_IMAGE
        return read_probe_file(root / name, limit=IMAGE_LIMIT), ""
    except ProbeSetError as error:
        return b"", error.found
    except ValueError:
        return b"", "has a path with a NUL"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An image that was not used, and why."""

    name: str
    reason: str


def of_kinds(left_out: Sequence[LeftOut]) -> str:
    """How many files of which suffix were left out, in brackets; empty for none."""
    counts = Counter(PurePath(left.name).suffix.lower() or "without suffix" for left in left_out)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common(_KINDS))
    rest = sum(count for _, count in counts.most_common()[_KINDS:])
    return f" ({kinds}{f', {rest:,} others' if rest else ''})" if counts else ""


def is_opened(head: bytes) -> bool:
    """Whether a file begins as PNG, JPEG or WebP do."""
    return head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP")


def path_problem(root: Path, name: str) -> str:
    """Why a path is not read: it is empty, leads outside the root, or lies behind a link; empty if nothing is wrong."""
    path = PurePath(name)
    if not name:
        return "has an empty path"
    if (path.is_absolute() and not path.is_relative_to(root.absolute())) or ".." in path.parts:
        return f"leads outside {str(root)!r}"
    step = root
    for part in (path.relative_to(root.absolute()) if path.is_absolute() else path).parts:
        step = step / part
        try:
            if step.is_symlink():
                return "is or lies behind a symbolic link"
        except (OSError, ValueError):
            return ""  # reported when the file is opened
    return ""
