"""How scores, rates and findings changed between two runs. Lower scores and higher rates are worse."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isclose
from typing import Final, Literal

from invmm_gate.core.records import Confirmation, Group, Measurement, ReplicationShare
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.compare.comparison import (
    TEST_SAMPLES,
    Breach,
    Change,
    FindingChange,
    FindingFate,
    LikelihoodState,
    ProbeChange,
    RateChange,
    RateFate,
    ScoreChange,
    ScoreState,
    Uncompared,
)
from invmm_gate.policy.coverage import METRIC, SELF_CHECK, SETTINGS
from invmm_gate.policy.field_types import guarded
from invmm_gate.policy.soundness import RECORDS


def score_change(before: Measurement | None, after: Measurement | None, *, margin: float | None) -> ScoreChange:
    """Hold two scores against each other; None for a side where the probe was not measured.

    A score is worse if it lies below the other by more than the guard band and, as the rule `regression` asks, by at
    least the margin. Without a margin, two scores within each other's spread over the seeds are unchanged.
    """
    within = _within_spread(before, after)
    if before is None or after is None or "error" in (before.outcome, after.outcome):
        change: Change = "unknown"
    else:
        change = "unchanged" if within and margin is None else _direction(_range(before), _range(after), margin or 0.0)
    return ScoreChange(
        change=change,
        before=_state(before),
        after=_state(after),
        margin=margin,
        within_spread=within,
        reason=f"{_said(before)} before, {_said(after)} now",
    )


def rate_changes(
    before: Measurement | None,
    after: Measurement | None,
    tried_before: Iterable[Confirmation],
    tried_after: Iterable[Confirmation],
) -> Iterator[RateChange]:
    """The share of the last test's samples, then each way of confirming that either run tried."""
    yield _rate(TEST_SAMPLES, before.share if before else None, after.share if after else None)
    old, new = _by_method(tried_before), _by_method(tried_after)
    for method in sorted(old.keys() | new.keys()):
        yield _rate(method, old.get(method), new.get(method))


def overall(changes: Iterable[str]) -> Change:
    """Closed: one part that is worse makes the whole worse, and one that is unknown keeps it from being better."""
    found = set(changes)
    order: tuple[Change, ...] = ("worse", "unknown", "better")
    return next((change for change in order if change in found), "unchanged")


def _by_method(tried: Iterable[Confirmation]) -> Mapping[str, ReplicationShare]:
    return {
        found.method: ReplicationShare(hits=found.hits, trials=found.trials, interval=found.interval) for found in tried
    }


def _rate(name: str, before: ReplicationShare | None, after: ReplicationShare | None) -> RateChange:
    return RateChange(name=name, change=_fate(before, after), before=before, after=after)


def _fate(before: ReplicationShare | None, after: ReplicationShare | None) -> RateFate:
    """By the recorded intervals, whatever ended the sampling: an interval for a fixed number of samples would not do.

    Sampling stops at a look with a copy, so the counts alone lean to whichever run met its copy first.
    """
    if before is None or after is None:
        hits = sum(share.hits for share in (before, after) if share)
        return "unknown" if hits else "not_compared"
    if after.interval.low > before.interval.high:
        return "worse"
    return "better" if before.interval.low > after.interval.high else "unchanged"


def _range(found: Measurement) -> tuple[float, float]:
    """Where the score can lie: a stopped probe's above its bound, +inf for one that was not inverted."""
    if found.invmm is not None:
        return (found.invmm, found.invmm)
    return (inf if found.invmm_above is None else found.invmm_above, inf)


def _direction(before: tuple[float, float], after: tuple[float, float], margin: float) -> Change:
    if _clearly_below(after[1], before[0], margin):
        return "worse"
    if _clearly_below(before[1], after[0], margin):
        return "better"
    scored_before, scored_after = before[1] < inf, after[1] < inf
    return "unchanged" if scored_before == scored_after else "unknown"


def _clearly_below(score: float, other: float, margin: float) -> bool:
    return guarded(score) < other and score <= guarded(other - margin)


def _within_spread(before: Measurement | None, after: Measurement | None) -> bool:
    if before is None or after is None or before.invmm is None or after.invmm is None:
        return False
    old, new = before.invmm_spread, after.invmm_spread
    return bool(old and new and old[0] <= after.invmm <= old[1] and new[0] <= before.invmm <= new[1])


def _state(found: Measurement | None) -> ScoreState | None:
    if found is None:
        return None
    return ScoreState(
        outcome=found.outcome, invmm=found.invmm, invmm_above=found.invmm_above, spread=found.invmm_spread
    )


def _said(found: Measurement | None) -> str:
    if found is None:
        return "not measured"
    if found.invmm is not None:
        return f"{found.invmm:.6g}"
    if found.invmm_above is not None:
        return f"stopped above {found.invmm_above:.6g}"
    return "broke" if found.outcome == "error" else "not inverted"


REGRESSION: Final = "regression"
"""Not compared: each verdict held its run against a baseline of its own, and the scores here answer that question."""
AGAINST_CONTROLS: Final = ("below_controls", "group_below_controls")
"""Not compared across probe sets: the other probes and the controls decide them too."""
_CONFIRMED: Final = "confirmed"
_LIKELIHOOD: Final = "extraction_likelihood"
"""These two rules are about what generations are copies of, and not about scores."""
_WHOLE_RUN: Final = frozenset((RECORDS, SELF_CHECK, METRIC, SETTINGS))
"""An open question of these leaves every finding of its run open."""

