"""The files of a checkpoint: walked without following a link, opened only if regular, read only if unchanged."""

import errno
import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Final, final

from invmm_gate.core.errors import ModelError
from invmm_gate.core.records import ModelFile
from invmm_gate.files.regular import SpecialFileError, open_regular

MAX_FILES: Final = 10_000
MAX_DEPTH: Final = 8
MAX_JSON_BYTES: Final = 10_000_000
MAX_TOKENIZER_BYTES: Final = 50_000_000
"""Of a `tokenizer.json`; that of Qwen3 has 11 MB."""
GIT: Final = ".git"
"""A folder that is named and not walked: git keeps thousands of files there, and none of them is released."""


@final
@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """The files of an inspected checkpoint, by their path relative to `root`."""

    root: Path
    files: Mapping[str, ModelFile]
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    """Where files lie that are part of the model and not below `root`, by their reserved names."""
    faults: Mapping[str, ModelError] = field(default_factory=dict)
    """What is wrong with the content of a file; whoever reads it gets this error."""

    def place(self, path: str) -> tuple[Path, str]:
        """The folder that a file lies in and its path below it."""
        outside = self.elsewhere.get(path)
        return (self.root, path) if outside is None else (outside.parent, outside.name)

    def __contains__(self, path: str) -> bool:
        return path in self.files

    def read(self, path: str) -> bytes:
        """The file's bytes, read once. Raises ModelError unless they have the sha256 that was inspected."""
        with self.open(path) as stream:
            data = stream.read(self.files[path].size + 1)
        if hashlib.sha256(data).hexdigest() != self.files[path].sha256:
            raise changed(path)
        return data

    def open(self, path: str) -> BufferedReader:
        """The open file; for headers, whose bytes are checked again when they are loaded."""
        if path in self.faults:
            raise self.faults[path]
        return open_file(*self.place(path))


def changed(path: str) -> ModelError:
    """The error for a file that is not the one that was inspected."""
    return ModelError(
        f"{path!r} changed since the checkpoint was inspected",
        expected="the same bytes for the whole run",
        do="let the writer of the checkpoint finish, then run again",
    )


def list_files(root: Path) -> tuple[str, ...]:
    """Posix paths of all files below `root`, sorted. Raises ModelError for a link, a device or an unsafe name."""
    found: list[str] = []
    _walk(root, "", found)
    return tuple(sorted(found))


def _walk(root: Path, prefix: str, found: list[str]) -> None:
    if prefix.count("/") > MAX_DEPTH:
        raise ModelError(f"folder {prefix!r} lies too deep", expected=f"at most {MAX_DEPTH} levels")
    try:
        with os.scandir(root / prefix) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        _refuse_collisions(prefix, [entry.name for entry in entries])
        for entry in entries:
            _visit(root, prefix, entry, found)
    except OSError as error:
        raise unreadable(prefix or str(root), error) from error


def _visit(root: Path, prefix: str, entry: os.DirEntry[str], found: list[str]) -> None:
    path = prefix + entry.name
    mode = entry.stat(follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode) and entry.name != GIT:
        _walk(root, path + "/", found)
        return
    if stat.S_ISDIR(mode):
        found.append(path)
        return
    _refuse_unless_regular(path, mode)
    found.append(path)
    if len(found) > MAX_FILES:
        raise ModelError(f"more than {MAX_FILES} files below {str(root)!r}", expected="one checkpoint's files")


def _refuse_unless_regular(path: str, mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise _symlink(path)
    if not stat.S_ISREG(mode):
        raise _special(path)


def _special(path: str) -> ModelError:
    return ModelError(f"{path!r} is a folder, pipe or device", expected="regular files only", do="remove it")


def _symlink(path: str) -> ModelError:
    return ModelError(
        f"{path!r} is a symbolic link",
        expected="regular files only",
        do="copy the checkpoint with its links resolved (cp -rL SOURCE TARGET) and check the copy",
    )


def _refuse_collisions(prefix: str, names: list[str]) -> None:
    """Names that a case-insensitive or normalising file system would take for one another."""
    seen: dict[str, str] = {}
    for name in names:
        refuse_unsafe_name(prefix + name)
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            raise ModelError(
                f"{prefix + seen[key]!r} and {prefix + name!r} differ only in case or in Unicode form",
                expected="names that every file system keeps apart",
                do="rename or remove one of them",
            )
        seen[key] = name


def refuse_unsafe_name(path: str) -> None:
    """Control, format and undecodable characters and backslashes; Unicode category C covers the first three."""
    if "\\" in path or any(unicodedata.category(character)[0] == "C" for character in path):
        raise ModelError(
            f"file name {path!a} holds a control character or a backslash", expected="plain names", do="rename it"
        )


def open_file(root: Path, path: str) -> BufferedReader:
    """Open without following a link; raises ModelError unless it is a regular file."""
    try:
        return open_regular(root / path, follow_links=False)
    except SpecialFileError as error:
        raise _special(path) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _symlink(path) from error
        raise unreadable(path, error) from error


def hash_file(root: Path, path: str) -> tuple[ModelFile, bytes]:
    """Size and sha256 of a file, with its first 512 bytes. Raises ModelError for one that has a second name."""
    with open_file(root, path) as stream:
        _refuse_second_name(stream, path)
        head = stream.read(512)
        stream.seek(0)
        try:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(path, error) from error
        return ModelFile(path=path, size=stream.tell(), sha256=sha256), head


def _refuse_second_name(stream: BufferedReader, path: str) -> None:
    """Who may write under the other name changes these bytes, whoever owns this folder, also after the verdict."""
    names = os.fstat(stream.fileno()).st_nlink
    if names > 1:
        raise ModelError(
            f"{path!r} is a hard link: {names} names stand for the same bytes",
            expected="files of the checkpoint's own, which nobody changes under another name",
            do="copy the folder (cp -r --reflink=auto SOURCE TARGET); with DVC: dvc config cache.type reflink,copy "
            "and dvc checkout --relink",
        )


def unreadable(path: str, error: OSError) -> ModelError:
    """The error for a file or folder that the operating system does not let us read."""
    return ModelError(
        f"{path!r} cannot be read: {error.strerror or error}",
        expected="a readable checkpoint",
        do="check the path and its permissions",
    )


def digest_of(files: Iterable[ModelFile]) -> str:
    """sha256 over sorted lines `path NUL size NUL sha256 LF`; paths are posix, relative and in Unicode form NFC."""
    lines = sorted(f"{unicodedata.normalize('NFC', file.path)}\0{file.size}\0{file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
