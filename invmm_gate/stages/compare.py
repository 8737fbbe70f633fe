"""`compare` on run folders: read both, judge both afresh where a policy is named, and hold them side by side."""

import datetime
from dataclasses import replace
from pathlib import Path

from invmm_gate.core.run_records import RunData
from invmm_gate.policy.compare.compare import compare
from invmm_gate.policy.compare.comparison import Comparison
from invmm_gate.policy.judge import judge
from invmm_gate.policy.schema import Policy, load_policy
from invmm_gate.policy.verdict_check import as_of
from invmm_gate.runs.copies import unedited
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.bless import load_baseline
from invmm_gate.stages.read_verdict import judged_again


def compare_runs(
    before: Path, after: Path, *, policy: str | None, common_probes: bool, today: datetime.date
) -> Comparison:
    """Compare two runs; a baseline file stands for the run that was blessed last. Writes nothing. Raises GateError.

    Their verdicts count as they stand today; one that the records beside it do not give is refused. With a policy, both
    records are judged by it here, without waivers; the verdicts on disk stay as they are.
    """
    rules = load_policy(policy) if policy is not None else None
    old, new = (_judged(path, rules, today) for path in (before, after))
    return compare(old, new, policy=rules, common_probes=common_probes)


def _judged(path: Path, policy: Policy | None, today: datetime.date) -> RunData:
    folder = RunFolder(load_baseline(path, today=today).folder if path.is_file() else path)
    if policy is not None:
        data = unedited(folder)
        return replace(data, verdict=judge(data, policy, (), today=today))
    data = judged_again(folder)
    return data if data.verdict is None else replace(data, verdict=as_of(data.verdict, data, today=today))
