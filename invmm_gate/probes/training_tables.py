"""Tables of training data: CSV with paths, Parquet with paths or with the images themselves."""

import csv
import datetime
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from invmm_gate.errors import ConfigError, ProbeSetError
from invmm_gate.probes.training_data import Columns, Entry, read_image_file, text_of

_ROWS_AT_ONCE: Final = 32
"""Rows of a Parquet file that are in memory together, as each may hold an image."""


@final
class CsvTable:
    """A CSV file whose path column names image files."""

    def __init__(self, place: Path, columns: Columns, root: Path) -> None:
        self.place, self._columns, self.root = place, columns, root
        self._used = _used_columns(place, next(self._rows())[1], columns, embeds=False)
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
                reader = csv.reader(file, strict=True)
                for cells in reader:
                    line = reader.line_num
                    if cells:
                        yield line, cells
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ProbeSetError(
                f"{self.place}:{line + 1}: cannot be read as CSV ({error})", expected="UTF-8 text with commas"
            ) from error
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
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            found = f"{self.place} needs pyarrow"
            raise ConfigError(found, do='install it with `pip install "invmm-gate[parquet]"`') from error
        try:
            return pq.ParquetFile(self.place)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ProbeSetError(f"{self.place} cannot be read as Parquet ({str(error)[:200]})") from error

    def _rows(self, file: Any, group: int, roles: Collection[str] = ()) -> Iterator[dict[str, object]]:
        """The cells of each row by role; of some roles only, where they are named."""
        import pyarrow as pa

        used = {role: name for role, name in self._used.items() if not roles or role in roles}
        names = list(used.values())
        try:
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=names, use_threads=False):
                for row in batch.to_pylist():
                    yield {role: row[name] for role, name in used.items()}
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ProbeSetError(f"{self.place} cannot be read as Parquet ({str(error)[:200]})") from error


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
            f"{place} lacks the column {', '.join(map(repr, missing))}", expected=f"one of {', '.join(header)}"
        )
    roles = ("path", "image", "caption") if embeds else ("path", "caption")
    used = {role: columns.of(role) for role in roles if columns.of(role) in header}
    if not {"path", "image"} & set(used):
        kinds = "a column `path`, or `image` with the images' bytes" if embeds else "a column `path`"
        raise ProbeSetError(
            f"{place} has the columns {', '.join(header)}",
            expected=kinds,
            do="name it with --column path=NAME" + (" or --column image=NAME" if embeds else ""),
        )
    return used | wanted


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
    if isinstance(content, bytes) and content:
        return content, ""
    return b"", "holds no image bytes"


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
