"""metrics.json: the few figures by which two runs are compared at a glance, as `dvc metrics diff` does."""

import json

from invmm_gate.core.records import Verdict
from invmm_gate.core.run_records import RunData
from invmm_gate.report.bands import score_band, share_band


def metrics(data: RunData, verdict: Verdict) -> dict[str, object]:
    """Figures of a judged run, those of single probes in bands. A figure that there is none of is left out.

    No times: the same records and the same verdict give the same file.
    """
    lowest = score_band(min((item.invmm for item in data.measurements if item.invmm is not None), default=None))
    banded = [share for item in data.measurements if (share := share_band(item.share)) and share.trials]
    numbers = {
        "lowest_invmm": lowest,
        "highest_replication_share": max((share.hits / share.trials for share in banded), default=None),
    }
    return {
        "decision": verdict.decision,
        "exit_code": verdict.exit_code,
        **{name: round(value, 6) for name, value in numbers.items() if value is not None},
        "evaluations": sum(item.evaluations for item in data.measurements),
        "confirmation_evaluations": sum(item.evaluations for item in data.confirmations),
        "counts": dict(verdict.counts),
    }


def metrics_file(data: RunData, verdict: Verdict) -> str:
    """As JSON. Raises ValueError on NaN or infinity."""
    return json.dumps(metrics(data, verdict), allow_nan=False, indent=2) + "\n"
