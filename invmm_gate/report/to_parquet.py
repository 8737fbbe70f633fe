"""scores.parquet: the table of scores.csv with types, through pyarrow (extra `parquet`)."""

import importlib
import io
import json
from typing import Any, Final

from invmm_gate.core.run_records import RunData
from invmm_gate.report.scores import COLUMNS, score_rows

_TYPES: Final = {"text": "string", "count": "int64", "number": "float64"}


def render_parquet(data: RunData) -> bytes | None:
    """The table; None without pyarrow. The same records give the same bytes under one version of pyarrow."""
    arrow = _arrow()
    if arrow is None:
        return None
    pa, parquet, reader = arrow
    schema = pa.schema([(name, getattr(pa, _TYPES[kind])()) for name, kind in COLUMNS.items()])
    sink = io.BytesIO()
    # Through JSON, as every way from Python objects into pyarrow imports pandas: most of a second.
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in score_rows(data)).encode()
    options = reader.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    table = reader.read_json(io.BytesIO(lines), parse_options=options) if lines else schema.empty_table()
    parquet.write_table(table, sink)
    return sink.getvalue()


def _arrow() -> tuple[Any, Any, Any] | None:
    try:
        pa, parquet, reader = (importlib.import_module(f"pyarrow{name}") for name in ("", ".parquet", ".json"))
    except ImportError:
        return None
    return pa, parquet, reader
