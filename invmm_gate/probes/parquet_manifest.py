"""A manifest in Parquet, read through pyarrow (extra `parquet`)."""

import datetime
from pathlib import Path
from typing import Final

from invmm_gate.errors import ConfigError, ProbeSetError
from invmm_gate.probes.manifest import ROW_LIMIT, too_many_rows

UNPACKED_LIMIT: Final = 256_000_000
"""Bytes that the table may have when decompressed, as its own footer states them."""


def parquet_table(data: bytes, path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Column names, and each row as (row index + 2, cells as text). Raises ProbeSetError or ConfigError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(f"{path} needs pyarrow", do='install it with `pip install "invmm-gate[parquet]"`') from error
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        size = sum(file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups))
        count = file.metadata.num_rows
        if count > ROW_LIMIT:
            raise too_many_rows(path)
        table = file.read() if size <= UNPACKED_LIMIT else None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ProbeSetError(f"{path} cannot be read as Parquet ({str(error)[:200]})") from error
    if table is None:
        raise ProbeSetError(f"{path} unpacks to {size / 1e6:.0f} MB", expected=f"at most {UNPACKED_LIMIT / 1e6:.0f} MB")
    header = [str(name) for name in table.column_names]
    columns = [column.to_pylist() for column in table.columns]
    rows = enumerate(zip(*columns, strict=True), start=2)
    return header, [(line, [_text(cell, f"{path}:{line}") for cell in cells]) for line, cells in rows]


def _text(cell: object, place: str) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, datetime.date) and not isinstance(cell, datetime.datetime):
        return cell.isoformat()
    raise ProbeSetError(f"{place}: a cell holds {type(cell).__name__}", expected="text (or a date in added_on)")
