"""Folders of training images: with caption files beside them, or with a `metadata` table that names them."""

import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Final, final

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.curation.captions_beside import LIMIT, caption_in, captions_of
from invmm_gate.curation.training_entries import VERSIONS, Entry, TrainingData, lies_beside, read_image_file
from invmm_gate.files.regular import read_probe_file

METADATA: Final = ("metadata.csv", "metadata.jsonl")
"""Tables of a folder that `datasets` knows: `file_name` and `text` of each image."""
_IN_ITS_CLASS: Final = 2
"""Parts of the path of an image that lies directly in the folder of its class."""
_COPIES: Final = "is of version control: what it holds are copies, which would pass for duplicates"


@final
class FolderOfImages:
    """All files below a folder, in the order of their paths. What is no image is told of; links are not followed.

    A caption file belongs to its image and is no entry.
    """

    def __init__(self, place: Path, *, class_folders: bool = False) -> None:
        self.place = self.root = place
        found = sorted(_walk(place))
        self._captions = captions_of(found, place=str(place))
        used = set(self._captions.values())
        self._names = [name for name in found if name not in used]
        if all(map(lies_beside, self._names)):
            raise ProbeSetError(
                f"{str(place)!r} holds no images", expected="PNG, JPEG or WebP files in it or in folders below it"
            )
        _check_metadata(place, self._names)
        self._classes = _classes(place, self._names) if class_folders else {}

    def count(self) -> int:
        """Files and links, but for captions and the like: they need no memory and no time."""
        return sum(not lies_beside(name) for name in self._names)

    def names(self) -> Iterator[str]:
        """Their paths below the folder."""
        return iter(self._names)

    def entries(self, only: Collection[int] | None = None) -> Iterator[Entry]:
        """The files, each read when it is its turn."""
        for position in range(len(self._names)) if only is None else sorted(only):
            name = self._names[position]
            caption = self._captions.get(name)
            text = caption_in(read_probe_file(self.place / caption, limit=LIMIT), caption) if caption else ""
            label = self._classes.get(PurePath(name).parts[0])
            yield replace(_file(self.place, name, position), caption=text, label=label)


@final
class FolderWithTable:
    """A folder whose images a `metadata` table names. A file that the table leaves out is told of."""

    def __init__(self, place: Path, table: TrainingData) -> None:
        self.place = self.root = place
        self._table = table
        self._count = sum(1 for _ in table.names())
        named = {_below(place, name) for name in table.names()}
        self._others = sorted(name for name in _walk(place) if name not in named and name != table.place.name)
        _check_metadata(place, self._others)

    def count(self) -> int:
        """Rows, and images beside them."""
        return self._table.count() + sum(not lies_beside(name) for name in self._others)

    def names(self) -> Iterator[str]:
        """The paths that the table states, then those of the other files."""
        yield from self._table.names()
        yield from self._others

    def entries(self, only: Collection[int] | None = None) -> Iterator[Entry]:
        """The rows, then the other files, none of which can be used."""
        yield from self._table.entries(only)
        for position, name in enumerate(self._others, self._count):
            if only is None or position in only:
                found = _file(self.place, name, position)
                yield replace(found, data=b"", problem=found.problem or f"is not named in {self._table.place.name}")


def _classes(place: Path, names: Collection[str]) -> dict[str, int]:
    """Folder -> its number in the order of names. Raises ProbeSetError for an image that lies in none."""
    paths = [PurePath(name) for name in names if not lies_beside(name)]
    outside = next((path for path in paths if len(path.parts) == 1), None)
    if outside is not None:
        raise ProbeSetError(
            f"{str(place / outside)!r} lies in no folder of a class",
            expected="every image in a folder, which stands for its class",
            do="move it into one, or leave the option out",
        )
    _refuse_other_numbering(place, paths)
    return {name: number for number, name in enumerate(sorted({path.parts[0] for path in paths}))}


def _refuse_other_numbering(place: Path, paths: Collection[PurePath]) -> None:
    """Raises ProbeSetError for folders of which nobody can say how training numbered them: tools differ."""
    folders = sorted({path.parts[0] for path in paths})
    hidden = next((name for name in folders if name.startswith((".", "__"))), None)
    if hidden is not None:
        raise ProbeSetError(
            f"{str(place / hidden)!r} holds images, and looks like no class: torchvision counts it as one, "
            "datasets does not",
            expected="folders of classes alone",
            do="move it elsewhere, if training did not read it, or number the classes with --column label=NAME",
        )
    direct = {path.parts[0] for path in paths if len(path.parts) == _IN_ITS_CLASS}
    outer = next((name for name in folders if name not in direct), None)
    if outer is not None:
        raise ProbeSetError(
            f"{str(place / outer)!r} holds no images, only folders with images: torchvision takes it for the class, "
            "datasets takes the folders in it",
            expected="a folder of classes, which hold their images",
            do="name the folder that holds the classes, such as that of a split, or number the classes with "
            "--column label=NAME",
        )


def _below(folder: Path, name: str) -> str:
    """A path that a table states, as the walk through the folder states it."""
    path = PurePath(name)
    return (path.relative_to(folder.absolute()) if path.is_relative_to(folder.absolute()) else path).as_posix()


def _file(folder: Path, name: str, position: int) -> Entry:
    data, problem = (b"", _COPIES) if PurePath(name).name in VERSIONS else read_image_file(folder, name)
    return Entry(position=position, name=name, data=data, problem=problem, beside=bool(problem) and lies_beside(name))


def _check_metadata(folder: Path, names: Collection[str]) -> None:
    """Raises ProbeSetError for a table that describes images and would not be read."""
    found = next((name for name in names if PurePath(name).name in METADATA), None)
    if found is not None:
        raise ProbeSetError(
            f"{str(folder / found)!r} describes images, and would not be read",
            expected="one such table, in the folder that is named",
            do=f"name the folder that holds it, {str((folder / found).parent)!r}, or rename a table of another kind",
        )


def _walk(folder: Path) -> Iterator[str]:
    def failed(error: OSError) -> None:
        raise ProbeSetError(
            f"{str(error.filename)!r} cannot be listed ({error.strerror})", expected="a folder that this user may read"
        ) from error

    for parent, folders, files in os.walk(folder, onerror=failed):
        unopened = [name for name in folders if name in VERSIONS or Path(parent, name).is_symlink()]
        folders[:] = sorted(set(folders).difference(unopened))
        yield from (Path(parent, name).relative_to(folder).as_posix() for name in [*files, *unopened])