_Side = Literal["block", "open", "clear"]
_Key = tuple[str, str | None, Group | None]
"""Rule, probe, group."""


@dataclass(frozen=True, slots=True)
class _Findings:
    """The findings of one verdict, and what they leave open."""

    found: Mapping[_Key, Sequence[Finding]]
    open_rules: frozenset[str]
    measured: frozenset[str]

    def side(self, key: _Key) -> _Side:
        """Whether the rule blocks here, leaves the question open, or was answered without a breach."""
        rule, probe, _ = key
        here = self.found.get(key, ())
        if any(finding.effect == "block" for finding in here):
            return "block"
        unmeasured = probe is not None and probe not in self.measured
        return "open" if here or unmeasured or self.open_rules & {rule, *_WHOLE_RUN} else "clear"

    def values(self, key: _Key) -> tuple[float, ...]:
        """The figures that broke the rule here."""
        return tuple(finding.value for finding in self.found.get(key, ()) if finding.value is not None)

    def breach(self, key: _Key) -> Breach | None:
        """The first finding of this rule here; waived only if all of them are."""
        here = sorted(self.found.get(key, ()), key=lambda finding: finding.effect != "block")
        if not here:
            return None
        waived = all(finding.waiver is not None for finding in here)
        return Breach(effect=here[0].effect, value=here[0].value, limit=here[0].limit, waived=waived)


def finding_changes(
    before: RunData, after: RunData, probes: Mapping[str, ProbeChange], *, skip: frozenset[str]
) -> tuple[FindingChange, ...]:
    """One change for each rule and probe that either verdict names; `skip` are rules that cannot be compared."""
    old, new = _findings(before, probes, skip), _findings(after, probes, skip)
    keys = sorted(old.found.keys() | new.found.keys(), key=lambda key: (key[0], key[1] or "", key[2] or ""))
    return tuple(
        FindingChange(
            rule=rule,
            probe=probe,
            group=group,
            change=_fate_of_finding(key, old, new, probes.get(probe or "")),
            before=old.breach(key),
            after=new.breach(key),
        )
        for key in keys
        for rule, probe, group in [key]
    )


def uncompared(after: RunData, probes: Mapping[str, ProbeChange], *, skip: frozenset[str]) -> tuple[Uncompared, ...]:
    """Findings of the second run that `finding_changes` leaves out and no waiver covers.

    Without the open questions of the rule `regression`: a comparison answers by itself what that rule lacks a baseline
    for.
    """
    return tuple(
        Uncompared(
            rule=finding.rule,
            probe=finding.probe,
            group=finding.group,
            effect=finding.effect,
            value=finding.value,
            limit=finding.limit,
        )
        for finding in (after.verdict.findings if after.verdict else ())
        if finding.waiver is None
        and not _is_compared(finding, probes, skip)
        and not (finding.rule == REGRESSION and finding.effect == "inconclusive")
    )


def _is_compared(finding: Finding, probes: Mapping[str, ProbeChange], skip: frozenset[str]) -> bool:
    return finding.rule not in skip and (finding.probe is None or finding.probe in probes)


def _findings(data: RunData, probes: Mapping[str, ProbeChange], skip: frozenset[str]) -> _Findings:
    found: dict[_Key, list[Finding]] = {}
    for finding in data.verdict.findings if data.verdict else ():
        if _is_compared(finding, probes, skip):
            found.setdefault((finding.rule, finding.probe, finding.group), []).append(finding)
    undecided = (rule for (rule, *about), here in found.items() if about == [None, None] and here[0].effect != "block")
    measured = frozenset(record.probe for record in data.measurements if record.outcome != "error")
    return _Findings(found, frozenset(undecided), measured)


def _fate_of_finding(key: _Key, old: _Findings, new: _Findings, probe: ProbeChange | None) -> FindingFate:
    before, after = old.side(key), new.side(key)
    if "open" in (before, after):
        return "unknown"
    if before != after:
        return "new" if after == "block" else "fixed"
    if probe is None:
        return "unchanged"
    if key[0] == _LIKELIHOOD:
        return _strength_by_likelihood(probe, old.values(key), new.values(key))
    return _strength(key[0], probe)


def _strength(rule: str, probe: ProbeChange) -> FindingFate:
    """A breach on both sides is as much worse as what the rule looks at."""
    if rule == _CONFIRMED:
        return overall(_confirmed(probe) or ["unknown"])
    test = [rate.change for rate in probe.rates if rate.name == TEST_SAMPLES]
    return overall([probe.score.change, *test])


def _strength_by_likelihood(probe: ProbeChange, before: Sequence[float], after: Sequence[float]) -> FindingFate:
    """By the likelihoods that gave the figures of the two findings, and by the counted copies, which can give one too.

    A verdict does not say which kinds of prompt its rule looks at, but the figure of a finding is a lower bound.
    """
    about = [each.change for each in probe.likelihoods if _gave(each.before, before) or _gave(each.after, after)]
    return overall([*about, *_confirmed(probe)] or ["unknown"])


def _gave(state: LikelihoodState | None, values: Iterable[float]) -> bool:
    return state is not None and any(isclose(state.lower, value, rel_tol=1e-6) for value in values)


def _confirmed(probe: ProbeChange) -> list[RateFate]:
    """The rates of the inputs that a user could give."""
    return [rate.change for rate in probe.rates if rate.name != TEST_SAMPLES]
