"""Read and write the manifest of a probe set. Imports in milliseconds: no numpy, no Pillow."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.records import Fit, Group, Probe
from invmm_gate.files.regular import read_probe_file, write_probe_file
from invmm_gate.probes import fields
from invmm_gate.probes.parquet_manifest import parquet_table
from invmm_gate.probes.tables import check_separator

CSV_NAME: Final = "manifest.csv"
PARQUET_NAME: Final = "manifest.parquet"
SIZE_LIMIT: Final = 64_000_000
"""Bytes of a manifest; some 100,000 probes."""
_TYPED: Final = ("group", "fit", "multiplicity", "label")
"""Columns that are more than text to a probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the manifest as text, not yet checked."""

    line: int
    values: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The rows of a manifest file that could be read as a table."""

    folder: Path
    name: str
    """manifest.csv or manifest.parquet."""
    rows: tuple[Row, ...]

    def place(self, line: int = 0) -> str:
        """`folder/manifest.csv:LINE`; the file alone for line 0."""
        return f"{self.folder / self.name}:{line}" if line else str(self.folder / self.name)


def read_manifest(folder: Path) -> tuple[Probe, ...]:
    """The probes that the manifest lists, in its order; the images are not opened.

    Raises ProbeSetError at the first row that cannot be used, with its line.
    """
    manifest = read_rows(folder)
    for row in manifest.rows:
        found = _row_problem(folder, row)
        if found:
            raise ProbeSetError(f"{manifest.place(row.line)}: {found}")
    for column in fields.UNIQUE:
        for index, first in fields.collisions([fields.name_key(row.values[column]) for row in manifest.rows]).items():
            row = manifest.rows[index]
            found = fields.repeated_problem(column, row.values[column], manifest.rows[first].line)
            raise ProbeSetError(f"{manifest.place(row.line)}: {found}")
    return to_probes(manifest.rows)


def read_rows(folder: Path) -> Manifest:
    """The manifest as a table of text. Raises ProbeSetError where it is not one (encoding, columns, quotes)."""
    name = manifest_name(folder)
    data = read_probe_file(folder / name, limit=SIZE_LIMIT)
    if name == PARQUET_NAME:
        header, body = parquet_table(data, folder / name)
    else:
        header, body = _csv_table(data, folder / name)
    fields.check_columns(header, folder / name)
    lacking = dict.fromkeys(fields.OPTIONAL, "")
    rows = tuple(Row(line=line, values=lacking | dict(zip(header, cells, strict=True))) for line, cells in body)
    return Manifest(folder=folder, name=name, rows=rows)


def manifest_name(folder: Path) -> str:
    """Which manifest file the folder holds. Raises ProbeSetError for none and for two."""
    if not folder.is_dir():
        found = f"probe set {str(folder)!r} is not a folder"
        raise ProbeSetError(found, do=f"create one with `invmm-gate probes init {folder}`")
    names = [name for name in (CSV_NAME, PARQUET_NAME) if (folder / name).exists() or (folder / name).is_symlink()]
    if len(names) == 1:
        return names[0]
    raise ProbeSetError(
        f"probe set {str(folder)!r} holds {' and '.join(names) or 'no manifest'}",
        expected=f"either {CSV_NAME} or {PARQUET_NAME}",
        do="remove the one that is out of date" if names else f"create one with `invmm-gate probes init {folder}`",
    )


def to_probes(rows: Iterable[Row]) -> tuple[Probe, ...]:
    """Rows that passed the checks as probes."""
    return tuple(
        Probe(
            line=row.line,
            group=cast(Group, row.values["group"]),
            fit=cast(Fit, row.values["fit"]),
            multiplicity=int(row.values["multiplicity"] or 0),
            label=int(row.values["label"]) if row.values["label"] else None,
            **{column: value for column, value in row.values.items() if column not in _TYPED},
        )
        for row in rows
    )


