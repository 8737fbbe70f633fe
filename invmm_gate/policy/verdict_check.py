"""Whether a verdict is that of the records beside it, and what is left of it today. Pure."""

import datetime
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Verdict
from invmm_gate.policy.evidence import names
from invmm_gate.policy.judge import VERDICT_SCHEMA_VERSION, day_of_judging
from invmm_gate.policy.reasons import counts_of, decide, reasons_for
from invmm_gate.policy.waivers import WaiverTerms, apply_waivers, waiver_states

_EXPIRED: Final = "a waiver has expired since the run was judged"


def verdict_faults(data: RunData) -> Iterator[str]:
    """Why the verdict cannot be that of the records beside it: it says that it was made on others. Cheap and partial.

    Only judging again (`stages/read_verdict.py`) shows that a verdict is that of its records.
    """
    verdict, run = data.verdict, data.run
    if verdict is None:
        return
    if verdict.schema_version != VERDICT_SCHEMA_VERSION:
        yield f"is of schema version {verdict.schema_version}, not {VERDICT_SCHEMA_VERSION}"
    of_run = (run.fingerprint, run.model.digest, run.probe_set.digest)
    if (verdict.fingerprint, verdict.model_digest, verdict.probe_set_digest) != of_run:
        yield "was made on other inputs"
    files = verdict.records.keys() | data.digests.keys()
    changed = [name for name in files if verdict.records.get(name) != data.digests.get(name)]
    if changed:
        yield f"was made before {names(changed)} changed"


def as_of(verdict: Verdict, data: RunData, *, today: datetime.date) -> Verdict:
    """The verdict of these records as it stands today: what only an expired waiver covers counts again.

    A pipeline keeps a verdict for as long as its inputs stay the same; a waiver does not last that long.
    """
    day = day_of_judging(data, max(today, verdict.judged_on))
    waivers = [state.waiver for state in verdict.waivers]
    # Under a policy that asks for approval, those without are among the states; else none is.
    approval = any(state.state == "unapproved" for state in verdict.waivers)
    images = {probe.id: probe.sha256 for probe in data.run.probe_set.probes}
    terms = WaiverTerms(model=data.run.model.digest, today=day, approval=approval, images=images)
    findings = apply_waivers(verdict.findings, waivers, terms)
    if findings == verdict.findings:
        return verdict
    decision = decide(findings)
    return replace(
        verdict,
        decision=decision,
        reasons=(_EXPIRED, *reasons_for(decision, findings)),
        findings=findings,
        waivers=waiver_states(findings, waivers, terms),
        counts=counts_of(data, findings),
    )
