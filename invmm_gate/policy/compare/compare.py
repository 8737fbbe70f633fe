"""`compare`: two runs in, what is new, fixed, worse or unchanged out. Pure, and no verdict."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from invmm_gate.core.errors import BLOCK, INCONCLUSIVE, PASS, ConfigError
from invmm_gate.core.records import Confirmation, Probe
from invmm_gate.core.run_records import RunData, differences, identity_of
from invmm_gate.policy.compare.changes import (
    AGAINST_CONTROLS,
    REGRESSION,
    finding_changes,
    overall,
    rate_changes,
    score_change,
    uncompared,
)
from invmm_gate.policy.compare.comparison import (
    COMPARISON_SCHEMA_VERSION,
    Comparison,
    FailOn,
    FindingChange,
    LeftOut,
    LikelihoodChange,
    ProbeChange,
    RateChange,
    ScoreChange,
    refuse_other_conditions,
)
from invmm_gate.policy.compare.likelihood_changes import likelihood_changes, likelihoods_of
from invmm_gate.policy.coverage import self_check_findings
from invmm_gate.policy.evidence import has_labels, has_prompts, is_selected, names, same_probe
from invmm_gate.policy.rules.regression import RegressionConfig
from invmm_gate.policy.schema import Policy
from invmm_gate.policy.soundness import record_findings
from invmm_gate.policy.verdict_check import verdict_faults

_NEIGHBOURS: Final = "pixel_l2_neighbours"
"""The copy metric that is made of the controls."""
_CIRCUMSTANCES: Final = ("seed", "rows", "device", "threads", "code", "versions")
_ORDER: Final = ("new", "worse", "unknown", "fixed", "better", "unchanged")


@dataclass(frozen=True, slots=True)
class _Sides:
    before: RunData
    after: RunData

    @property
    def same_confirmation(self) -> bool:
        return self.before.run.inputs.confirm == self.after.run.inputs.confirm


def compare(
    before: RunData, after: RunData, *, policy: Policy | None = None, common_probes: bool = False
) -> Comparison:
    """Hold two runs side by side; `policy` gives the margin of its rule `regression`. Direction: lower InvMM is worse.

    Raises ConfigError for runs that do not compare: another family, profile, settings or metric, records that do not
    hold, a failed self-check, other probes. `common_probes` leaves out the probes that are not the same in both.
    """
    sides = _Sides(before, after)
    refuse_other_conditions(before.run.inputs, after.run.inputs, runs="the runs")
    for name, data in (("first", before), ("second", after)):
        _refuse_unreliable(name, data)
    left_out = _left_out(sides)
    _refuse_other_probes(sides, left_out, common_probes=common_probes)
    probes = tuple(_probe_changes(sides, left_out, policy))
    by_id = {each.probe: each for each in probes}
    excuse = _why_no_findings(sides)
    skip = frozenset((REGRESSION, *AGAINST_CONTROLS) if _other_probe_sets(sides, left_out) else (REGRESSION,))
    findings = () if excuse else finding_changes(before, after, by_id, skip=skip)
    return Comparison(
        schema_version=COMPARISON_SCHEMA_VERSION,
        before=identity_of(before),
        after=identity_of(after),
        profile=after.run.inputs.profile,
        metric=after.run.metric.name,
        findings_compared=not excuse,
        counts={
            "probes": dict(Counter(each.change for each in probes)),
            "findings": dict(Counter(each.change for each in findings)),
        },
        notes=tuple(_notes(sides, policy, excuse, skip=skip)),
        left_out=left_out,
        uncompared=() if excuse else uncompared(after, by_id, skip=skip),
        findings=tuple(sorted(findings, key=lambda each: _ORDER.index(each.change))),
        probes=tuple(sorted(probes, key=lambda each: _ORDER.index(each.change))),
    )


def exit_code(comparison: Comparison, fail_on: FailOn | None) -> int:
    """0 without `fail_on`; else 10 for what it names, 11 if something is unknown. Raises ConfigError without findings.

    `new`: a finding that no waiver covers. `worse`: also one that got worse, or a probe that is no control. Whether a
    finding is new that the first run says nothing about is unknown.
    """
    if fail_on is None:
        return PASS
    if not comparison.findings_compared:
        raise ConfigError(
            f"--fail-on {fail_on}: the findings cannot be compared",
            expected="two verdicts under one policy",
            do="judge both runs with --policy POLICY",
        )
    counted = [each.change for each in comparison.findings if not _is_waived(each)]
    if fail_on == "worse":
        counted += [each.change for each in comparison.probes if each.group != "control"]
    if "new" in counted or (fail_on == "worse" and "worse" in counted):
        return BLOCK
    return INCONCLUSIVE if "unknown" in counted or comparison.uncompared else PASS


def _is_waived(finding: FindingChange) -> bool:
    return finding.after is not None and finding.after.waived


def _refuse_unreliable(name: str, data: RunData) -> None:
    faults = [*record_findings(data), *self_check_findings(data)]
    if faults:
        raise ConfigError(
            f"the {name} run ({data.run.run_id}) cannot be relied on: {faults[0].message}",
            expected="records that hold and self-checks that passed",
            do="measure it again",
        )


def _left_out(sides: _Sides) -> LeftOut:
    prompts, labels = has_prompts(sides.after.run), has_labels(sides.after.run)
    before, after = ({probe.id: probe for probe in side.run.probe_set.probes} for side in (sides.before, sides.after))
    return LeftOut(
        gone=tuple(name for name in before if name not in after),
        added=tuple(name for name in after if name not in before),
        replaced=tuple(
            name
            for name, probe in after.items()
            if name in before and not same_probe(before[name], probe, prompts=prompts, labels=labels)
        ),
    )


def _refuse_other_probes(sides: _Sides, left_out: LeftOut, *, common_probes: bool) -> None:
    if not _other_probe_sets(sides, left_out):
        return
    counts = f"{len(left_out.added)} added, {len(left_out.gone)} gone, {len(left_out.replaced)} with another image"
    if not common_probes:
        raise ConfigError(
            f"the runs differ in their probes: {counts}",
            expected="one probe set",
            do="compare the probes that both have with --common-probes",
        )
    if {probe.id for probe in sides.after.run.probe_set.probes} <= left_out.probes:
        raise ConfigError(f"the runs have no probe in common: {counts}", expected="at least one with the same image")
    if _NEIGHBOURS in sides.after.run.metric.name and _controls(sides.before) != _controls(sides.after):
        raise ConfigError(
            f"the runs differ in the metric: {_NEIGHBOURS} is made of the controls, and these differ",
            expected="the same control images in both runs",
        )


def _other_probe_sets(sides: _Sides, left_out: LeftOut) -> bool:
    return bool(left_out.probes) or sides.before.run.probe_set.digest != sides.after.run.probe_set.digest


def _controls(data: RunData) -> frozenset[tuple[str, str]]:
    return frozenset((probe.sha256, probe.fit) for probe in data.run.probe_set.probes if probe.group == "control")


def _probe_changes(sides: _Sides, left_out: LeftOut, policy: Policy | None) -> Iterator[ProbeChange]:
    old, new = ({found.probe: found for found in side.measurements} for side in (sides.before, sides.after))
    estimated = likelihoods_of(sides.before), likelihoods_of(sides.after)
    for probe in sides.after.run.probe_set.probes:
        if probe.id not in left_out.probes:
            score = score_change(old.get(probe.id), new.get(probe.id), margin=_margin(policy, probe))
            tried = (_tried(side, probe) if sides.same_confirmation else () for side in (sides.before, sides.after))
            rates = tuple(rate_changes(old.get(probe.id), new.get(probe.id), *tried))
            likelihoods = likelihood_changes(*estimated, probe, same_plan=sides.same_confirmation)
            yield _probe_change(probe, score, rates, tuple(likelihoods))


def _probe_change(
    probe: Probe, score: ScoreChange, rates: tuple[RateChange, ...], likelihoods: tuple[LikelihoodChange, ...]
) -> ProbeChange:
    return ProbeChange(
        probe=probe.id,
        group=probe.group,
        category=probe.category,
        change=overall([score.change, *(rate.change for rate in rates), *(likely.change for likely in likelihoods)]),
        score=score,
        rates=rates,
        likelihoods=likelihoods,
    )


def _tried(data: RunData, probe: Probe) -> tuple[Confirmation, ...]:
    return tuple(found for found in data.confirmations if found.probe == probe.id)


def _margin(policy: Policy | None, probe: Probe) -> float | None:
    """The smallest margin of the rules `regression` that look at the probe."""
    rules = policy.rules if policy else ()
    return min(
        (rule.margin for rule in rules if isinstance(rule, RegressionConfig) and is_selected(probe, rule)), default=None
    )


def _why_no_findings(sides: _Sides) -> str:
    old, new = sides.before.verdict, sides.after.verdict
    for name, data in (("first", sides.before), ("second", sides.after)):
        if data.verdict is None:
            return f"the {name} run was not judged"
        if fault := next(verdict_faults(data), ""):
            return f"the {name} run's verdict {fault}"
    if old and new and old.policy_digest != new.policy_digest:
        return f"the verdicts are under two policies, {old.policy} and {new.policy}, or two versions of one"
    return ""


def _notes(sides: _Sides, policy: Policy | None, excuse: str, *, skip: frozenset[str]) -> Iterator[str]:
    if excuse:
        yield f"Findings are not compared: {excuse}. --policy judges both afresh."
    else:
        verdicts = (sides.before.verdict, sides.after.verdict)
        found = {finding.rule for verdict in verdicts if verdict for finding in verdict.findings} & skip
        if found:
            yield f"Findings of {names(found)} are left out: they rest on more than the probes of these two runs."
    if not any(isinstance(rule, RegressionConfig) for rule in (policy.rules if policy else ())):
        yield "No policy with a rule regression was given: scores are held to the guard band and the seeds' spread."
    if not sides.same_confirmation:
        yield "The runs confirmed by different plans: their confirmation rates are not compared."
    changed = differences(sides.before.run.inputs, sides.after.run.inputs)
    different = [name for name in _CIRCUMSTANCES if name in changed]
    if different:
        yield f"The runs also differ in {', '.join(different)}, which can move a score a little."
