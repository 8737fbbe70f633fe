"""Tables of training data: CSV and JSON Lines with paths, Parquet with paths or with the images themselves."""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, final

from invmm_gate.core.errors import ModelError, ProbeSetError
from invmm_gate.curation.training_entries import ROLES, Columns, Entry
from invmm_gate.curation.training_rows import entry_of, name_of, used_columns
from invmm_gate.files.strict_json import parse_object
from invmm_gate.probes.tables import (
    HEADER_CHARACTERS,
    Lines,
    Separator,
    batches,
    bounded,
    open_parquet,
    rows_of,
    separator_of,
)

ROWS_AT_ONCE: Final = 32
"""Rows of a Parquet file that are in memory together, as each may hold an image."""
ROOM: Final = 4_000_000_000
"""Bytes that these rows may take while they are decoded: 32 of the largest images do not take them."""

Rows = Iterator[tuple[int, Mapping[str, object]]]
"""(line, column -> cell) of each row that is not blank."""


@final
class TableOfPaths:
    """A text file, read line by line, whose path column names image files."""

    def __init__(self, place: Path, columns: Columns, root: Path, read: Callable[[Path, Columns], Rows]) -> None:
        self.place, self.root, self._columns, self._read = place, root, columns, read
        names = [name for role in ROLES for name in columns.of(role)] + [columns.marked_by]
        header: dict[str, None] = {}
        self._count = 0
        for _, row in self._rows():
            header |= dict.fromkeys(row if not header else (name for name in names if name in row))
            self._count += 1
        if not self._count:
            raise ProbeSetError(f"{place} has no rows", expected="a row for each image")
        self._used = used_columns(place, list(header), columns, embeds=False)

    def count(self) -> int:
        """Rows, a header apart."""
        return self._count

    def names(self) -> Iterator[str]:
        """The path column."""
        path = self._used["path"]
        for position, (_, row) in enumerate(self._rows()):
            yield name_of(row.get(path), position, root=self.root, table=self.place)

    def entries(self, only: Collection[int] | None = None) -> Iterator[Entry]:
        """The rows; the image of each is read when it is its turn."""
        for position, (line, row) in enumerate(self._rows()):
            if only is None or position in only:
                cells = {role: row.get(name) for role, name in self._used.items()}
                where = f"{self.place}:{line}"
                yield entry_of(cells, position, columns=self._columns, root=self.root, table=self.place, where=where)

    def _rows(self) -> Rows:
        try:
            yield from self._read(self.place, self._columns)
        except OSError as error:
            raise ProbeSetError(
                f"{self.place} cannot be read ({error.strerror})", expected="a file that this user may read"
            ) from error


def csv_rows(place: Path, columns: Columns) -> Rows:
    """The rows below the header of a CSV file with commas, or with semicolons as spreadsheets write it.

    Raises ProbeSetError, with the line, for one that has more or fewer fields than the header; OSError.
    """
    separator = _separator(place, columns)
    with open(place, encoding="utf-8-sig", newline="") as file:
        rows = rows_of(file, place, separator.sign)
        if separator.declared:
            next(rows)
        header = next(rows, (0, []))[1]
        if not header:
            raise ProbeSetError(f"{place} is empty", expected="a header with a column `path`")
        for line, cells in rows:
            if len(cells) != len(header):
                raise ProbeSetError(f"{place}:{line}: {len(cells)} fields", expected=f"{len(header)}, as in the header")
            yield line, dict(zip(header, cells, strict=True))


def _separator(place: Path, columns: Columns) -> Separator:
    with open(place, encoding="utf-8-sig", errors="replace", newline="") as file:
        return separator_of(file.read(HEADER_CHARACTERS), [name for role in ROLES for name in columns.of(role)])


def json_rows(place: Path, _: Columns) -> Rows:
    """The objects of a JSON Lines file. Raises ProbeSetError, with the line, for one that is none; OSError."""
    with open(place, encoding="utf-8-sig", newline="") as file:
        lines = Lines(file, place)
        try:
            for line in lines:
                lines.begun = 0
                if line.strip():
                    yield lines.number, parse_object(line, f"{place}:{lines.number}")
        except ModelError as error:
            raise ProbeSetError(error.found, expected="one JSON object on each line") from error
        except UnicodeDecodeError as error:
            raise ProbeSetError(
                f"{place}:{lines.number + 1}: cannot be read ({error})",
                expected="one JSON object on each line, in UTF-8",
            ) from error


@final
class ParquetTable:
    """A Parquet file (extra `parquet`) that names image files or holds them, as `datasets` writes them."""

    def __init__(self, place: Path, columns: Columns, root: Path) -> None:
        self.place, self._columns = place, columns
        file = self._open()
        self._used = used_columns(place, file.schema_arrow.names, columns, embeds=True)
        self.root = None if "image" in self._used else root
        self._count = int(file.metadata.num_rows)
        if not self._count:
            raise ProbeSetError(f"{place} has no rows", expected="a row for each image")

    def count(self) -> int:
        """Rows."""
        return self._count

    def names(self) -> Iterator[str]:
        """The path column; without one, the numbers of the rows."""
        if "path" not in self._used:
            return (self._name(None, row) for row in range(self._count))
        file = self._open()
        rows = (row for group in range(file.metadata.num_row_groups) for row in self._rows(file, group, {"path"}))
        return (self._name(cells["path"], row) for row, cells in enumerate(rows))

    def entries(self, only: Collection[int] | None = None) -> Iterator[Entry]:
        """The rows; row groups without a wanted one are not read."""
        file = self._open()
        start = 0
        for group in range(file.metadata.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if only is None or any(start <= position < stop for position in only):
                for position, row in enumerate(self._rows(file, group), start):
                    if only is None or position in only:
                        yield self._entry(row, position)
            start = stop

    def _entry(self, row: Mapping[str, object], position: int) -> Entry:
        where = f"{self.place}: row {position + 1}"
        return entry_of(row, position, columns=self._columns, root=self.root, table=self.place, where=where)

    def _name(self, path: object, position: int) -> str:
        return name_of(path, position, root=self.root, table=self.place)

    def _open(self) -> Any:  # pyarrow has no types
        return open_parquet(self.place, self.place, room=ROOM)

    def _rows(self, file: Any, group: int, roles: Collection[str] = ()) -> Iterator[dict[str, object]]:
        """The cells of each row by role; of some roles only, where they are named."""
        used = {role: name for role, name in self._used.items() if not roles or role in roles}
        for batch in batches(file, self.place, rows=ROWS_AT_ONCE, room=ROOM, group=group, columns=set(used.values())):
            with bounded(ROOM, self.place):
                rows = batch.to_pylist()
            yield from ({role: row[name] for role, name in used.items()} for row in rows)
