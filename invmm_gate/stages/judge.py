"""`judge`: the records of a run against the policy. Reads the run folder and never imports torch."""

import datetime
from pathlib import Path

from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.attest.keys import load_roots
from invmm_gate.attest.statement import SUMMARY
from invmm_gate.core.verdict_records import Verdict
from invmm_gate.policy.schema import Policy
from invmm_gate.report.scores import metrics_file
from invmm_gate.runs.copies import Circumstances, decided, keep_copies, listed_waivers
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stage_files import METRICS
from invmm_gate.stages.bless import load_baseline
from invmm_gate.stages.public_edition import PUBLIC_FILES, public_names


def circumstances(
    waivers: Path | None, baseline: Path | None, *, today: datetime.date, reviewers: Path | None = None
) -> Circumstances:
    """Read the files. Before anything is measured: a slip in them must not cost hours. Raises GateError.

    `reviewers` are the keys whose approvals count (`attest/waiver_approval.py`).
    """
    trusted = load_roots(reviewers) if reviewers else None
    listed, copies = listed_waivers(waivers, trusted, today=today) if waivers else ((), {})
    approved = load_baseline(baseline, today=today) if baseline else None
    return Circumstances(waivers=listed, baseline=approved, copies=copies | (approved.copies() if approved else {}))


def judge_run(folder: RunFolder, policy: Policy, beside: Circumstances, *, today: datetime.date) -> Verdict:
    """Hold the records against the policy and write verdict.json. Raises ConfigError for a baseline of another kind.

    Copies of the policy and of the circumstances stay in the folder: whoever reads the verdict judges again from them.
    """
    data, verdict = decided(folder, policy, beside, today=today)
    public_names(folder, data.run)  # a key that cannot be used is told before anything is written
    folder.forget(ATTESTATION, SUMMARY, *PUBLIC_FILES)  # those of an earlier verdict
    keep_copies(folder, policy, beside)
    folder.write_verdict(verdict)
    folder.write(METRICS, metrics_file(data, verdict))
    return verdict
