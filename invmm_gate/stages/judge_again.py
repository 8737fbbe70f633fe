"""Before a verdict is signed: the records are judged again, so that nobody's edit of verdict.json is attested."""

from collections.abc import Iterator
from dataclasses import replace

from invmm_gate.core.errors import ConfigError, RunFolderError
from invmm_gate.core.records import Finding, Verdict
from invmm_gate.policy.schema import Policy, load_policy
from invmm_gate.policy.shipped import shipped_policies
from invmm_gate.runs.copies import Circumstances, decided
from invmm_gate.runs.folder import RunFolder


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
            "the verdict was reached with a reviewer's approval", expected="the same", do="give --reviewers"
        )
    if verdict.baseline is not None and beside.baseline is None:
        raise ConfigError("the verdict was reached with a baseline", expected="the same", do="give it with --baseline")


def _policy_of(verdict: Verdict, policy: str | None) -> Policy:
    if policy is None and verdict.policy not in shipped_policies():
        raise ConfigError(
            f"the verdict is under {verdict.policy!a}, a policy of its own",
            expected="its file",
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
