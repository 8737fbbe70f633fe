"""The statement of a run, made from its folder, and only where verdict and records fit."""

import datetime
import hashlib
from collections.abc import Iterator
from dataclasses import replace

from invmm_gate.attest.field_types import as_text
from invmm_gate.attest.statement import AttestedDecision, Statement
from invmm_gate.core.errors import ConfigError, RunFolderError
from invmm_gate.core.records import ModelFile
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Finding, Verdict, Waiver
from invmm_gate.core.version import __version__
from invmm_gate.models.read.checkpoint_files import digest_of
from invmm_gate.policy.schema import Policy, load_policy, shipped_policies
from invmm_gate.runs.copies import Circumstances, decided
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stage_files import CONFIRMATIONS, LIKELIHOODS, MEASUREMENTS
from invmm_gate.stages.read_verdict import judged_data


def require_same_verdict(folder: RunFolder, verdict: Verdict, *, policy: str | None, beside: Circumstances) -> None:
    """Raise RunFolderError unless the records give this verdict, under the policy, waivers and baseline that it names.

    Without `policy` the verdict's must be one that ships. Raises ConfigError for another policy than the verdict's, and
    where waivers or a baseline are missing.
    """
    _require_all_named(verdict, beside)
    _, again = decided(folder, _policy_of(verdict, policy), beside, today=verdict.judged_on)
    different = [name for name, then, now in _compared(verdict, again) if then != now]
    if different:
        raise RunFolderError(
            f"{folder.path}: judged again, its records give other {', '.join(different)} than verdict.json",
            expected="the verdict that the records give",
            do=f"invmm-gate judge {folder.path} --policy POLICY",
        )


def _require_all_named(verdict: Verdict, beside: Circumstances) -> None:
    if verdict.waivers and not beside.waivers:
        raise ConfigError("the verdict was reached with waivers", expected="their file", do="give it with --waivers")
    reviewed = any(state.waiver.approved_by for state in verdict.waivers)
    if reviewed and not any(waiver.approved_by for waiver in beside.waivers):
        raise ConfigError(
            "the verdict was reached with a reviewer's approval",
            expected="the key of that reviewer",
            do="give it with --reviewers",
        )
    if verdict.baseline is not None and beside.baseline is None:
        raise ConfigError(
            "the verdict was reached with a baseline", expected="that baseline", do="give it with --baseline"
        )


def _policy_of(verdict: Verdict, policy: str | None) -> Policy:
    if policy is None and verdict.policy not in shipped_policies():
        raise ConfigError(
            f"the verdict was reached under {verdict.policy!a}, which is no shipped policy",
            expected="the file of that policy",
            do="give --policy FILE",
        )
    found = load_policy(verdict.policy if policy is None else policy)
    if found.digest != verdict.policy_digest:
        raise ConfigError(
            f"policy {policy or verdict.policy} has the digest {found.digest}",
            expected=f"{verdict.policy_digest}, under which the run was judged",
            do="give that policy with --policy FILE, or judge the run again",
        )
    return found


def _compared(then: Verdict, now: Verdict) -> Iterator[tuple[str, object, object]]:
    yield "decision", then.decision, now.decision
    yield "findings", _lineless(then.findings), _lineless(now.findings)
    yield "counts", then.counts, now.counts
    yield "baseline", then.baseline, now.baseline


def _lineless(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """A waiver is the same one wherever it stands in its file."""
    return tuple(
        finding if finding.waiver is None else replace(finding, waiver=replace(finding.waiver, line=0))
        for finding in findings
    )


def statement_of(
    folder: RunFolder,
    *,
    policy: str | None,
    beside: Circumstances | None,
    verifier: str,
    now: datetime.datetime,
    expires_in: datetime.timedelta,
) -> Statement:
    """The first statement of a chain. Raises RunFolderError unless the verdict is that of the records beside it."""
    # Rendering takes what verifying does not need.
    from invmm_gate.report.public_records import public
    from invmm_gate.stages.public_edition import public_names, public_report

    data, verdict = judged_data(folder)
    require_same_verdict(folder, verdict, policy=policy, beside=beside or Circumstances())
    run, inputs, edition = data.run, data.run.inputs, public(data, public_names(folder, data.run))
    issued = now.astimezone(datetime.UTC).replace(microsecond=0)
    waivers = _used(edition.verdict or verdict)  # an attestation travels: no id of a probe, no free text
    controls = sum(probe.group == "control" for probe in run.probe_set.probes)
    return Statement(
        subject_name=run.model.name,
        subject_digest=run.model.digest,
        decision=_attested(verdict),
        policy_name=verdict.policy,
        policy_digest=verdict.policy_digest,
        probe_set_digest=run.probe_set.digest,
        probes=sum(probe.is_target for probe in run.probe_set.probes),
        controls=controls,
        report_digest=hashlib.sha256(public_report(edition).encode()).hexdigest(),
        results_digest=_results_digest(folder),
        fingerprint=run.fingerprint,
        profile=inputs.profile,
        tested=verdict.tested,
        pipeline=run.model.pipeline,
        weights=run.model.weights,
        left_out=run.model.left_out,
        pickles=run.model.pickles,
        versions=inputs.versions,
        environment=inputs.environment,
        waivers=waivers,
        verifier=verifier,
        verifier_version=__version__,
        issued_at=issued,
        expires_at=_expiry(issued, expires_in, waivers, data),
        sequence=1,
        previous=None,
        attempt=None,
    )


def _attested(verdict: Verdict) -> AttestedDecision:
    return "pass_with_waiver" if verdict.decision == "pass" and _used(verdict) else verdict.decision


def _used(verdict: Verdict) -> tuple[Waiver, ...]:
    """The waivers that findings rest on, each once, without the line they stand on."""
    found = (replace(finding.waiver, line=0) for finding in verdict.findings if finding.waiver is not None)
    return tuple(dict.fromkeys(found))


def _expiry(
    issued: datetime.datetime, expires_in: datetime.timedelta, waivers: tuple[Waiver, ...], data: RunData
) -> datetime.datetime:
    """The end of the lifetime, or of the last day of a waiver, whichever comes first."""
    if issued < _began(data):
        raise ConfigError(
            f"the clock says {as_text(issued)}",
            expected=f"a time after {data.run.created_at}, when the run began",
            do="set the clock",
        )
    midnight = datetime.time(tzinfo=datetime.UTC)
    ends = [datetime.datetime.combine(item.expires, midnight) + datetime.timedelta(days=1) for item in waivers]
    expires = min(issued + expires_in, *ends) if ends else issued + expires_in
    if expires <= issued:
        raise ConfigError(
            f"the attestation would expire at {as_text(expires)}, before it is issued",
            expected="a lifetime, and waivers that still hold",
            do="judge the run again with the waivers of today, or give --expires-in",
        )
    return expires


def _began(data: RunData) -> datetime.datetime:
    try:
        return datetime.datetime.fromisoformat(data.run.created_at).astimezone(datetime.UTC).replace(microsecond=0)
    except ValueError as error:
        raise RunFolderError(
            f"the run's date {data.run.created_at!r} cannot be read", expected="run.json as it was written"
        ) from error


def _results_digest(folder: RunFolder) -> str:
    """Over these files by the rule of a checkpoint's digest, so that no byte can move from one to another."""
    files = []
    for name in (MEASUREMENTS, CONFIRMATIONS, LIKELIHOODS):
        path = folder.path / name
        content = path.read_bytes() if path.exists() else b""
        files.append(ModelFile(path=name, size=len(content), sha256=hashlib.sha256(content).hexdigest()))
    return digest_of(files)
