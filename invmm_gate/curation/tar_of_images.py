"""A tar of images, as WebDataset has them: `0001.png` and its caption `0001.txt` or `0001.json` in one file.

Members are read at their places and never unpacked. Python's reader ends without a word at a header that it cannot
read, and passes over links; here both are refused, so that no image of a tar is missed in silence.
"""

import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, Final, final

from invmm_gate.core.errors import ModelError, ProbeSetError
from invmm_gate.curation.captions_beside import LIMIT, caption_in, captions_of
from invmm_gate.curation.training_entries import NO_IMAGE, Columns, Entry, is_opened, lies_beside
from invmm_gate.curation.training_rows import label_in, too_large
from invmm_gate.files.regular import open_regular
from invmm_gate.files.strict_json import parse_object

_PIECE: Final = 1 << 20
"""Bytes that are read at once to the end of the file."""


@dataclass(frozen=True, slots=True)
class _Member:
    """Where a file lies in the tar."""

    name: str
    start: int
    """Its first byte."""
    size: int
    """Bytes."""


@final
class TarOfImages:
    """The regular files of an unpacked tar, in its order. All headers are read before an image is used."""

    root = None

    def __init__(self, place: Path, columns: Columns) -> None:
        if columns.dated or columns.marked_by:
            raise ProbeSetError(
                f"{str(place)!r} is a tar, which has no columns",
                expected="a table where a date or a sensitive column is asked for",
                do="list the images in a table, or leave the option out",
            )
        self.place, self._columns = place, columns
        members = {member.name: member for member in _members(place)}
        captions = captions_of(members, place=str(place))
        described = ((name, str(PurePosixPath(name).with_suffix(".json"))) for name in members.keys() - captions.keys())
        self._captions = {name: members[found] for name, found in (*captions.items(), *described) if found in members}
        used = set(captions.values())
        self._members = [member for name, member in members.items() if name not in used]
        if all(lies_beside(member.name) for member in self._members):
            raise ProbeSetError(f"{str(place)!r} holds no images", expected="PNG, JPEG or WebP files in the tar")

    def count(self) -> int:
        """Members, but for captions and the like."""
        return sum(not lies_beside(member.name) for member in self._members)

    def names(self) -> Iterator[str]:
        """`shard.tar/0001.png` of each."""
        return (f"{self.place.name}/{member.name}" for member in self._members)

    def entries(self, only: Collection[int] | None = None) -> Iterator[Entry]:
        """The members, each read when it is its turn."""
        with _opened(self.place) as file:
            for position in range(len(self._members)) if only is None else sorted(only):
                yield self._entry(file, position)

    def _entry(self, file: BinaryIO, position: int) -> Entry:
        member = self._members[position]
        data, problem = b"", too_large(member.size)
        if not problem:
            data = _read(file, member, limit=member.size)
            data, problem = (data, "") if is_opened(data) else (b"", NO_IMAGE)
        return Entry(
            position=position,
            name=f"{self.place.name}/{member.name}",
            data=data,
            problem=problem,
            **({} if problem else self._told(file, member.name)),
            beside=bool(problem) and lies_beside(member.name),
        )

    def _told(self, file: BinaryIO, name: str) -> dict[str, Any]:
        """The caption and the label of an image, where the tar has them."""
        member = self._captions.get(name)
        if member is None:
            return {}
        data, shown = _read(file, member, limit=LIMIT), f"{self.place.name}/{member.name}"
        if member.name.endswith(".json"):
            return _described(data, shown, self._columns)
        return {"caption": caption_in(data, shown)}


def _described(data: bytes, name: str, columns: Columns) -> dict[str, Any]:
    """Caption and label in the description of an image, where they are there. Raises ProbeSetError."""
    try:
        cells = parse_object(data, name)
    except ModelError as error:
        raise ProbeSetError(error.found, expected="a JSON object beside its image") from error
    found = next((cells[column] for column in columns.of("caption") if column in cells), "")
    label = next((cells[column] for column in columns.of("label") if column in cells), None)
    return {"caption": found if isinstance(found, str) else "", "label": label_in(label, name)}


def _opened(place: Path) -> BinaryIO:
    try:
        return open_regular(place, follow_links=True)
    except OSError as error:
        raise ProbeSetError(f"{place} cannot be read ({error.strerror})", expected="a tar") from error


def _read(file: BinaryIO, member: _Member, *, limit: int) -> bytes:
    """A member's bytes, and at most one more than the limit."""
    file.seek(member.start)
    return file.read(min(member.size, limit + 1))


def _members(place: Path) -> Iterator[_Member]:
    """Each regular file. Raises ProbeSetError for any other kind of member, and unless the tar is whole."""
    names: set[str] = set()
    try:
        with _opened(place) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            kept: Any = tar  # whose list of members has no types
            while (member := tar.next()) is not None:
                kept.members.clear()  # else it would keep all of them, a kilobyte each
                _check(member, place, names)
                if member.isreg():
                    names.add(member.name)
                    yield _Member(member.name, member.offset_data, member.size)
            _check_end(file, tar.offset, place)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise ProbeSetError(
            f"{place} cannot be read as a tar ({str(error)[:200]})", expected="a whole tar that is not packed"
        ) from error


def _check(member: tarfile.TarInfo, place: Path, names: Collection[str]) -> None:
    """Raises ProbeSetError for a member that is no file or folder inside the tar, or that is there twice."""
    name = member.name
    found = _kind_problem(member) or _name_problem(name) or ("is there twice" if name in names else "")
    if found:
        raise ProbeSetError(
            f"the tar {str(place)!r}: {name[:200]!r} {found}",
            expected="images as regular files, each under a name of its own inside the tar",
            do="pack the files anew, without links; nothing of it was used",
        )


def _kind_problem(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"is a link to {member.linkname[:200]!r}"
    if member.isreg() and not PurePosixPath(member.name).name:
        return "has no name"
    return (
        "" if member.isdir() or (member.isreg() and not member.issparse()) else "is a device, a pipe or a sparse file"
    )


def _name_problem(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or PureWindowsPath(name).drive or name.startswith("\\"):
        return "has an absolute path"
    return "leads outside the tar" if ".." in (*path.parts, *PureWindowsPath(name).parts) else ""


def _check_end(file: BinaryIO, end: int, place: Path) -> None:
    """Raises ProbeSetError unless zeros alone follow the last member: else there is more that was not read."""
    file.seek(end)
    while piece := file.read(_PIECE):
        if piece.strip(b"\0"):
            raise ProbeSetError(
                f"the tar {str(place)!r} goes on behind byte {end:,}, where its last member ends",
                expected="a whole tar; one that others were appended to shows only the first",
                do="pack the files anew; nothing of it was used",
            )
