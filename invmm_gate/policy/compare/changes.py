"""How a probe's score and rates changed between two runs. Lower scores and higher rates are worse."""

import math
from collections.abc import Iterable, Iterator, Mapping

from invmm_gate.core.records import Confirmation, Measurement, ReplicationShare
from invmm_gate.policy.compare.comparison import (
    TEST_SAMPLES,
    Change,
    RateChange,
    RateFate,
    ScoreChange,
    ScoreState,
)
from invmm_gate.policy.numbers import guarded


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
    return (math.inf if found.invmm_above is None else found.invmm_above, math.inf)


def _direction(before: tuple[float, float], after: tuple[float, float], margin: float) -> Change:
    if _clearly_below(after[1], before[0], margin):
        return "worse"
    if _clearly_below(before[1], after[0], margin):
        return "better"
    scored_before, scored_after = before[1] < math.inf, after[1] < math.inf
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
