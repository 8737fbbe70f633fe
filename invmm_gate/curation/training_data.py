"""Training data to choose probes from: folders, tables, tars and saved data sets, one image at a time in memory."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path, PurePath
from typing import Final

from invmm_gate.core.errors import ConfigError, ProbeSetError
from invmm_gate.core.options import BuildOptions
from invmm_gate.curation.saved_dataset import SavedDataset, is_saved, the_split
from invmm_gate.curation.tar_of_images import TarOfImages
from invmm_gate.curation.training_entries import Columns, TrainingData
from invmm_gate.curation.training_folders import METADATA, FolderOfImages, FolderWithTable
from invmm_gate.curation.training_tables import ParquetTable, TableOfPaths, csv_rows, json_rows

_OPENED: Final[dict[str, Callable[[Path, Columns, Path], TrainingData]]] = {
    ".csv": lambda place, columns, root: TableOfPaths(place, columns, root, csv_rows),
    ".jsonl": lambda place, columns, root: TableOfPaths(place, columns, root, json_rows),
    ".parquet": ParquetTable,
    ".tar": lambda place, columns, _: TarOfImages(place, columns),
}
"""Suffix of a file -> what reads it: its path, its columns, and where the paths in it begin."""
_PACKED: Final = (".gz", ".tgz", ".zst", ".bz2", ".xz")
_SUFFIXES: Final = ", ".join(_OPENED)


def expanded(places: Iterable[Path]) -> tuple[Path, ...]:
    """The places, with those that a pattern such as `data/train-*.tar` matches, in the order of their names.

    Raises ProbeSetError for a pattern that matches nothing.
    """
    found: list[Path] = []
    for place in places:
        if os.path.lexists(place) or not glob.has_magic(str(place)):
            found.append(place)
            continue
        matched = sorted(glob.glob(str(place), recursive=True))
        if not matched:
            raise ProbeSetError(f"{str(place)!r} matches nothing", expected="a folder or file, or a pattern of some")
        found += map(Path, matched)
    return tuple(found)


def holds_images(place: Path) -> bool:
    """Whether a place is a folder, or a file that `open_training_data` reads: more than one image."""
    return place.is_dir() or place.suffix.lower() in _OPENED


def open_training_data(place: Path, columns: Columns, *, images: Path | None = None) -> TrainingData:
    """The training data at a place. `images` is where the paths of a table begin; by default the table's folder.

    Raises ProbeSetError for a place of no kind that is read, or that lacks a column; ConfigError without a library.
    """
    if columns.class_folders and not (place.is_dir() and not is_saved(place) and not _tables_in(place)):
        raise ProbeSetError(
            f"{str(place)!r} is no folder of folders of images, one for each class",
            expected="such a folder where the folders are the classes",
            do="leave the option out; a column of class numbers is named with --column label=NAME",
        )
    if place.is_dir():
        return _open_folder(place, columns)
    suffix = place.suffix.lower()
    read = _OPENED.get(suffix)
    if not place.is_file() or read is None:
        found = f"is not a folder, {_SUFFIXES} file" if place.exists() else "does not exist"
        raise ProbeSetError(
            f"training data {str(place)!r} {found}",
            expected="a folder of images, a table, a tar, or a folder that `save_to_disk` wrote",
            do="unpack it: in a packed tar no image can be read by itself" if suffix in _PACKED else "",
        )
    return read(place, columns, images or place.parent)


def _open_folder(place: Path, columns: Columns) -> TrainingData:
    if is_saved(place):
        return SavedDataset(the_split(place), columns)
    tables = _tables_in(place)
    if len(tables) > 1:
        raise ProbeSetError(
            f"{str(place)!r} holds {' and '.join(table.name for table in tables)}",
            expected="one table that describes its images",
            do="take the other out of the folder",
        )
    if tables:
        described = replace(columns, described=True)
        return FolderWithTable(place, _OPENED[tables[0].suffix](tables[0], described, place))
    if columns.dated or columns.marked_by:
        raise ProbeSetError(
            f"{str(place)!r} is a folder, which has no columns",
            expected="a table where a date or a sensitive column is asked for",
            do="list the images in a table, or leave the option out",
        )
    return FolderOfImages(place, class_folders=columns.class_folders)


def _tables_in(place: Path) -> list[Path]:
    return [place / name for name in METADATA if os.path.lexists(place / name)]


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
