"""metrics.json: the few figures by which two runs are compared at a glance, as `dvc metrics diff` does."""

import json
from math import isfinite

from invmm_gate.records import RunData, Verdict


def metrics(data: RunData, verdict: Verdict) -> dict[str, object]:
    """Figures of a judged run, without anything private. A figure that there is none of is left out.

    No times: the same records and the same verdict give the same file.
    """
    scores = [item.invmm for item in data.measurements if item.invmm is not None]
    shares = [item.share.hits / item.share.trials for item in data.measurements if item.share and item.share.trials]
    numbers = {
        "lowest_invmm": min(scores, default=None),
        "highest_replication_share": max(shares, default=None),
    }
    return {
        "decision": verdict.decision,
        "exit_code": verdict.exit_code,
        **{name: round(value, 6) for name, value in numbers.items() if value is not None and isfinite(value)},
        "evaluations": sum(item.evaluations for item in data.measurements),
        "confirmation_evaluations": sum(item.evaluations for item in data.confirmations),
        "counts": dict(verdict.counts),
    }


def metrics_file(data: RunData, verdict: Verdict) -> str:
    """As JSON. Raises ValueError on NaN or infinity."""
    return json.dumps(metrics(data, verdict), allow_nan=False, indent=2) + "\n"
