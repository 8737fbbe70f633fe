"""Training data to choose probes from, one image at a time: a folder, or a table in CSV or Parquet."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path, PurePath
from typing import Final, Protocol, final

from invmm_gate.core.errors import ConfigError, ProbeSetError
from invmm_gate.core.options import BuildOptions
from invmm_gate.curation.training_entries import VERSIONS, Columns, Entry, lies_beside, read_image_file
from invmm_gate.curation.training_tables import CsvTable, ParquetTable

_COPIES: Final = "is of version control: what it holds are copies, which would pass for duplicates"


class TrainingData(Protocol):
    """Something that holds training images."""

    @property
    def place(self) -> Path:
        """The folder or file."""
        ...

    @property
    def root(self) -> Path | None:
        """Where the entries' names begin; None for a table that holds the images themselves."""
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


def open_training_data(place: Path, columns: Columns, *, images: Path | None = None) -> TrainingData:
    """The training data at a place. `images` is where the paths of a table begin; by default the table's folder.

    Raises ProbeSetError for a place that is neither a folder nor a table, or that lacks a column.
    """
    if place.is_dir():
        if columns.dated or columns.marked_by:
            raise ProbeSetError(
                f"{str(place)!r} is a folder, which has no columns",
                expected="a .parquet or .csv file where a date or a sensitive column is asked for",
                do="list the images in a table, or leave the option out",
            )
        return FolderOfImages(place)
    suffix = place.suffix.lower()
    if not place.is_file() or suffix not in {".csv", ".parquet"}:
        found = "is not a folder, .csv or .parquet file" if place.exists() else "does not exist"
        raise ProbeSetError(f"training data {str(place)!r} {found}", expected="a folder of images, or a table")
    root = images or place.parent
    return CsvTable(place, columns, root) if suffix == ".csv" else ParquetTable(place, columns, root)


@final
class FolderOfImages:
    """All files below a folder, in the order of their paths. What is no image is told of; links are not followed."""

    def __init__(self, place: Path) -> None:
        self.place = self.root = place
        self._names = sorted(_walk(place))
        if all(map(lies_beside, self._names)):
            raise ProbeSetError(
                f"{str(place)!r} holds no images", expected="PNG, JPEG or WebP files in it or in folders below it"
            )

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
            versions = PurePath(name).name in VERSIONS
            data, problem = (b"", _COPIES) if versions else read_image_file(self.place, name)
            beside = bool(problem) and lies_beside(name)
            yield Entry(position=position, name=name, data=data, problem=problem, beside=beside)


def _walk(folder: Path) -> Iterator[str]:
    def failed(error: OSError) -> None:
        raise ProbeSetError(
            f"{str(error.filename)!r} cannot be listed ({error.strerror})", expected="a folder that this user may read"
        ) from error

    for parent, folders, files in os.walk(folder, onerror=failed):
        unopened = [name for name in folders if name in VERSIONS or Path(parent, name).is_symlink()]
        folders[:] = sorted(set(folders).difference(unopened))
        yield from (Path(parent, name).relative_to(folder).as_posix() for name in [*files, *unopened])


def located(source: TrainingData, names: Iterable[str]) -> Iterator[str]:
    """The absolute path without links that each name of a source leads to; empty where the images lie in a table."""
    if source.root is None:
        yield from ("" for _ in names)
        return
    stated, real = source.root.absolute(), source.root.resolve()
    for name in names:
        path = PurePath(name)
        yield str(real / (path.relative_to(stated) if path.is_relative_to(stated) else path))


def check_places(options: BuildOptions) -> None:
    """Raises ConfigError for a place named twice, for folders that contain one another or the new probe set."""
    places = [place.resolve() for place in (*options.sources, *options.controls_from)]
    for first, second in combinations(places, 2):
        if first == second:
            raise ConfigError(f"{str(second)!r} is named twice", expected="each folder or table once")
        inner, outer = (first, second) if first.is_relative_to(second) else (second, first)
        if inner.is_relative_to(outer) and inner.is_dir():
            raise ConfigError(
                f"{str(inner)!r} lies in {str(outer)!r}, which is named too",
                expected="folders that do not contain one another: an image read twice would count as a duplicate",
                do="name the outer one alone, or move the inner one out of it",
            )
    for place in places:
        if options.folder.resolve().is_relative_to(place):
            raise ConfigError(
                f"the probe set {str(options.folder)!r} would lie in {str(place)!r}",
                expected="a folder outside the images that it is chosen from",
            )


def check_files(sources: Sequence[TrainingData]) -> None:
    """Raises ProbeSetError for a file that two sources of training data name. A table may name one several times.

    Controls are not looked at: one that is a training image is refused for what it shows.
    """
    if len(sources) < 2:
        return
    first: dict[str, int] = {}
    for number, source in enumerate(sources):
        for path in located(source, source.names()):
            before = first.setdefault(path, number) if path else number
            if before != number and os.path.lexists(path):
                raise ProbeSetError(
                    f"{path!r} is named by {str(sources[before].place)!r} and by {str(source.place)!r}",
                    expected="each training image in one source: read twice, it would count as a duplicate",
                    do="leave one of them out, or take the image out of one",
                )
