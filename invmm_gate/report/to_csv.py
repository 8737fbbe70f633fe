"""scores.csv: one row a probe, safe to open in a spreadsheet."""

import csv
import io
import re
from typing import Final

from invmm_gate.core.run_records import RunData
from invmm_gate.report.scores import COLUMNS, Cell, score_rows

_FORMULA: Final = re.compile(r"(^|[,;|])(\s*)(?=[=+\-@＝＋－＠]|::)")
"""Where a spreadsheet may begin to read a formula: at the start of a cell, or where another locale ends one.

And where a job's log would read a command.
"""


def render_csv(data: RunData) -> str:
    """The table with a header. Numbers are exact; an apostrophe disarms text that would be run."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in score_rows(data):
        writer.writerow([_cell(row[name]) for name in COLUMNS])
    return buffer.getvalue()


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    return _FORMULA.sub(r"\1\2'", value) if isinstance(value, str) else repr(value)
