"""How a report names the baseline that a verdict was given."""

from invmm_gate.core.records import BaselineRecord
from invmm_gate.core.run_records import RunData
from invmm_gate.report import texts


def described_baseline(data: RunData) -> str:
    """Which run, of which model, blessed by whom, when and why; empty where no baseline was given."""
    given = data.verdict.baseline if data.verdict else None
    if given is None:
        return ""
    run = f"run {given.run_id} of model {texts.digest(given.model_digest)}, measurements sha256 "
    return f"{run}{texts.digest(given.measurements_digest)}, {_blessing(given)}"


def _blessing(given: BaselineRecord) -> str:
    if not given.blessed_by:
        return "named by hand, blessed by nobody"
    despite = "" if given.decision == "pass" else f", although its verdict was {given.decision}"
    return f"blessed by {given.blessed_by} on {given.blessed_on}{despite}: {given.reason}"
