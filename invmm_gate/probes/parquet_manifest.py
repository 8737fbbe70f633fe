"""A manifest in Parquet, read through pyarrow (extra `parquet`)."""

import datetime
from pathlib import Path
from typing import Any, Final

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.probes.fields import CELL_LIMIT, ROW_LIMIT, check_columns, too_many_rows
from invmm_gate.probes.tables import batches, bounded, open_parquet

UNPACKED_LIMIT: Final = 256_000_000
"""Bytes that the texts of the table may have when they are decoded."""
ROOM: Final = 1_000_000_000
"""Bytes that the decoder may take at once."""
_ROWS_AT_ONCE: Final = 256
_BYTES_A_CHARACTER: Final = 4
"""At most, in UTF-8."""


def parquet_table(data: bytes, path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Column names, and each row as (row index + 2, cells as text). Raises ProbeSetError or ConfigError."""
    file = open_parquet(data, path, room=ROOM)
    if file.metadata.num_rows > ROW_LIMIT:
        raise too_many_rows(path)
    header = [str(name) for name in file.schema_arrow.names]
    check_columns(header, path)
    _check_types(file.schema_arrow, path)
    rows: list[tuple[int, list[str]]] = []
    size = 0
    for batch in batches(file, path, rows=_ROWS_AT_ONCE, room=ROOM):
        with bounded(ROOM, path):
            size += sum(_text_bytes(batch.column(index), name, path) for index, name in enumerate(header))
            if size > UNPACKED_LIMIT:
                raise _too_large(path, f"more than {UNPACKED_LIMIT / 1e6:.0f} MB of text")
            columns = [column.to_pylist() for column in batch.columns]
        if len(rows) + batch.num_rows > ROW_LIMIT:  # the footer may say another number
            raise too_many_rows(path)
        for line, cells in enumerate(zip(*columns, strict=True), start=len(rows) + 2):
            rows.append((line, [_text(cell, name, f"{path}:{line}") for name, cell in zip(header, cells, strict=True)]))
    return header, rows


def _check_types(schema: Any, path: Path) -> None:
    """Raises ProbeSetError for lists, structs and the like, whose size no row tells."""
    import pyarrow.types as types

    for field in schema:
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        if not (
            types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind) or types.is_primitive(kind)
        ):
            raise ProbeSetError(
                f"{path}: the column {field.name!r} holds {str(kind)[:40]}", expected="text (or dates in added_on)"
            )


def _text_bytes(column: Any, name: str, path: Path) -> int:
    """Bytes of a column's texts. Raises ProbeSetError for a cell that cannot have at most CELL_LIMIT characters."""
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    if not (pa.types.is_string(plain.type) or pa.types.is_large_string(plain.type)):
        return int(plain.nbytes)
    lengths = pc.binary_length(plain)
    longest, total = pc.max(lengths).as_py() or 0, pc.sum(lengths).as_py() or 0
    if longest > CELL_LIMIT * _BYTES_A_CHARACTER:
        raise _too_large(path, f"a {name} of {longest:,} bytes")
    return int(total)


def _too_large(path: Path, what: str) -> ProbeSetError:
    return ProbeSetError(
        f"{path} unpacks to {what}",
        expected=f"at most {CELL_LIMIT:,} characters a cell and {UNPACKED_LIMIT / 1e6:.0f} MB in all",
        do="write it again from its source",
    )


_WHOLE: Final = ("multiplicity", "label")
"""Columns of whole numbers."""


def _text(cell: object, column: str, place: str) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if column in _WHOLE and isinstance(cell, int | float) and not isinstance(cell, bool) and cell == cell // 1:
        return str(int(cell))  # pandas makes floats of whole numbers beside empty cells
    if isinstance(cell, datetime.date) and not isinstance(cell, datetime.datetime):
        return cell.isoformat()
    raise ProbeSetError(
        f"{place}: the {column} holds {type(cell).__name__}",
        expected="text (or a date in added_on, a whole number in multiplicity or label)",
    )