def write_manifest(folder: Path, probes: Sequence[Probe]) -> None:
    """Replace manifest.csv in one step.

    Raises ProbeSetError, and leaves the old file, for probes that could not be read back and for a full disk.
    """
    if (folder / PARQUET_NAME).exists():
        raise ProbeSetError(
            f"{str(folder)!r} holds {PARQUET_NAME}",
            expected=f"a probe set with {CSV_NAME}, the only manifest that this tool writes",
            do=f"save its table as {CSV_NAME} and remove {PARQUET_NAME}",
        )
    for probe in probes:
        found = _row_problem(folder, Row(line=0, values=_content(probe)))
        if found:
            raise ProbeSetError(f"probe {probe.id!r} cannot be written: {found}")
    for column in fields.UNIQUE:
        values = [_content(probe)[column] for probe in probes]
        for index in fields.collisions([fields.name_key(value) for value in values]):
            raise ProbeSetError(
                f"probe {probes[index].id!r} cannot be written: its {column} is used twice",
                expected="each id and path once",
            )
    write_probe_file(folder / CSV_NAME, _to_csv([_content(probe) for probe in probes]))


def probe_set_digest(probes: Iterable[Probe]) -> str:
    """sha256 of what the manifest says, whatever the order of its rows or the format of its file."""
    digest = hashlib.sha256()
    for probe in sorted(probes, key=lambda probe: probe.id):
        digest.update(json.dumps(_content(probe), sort_keys=True, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def _content(probe: Probe) -> dict[str, str]:
    """An optional column that says nothing is left out: it changes no digest."""
    content = {column: str(getattr(probe, column)) for column in fields.COLUMNS}
    said = {column: getattr(probe, column) for column in fields.OPTIONAL}
    said["multiplicity"] = probe.multiplicity or None
    return content | {column: str(value) for column, value in said.items() if value not in ("", None)}


def _row_problem(folder: Path, row: Row) -> str:
    values = row.values
    missing = next((column for column in fields.REQUIRED if not values[column]), "")
    return (
        fields.text_problem(values)
        or (fields.required_problem(missing) if missing else "")
        or fields.id_problem(values["id"])
        or fields.path_problem(folder, values["path"])
        or fields.sha256_problem(values["sha256"])
        or fields.group_problem(values["group"])
        or fields.date_problem(values["added_on"])
        or fields.fit_problem(values.get("fit", ""))
        or fields.multiplicity_problem(values.get("multiplicity", ""), values["group"])
        or fields.label_problem(values.get("label", ""))
    )


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ProbeSetError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8", do="save as UTF-8"
        ) from error


def _csv_table(data: bytes, path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    text = _text(data, path)
    check_separator(text, fields.COLUMNS, path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for cells in reader:
            if cells:
                rows.append((line, cells))
            if len(rows) > fields.ROW_LIMIT + 1:
                raise fields.too_many_rows(path)
            line = reader.line_num + 1
    except csv.Error as error:
        raise ProbeSetError(f"{path}:{line}: the row cannot be read as CSV ({error})", do="check its quotes") from error
    if not rows:
        raise ProbeSetError(f"{path} is empty", expected=f"a first line `{','.join(fields.COLUMNS)}`")
    header = rows[0][1]
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise ProbeSetError(
                f"{path}:{line}: {len(cells)} fields",
                expected=f"{len(header)}, as in the header",
                do="put text that holds a comma between double quotes",
            )
    return header, rows[1:]


def _to_csv(rows: Sequence[dict[str, str]]) -> bytes:
    buffer = io.StringIO(newline="")
    plain = csv.writer(buffer, lineterminator="\n")
    quoted = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    columns = [*fields.COLUMNS, *(name for name in fields.OPTIONAL if any(name in row for row in rows))]
    for cells in [columns, *([row.get(name, "") for name in columns] for row in rows)]:
        # Python 3.11 leaves a lone carriage return unquoted, and it would then end the row.
        (quoted if any("\r" in cell for cell in cells) else plain).writerow(cells)
    return buffer.getvalue().encode("utf-8")
