"""scores.parquet: the table of scores.csv with types, through pyarrow (extra `parquet`)."""

import importlib
import io
from typing import Any, Final

from invmm_gate.core.records import RunData
from invmm_gate.report.scores import COLUMNS, score_rows

_TYPES: Final = {"text": "string", "count": "int64", "number": "float64"}


def render_parquet(data: RunData) -> bytes | None:
    """The table; None without pyarrow. The same records give the same bytes under one version of pyarrow."""
    arrow = _arrow()
    if arrow is None:
        return None
    pa, parquet = arrow
    schema = pa.schema([(name, getattr(pa, _TYPES[kind])()) for name, kind in COLUMNS.items()])
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(score_rows(data), schema=schema), sink)
    return sink.getvalue()


def _arrow() -> tuple[Any, Any] | None:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        return None
