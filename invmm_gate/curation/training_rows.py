"""A row of a table of training data: which columns are read, and the entry that its cells make."""

import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.curation.training_entries import Columns, Entry, read_image_file, text_of
from invmm_gate.files.regular import IMAGE_LIMIT
from invmm_gate.probes.fields import label_problem

_NAMED: Final = 20
_NAMED_CHARACTERS: Final = 60
"""Columns that a message names, and how much of each."""


def used_columns(place: Path, header: Sequence[str], columns: Columns, *, embeds: bool) -> dict[str, str]:
    """Role -> column, for those that are there; a column that was asked for must be. Raises ProbeSetError.

    `embeds`: whether the table may hold the images themselves.
    """
    wanted = dict(columns.names)
    if columns.dated:
        wanted["date"] = columns.of("date")[0]
    if columns.marked_by:
        wanted["marked"] = columns.marked_by
    missing = sorted(name for name in wanted.values() if name not in header)
    if missing:
        raise ProbeSetError(
            f"{place} lacks the column {', '.join(map(repr, missing))}", expected=f"one of {_some(header)}"
        )
    roles = ("path", "image", "caption") if embeds else ("path", "caption")
    found = {role: next((name for name in columns.of(role) if name in header), "") for role in roles}
    used = {role: name for role, name in found.items() if name}
    if not {"path", "image"} & set(used):
        kinds = f"a column `{columns.of('path')[0]}`" + (", or `image` with the images' bytes" if embeds else "")
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


def entry_of(
    row: Mapping[str, object], position: int, *, columns: Columns, root: Path | None, table: Path, where: str
) -> Entry:
    """An entry from the cells of its row, by role. Raises ProbeSetError for a cell that cannot be understood.

    `root`: where its path begins; None where the cell `image` holds the image. `where`: table and line, for messages.
    """
    name = name_of(row.get("path"), position, root=root, table=table)
    data, problem = _image(row["image"]) if root is None else read_image_file(root, name if row.get("path") else "")
    return Entry(
        position=position,
        name=name,
        data=data,
        problem=problem,
        caption=_caption(row.get("caption"), where),
        label=label_in(row.get("label"), where),
        date=_date(row.get("date"), where, columns) if columns.dated else None,
        marked=bool(columns.marked_by) and columns.marks(row.get("marked"), place=where),
        value=text_of(row.get("marked")) if columns.marked_by else None,
    )


def name_of(path: object, position: int, *, root: Path | None, table: Path) -> str:
    """The path that a row states; without one `train.parquet/row 3`. One that Windows wrote gets slashes."""
    stated = str(path or "")
    if root is not None and "\\" in stated and not _is_there(root / stated):
        return stated.replace("\\", "/")
    return stated or f"{table.name}/row {position + 1}"


def _is_there(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL
        return False


def _image(cell: object) -> tuple[bytes, str]:
    """Bytes from a cell: binary, or a struct with `bytes`, as the image feature of `datasets` has it."""
    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not isinstance(content, bytes) or not content:
        return b"", "holds no image bytes"
    found = too_large(len(content))
    return (b"", found) if found else (content, "")


def too_large(size: int) -> str:
    """What to say of an image of so many bytes; empty if it may be read."""
    return f"has {size / 1e6:.1f} MB; expected at most {IMAGE_LIMIT / 1e6:.0f} MB" if size > IMAGE_LIMIT else ""


def _caption(cell: object, where: str) -> str:
    if cell is None or isinstance(cell, str | int | float):
        return "" if cell is None else str(cell)
    raise ProbeSetError(
        f"{where}: the caption is a {type(cell).__name__}, not one text",
        expected="the one caption that belongs to the image",
        do="write it into a column of its own, and name that with --column caption=NAME",
    )


def label_in(cell: object, where: str) -> int | None:
    """The class in a cell: a whole number, or none. Raises ProbeSetError for anything else, such as a class's name."""
    text = "" if cell is None or cell != cell else str(cell).strip()  # a missing number of pandas differs from itself
    text = text.removesuffix(".0")  # as pandas writes the numbers of a column with gaps
    found = label_problem(text)
    if found or isinstance(cell, bool):
        raise ProbeSetError(
            f"{where}: {found or f'the label is {cell}'}",
            do="number the classes as the model's training did, in a column that --column label=NAME names",
        )
    return int(text) if text else None


def _date(cell: object, where: str, columns: Columns) -> datetime.date:
    if isinstance(cell, datetime.datetime):
        return cell.date()
    if isinstance(cell, datetime.date):
        return cell
    try:
        return datetime.datetime.fromisoformat(str(cell or "").strip()).date()
    except ValueError as error:
        raise ProbeSetError(
            f"{where}: {columns.of('date')[0]} {cell!r} is not a date",
            expected="YYYY-MM-DD, with or without a time: it decides whether the model has seen the image",
        ) from error
