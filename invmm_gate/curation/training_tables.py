"""Tables of training data: CSV with paths, Parquet with paths or with the images themselves."""

import datetime
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.curation.training_entries import ROLES, Columns, Entry, read_image_file, text_of
from invmm_gate.files.regular import IMAGE_LIMIT
from invmm_gate.probes.tables import batches, bounded, check_separator, open_parquet, rows_of

_ROWS_AT_ONCE: Final = 32
"""Rows of a Parquet file that are in memory together, as each may hold an image."""
ROOM: Final = 4_000_000_000
"""Bytes that these rows may take while they are decoded: 32 of the largest images do not take them."""
_NAMED: Final = 20
_NAMED_CHARACTERS: Final = 60
"""Columns that a message names, and how much of each."""


@final
class CsvTable:
    """A CSV file whose path column names image files."""

    def __init__(self, place: Path, columns: Columns, root: Path) -> None:
        self.place, self._columns, self.root = place, columns, root
        header = next(self._rows())[1]
        check_separator(",".join(header), [columns.of(role) for role in ROLES], place)
        self._used = _used_columns(place, header, columns, embeds=False)
        self._count = sum(1 for _ in self._rows()) - 1
        if not self._count:
            raise ProbeSetError(f"{place} has a header and no rows", expected="a row for each image")

    def count(self) -> int:
        """Rows below the header."""
        return self._count

    def names(self) -> Iterator[str]:
        """The path column."""
        rows = self._rows()
        at = next(rows)[1].index(self._used["path"])
        return (_name(cells[at] if at < len(cells) else "", row) for row, (_, cells) in enumerate(rows))

    def entries(self, only: Collection[int] | None = None) -> Iterator[Entry]:
        """The rows; the image of each is read when it is its turn."""
        rows = self._rows()
        header = next(rows)[1]
        for position, (line, cells) in enumerate(rows):
            if only is None or position in only:
                if len(cells) != len(header):
                    raise ProbeSetError(
                        f"{self.place}:{line}: {len(cells)} fields", expected=f"{len(header)}, as in the header"
                    )
                values = dict(zip(header, cells, strict=True))
                yield _entry(
                    {role: values[name] for role, name in self._used.items()},
                    position,
                    columns=self._columns,
                    root=self.root,
                    place=f"{self.place}:{line}",
                )

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line, cells) of each row that is not blank, the header first."""
        line = 0
        try:
            with open(self.place, encoding="utf-8-sig", newline="") as file:
                for line, cells in rows_of(file, self.place):
                    yield line, cells
        except OSError as error:
            raise ProbeSetError(f"{self.place} cannot be read ({error.strerror})", expected="a CSV file") from error
        if not line:
            raise ProbeSetError(f"{self.place} is empty", expected="a header with a column `path`")


@final
class ParquetTable:
    """A Parquet file (extra `parquet`) that names image files or holds them, as `datasets` writes them."""

    def __init__(self, place: Path, columns: Columns, root: Path) -> None:
        self.place, self._columns = place, columns
        file = self._open()
        self._used = _used_columns(place, file.schema_arrow.names, columns, embeds=True)
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
            return (_name(None, row) for row in range(self._count))
        file = self._open()
        rows = (row for group in range(file.metadata.num_row_groups) for row in self._rows(file, group, {"path"}))
        return (_name(cells["path"], row) for row, cells in enumerate(rows))

    def entries(self, only: Collection[int] | None = None) -> Iterator[Entry]:
        """The rows; row groups without a wanted one are not read."""
        file = self._open()
        start = 0
        for group in range(file.metadata.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if only is None or any(start <= position < stop for position in only):
                for position, row in enumerate(self._rows(file, group), start):
                    if only is None or position in only:
                        place = f"{self.place}: row {position + 1}"
                        yield _entry(row, position, columns=self._columns, root=self.root, place=place)
            start = stop

    def _open(self) -> Any:  # pyarrow has no types
        return open_parquet(self.place, self.place, room=ROOM)

    def _rows(self, file: Any, group: int, roles: Collection[str] = ()) -> Iterator[dict[str, object]]:
        """The cells of each row by role; of some roles only, where they are named."""
        used = {role: name for role, name in self._used.items() if not roles or role in roles}
        for batch in batches(file, self.place, rows=_ROWS_AT_ONCE, room=ROOM, group=group, columns=set(used.values())):
            with bounded(ROOM, self.place):
                rows = batch.to_pylist()
            yield from ({role: row[name] for role, name in used.items()} for row in rows)


def _used_columns(place: Path, header: Sequence[str], columns: Columns, *, embeds: bool) -> dict[str, str]:
    """Role -> column, for those that are there; a column that was asked for must be."""
    wanted = dict(columns.names)
    if columns.dated:
        wanted["date"] = columns.of("date")
    if columns.marked_by:
        wanted["marked"] = columns.marked_by
    missing = sorted(name for name in wanted.values() if name not in header)
    if missing:
        raise ProbeSetError(
            f"{place} lacks the column {', '.join(map(repr, missing))}", expected=f"one of {_some(header)}"
        )
    roles = ("path", "image", "caption") if embeds else ("path", "caption")
    used = {role: columns.of(role) for role in roles if columns.of(role) in header}
    if not {"path", "image"} & set(used):
        kinds = "a column `path`, or `image` with the images' bytes" if embeds else "a column `path`"
        raise ProbeSetError(
            f"{place} has the columns {_some(header)}",
            expected=kinds,
            do="name it with --column path=NAME" + (" or --column image=NAME" if embeds else ""),
        )
    return used | wanted


def _some(header: Sequence[str]) -> str:
    return ", ".join(name[:_NAMED_CHARACTERS] for name in header[:_NAMED]) + (
        " and more" if len(header) > _NAMED else ""
    )


def _entry(row: Mapping[str, object], position: int, *, columns: Columns, root: Path | None, place: str) -> Entry:
    """An entry from the cells of its row, by role."""
    path = row.get("path")
    data, problem = _image(row["image"]) if root is None else read_image_file(root, str(path or ""))
    return Entry(
        position=position,
        name=_name(path, position),
        data=data,
        problem=problem,
        caption=str(row.get("caption") or ""),
        date=_date(row["date"], place, columns) if columns.dated else None,
        marked=bool(columns.marked_by) and columns.marks(row["marked"], place=place),
        value=text_of(row["marked"]) if columns.marked_by else None,
    )


def _name(path: object, position: int) -> str:
    return path if isinstance(path, str) and path else f"row {position + 1}"


def _image(cell: object) -> tuple[bytes, str]:
    """Bytes from a cell: binary, or a struct with `bytes`, as the image feature of `datasets` has it."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(content, bytes) or not content:
        return b"", "holds no image bytes"
    too_large = f"has {len(content) / 1e6:.1f} MB; expected at most {IMAGE_LIMIT / 1e6:.0f} MB"
    return (b"", too_large) if len(content) > IMAGE_LIMIT else (content, "")


def _date(cell: object, place: str, columns: Columns) -> datetime.date:
    if isinstance(cell, datetime.datetime):
        return cell.date()
    if isinstance(cell, datetime.date):
        return cell
    try:
        return datetime.datetime.fromisoformat(str(cell or "").strip()).date()
    except ValueError as error:
        raise ProbeSetError(
            f"{place}: {columns.of('date')} {cell!r} is not a date",
            expected="YYYY-MM-DD, with or without a time: it decides whether the model has seen the image",
        ) from error
