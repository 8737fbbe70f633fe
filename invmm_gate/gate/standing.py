"""The verdict of a run that was judged before, as it stands today."""

import datetime
from dataclasses import replace
from pathlib import Path

from invmm_gate.errors import RunFolderError
from invmm_gate.policy.verdict import decide
from invmm_gate.policy.waivers import is_valid
from invmm_gate.records import Finding, Verdict
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stages import VERDICT


def standing_verdict(run: Path, *, today: datetime.date) -> Verdict:
    """verdict.json, without the waivers that have expired since. Raises RunFolderError if it is not of these records.

    A pipeline keeps a verdict for as long as its inputs stay the same; a waiver does not last that long.
    """
    data = RunFolder(run).data()
    verdict = data.verdict
    if verdict is None:
        raise RunFolderError(
            f"{run} holds no {VERDICT}", expected="a run that was judged", do=f"invmm-gate judge {run} --policy POLICY"
        )
    if verdict.fingerprint != data.run.fingerprint:
        raise _not_to_be_trusted(run, "is of other records than the folder's")
    if decide(verdict.findings) != verdict.decision:
        raise _not_to_be_trusted(run, f"says {verdict.decision}, and its findings say {decide(verdict.findings)}")
    day = max(today, verdict.judged_on)
    findings = tuple(_as_of(finding, day) for finding in verdict.findings)
    if findings == verdict.findings:
        return verdict
    expired = "a waiver has expired since the run was judged, and its finding counts again"
    return replace(verdict, findings=findings, decision=decide(findings), reasons=(expired, *verdict.reasons))


def _as_of(finding: Finding, day: datetime.date) -> Finding:
    waived = finding.waiver is not None and is_valid(finding.waiver, day)
    return finding if waived else replace(finding, waiver=None)


def _not_to_be_trusted(run: Path, fault: str) -> RunFolderError:
    return RunFolderError(
        f"{run}/{VERDICT} {fault}",
        expected="the verdict that `judge` wrote for these records",
        do=f"invmm-gate judge {run} --policy POLICY",
    )
