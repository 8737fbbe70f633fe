"""probes.json: every probe of a run as the table that MLflow shows."""

import json
from typing import Final

from invmm_gate.core.run_records import RunData
from invmm_gate.policy.certified_bounds import BestFigures, best_figures

_COLUMNS: Final = (
    "probe",
    "group",
    "category",
    "outcome",
    "invmm",
    "invmm_above",
    "hits",
    "trials",
    "prompt_kind",
    "likelihood_lower",
    "likelihood_nats",
)
_COST_COLUMNS: Final = ("steps", "evaluations", "seconds")


def table(data: RunData) -> str:
    """All probes as the table format that MLflow shows: columns and rows."""
    likely = best_figures(data)
    columns = _COLUMNS if data.public else (*_COLUMNS, *_COST_COLUMNS)
    rows = [
        (
            item.probe, item.group, item.category, item.outcome, item.invmm, item.invmm_above,
            item.share.hits if item.share else None, item.share.trials if item.share else None,
            *_likelihood(likely.get(item.probe)), item.steps, item.evaluations, data.seconds.get(item.probe),
        )[:len(columns)]
        for item in data.measurements
    ]  # fmt: skip
    return json.dumps({"columns": columns, "data": rows}, indent=None, sort_keys=True)


def _likelihood(best: BestFigures | None) -> tuple[str | None, float | None, float | None]:
    return (None, None, None) if best is None else (best.bound.kind, best.lower, best.bound.nats)
