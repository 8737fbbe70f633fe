"""What the public edition has in place of figures of single probes: bands of fixed edges, so that runs compare."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from math import floor, isfinite, log
from typing import Final

from invmm_gate.core.intervals import clopper_pearson, wilson
from invmm_gate.core.records import Confirmation, Interval, ReplicationShare

INVMM_EDGES: Final = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper ends of the bands of InvMM; beyond the last, the last."""
SHARE_EDGES: Final = (Fraction(0), Fraction(1, 100), Fraction(1, 10), Fraction(1, 2), Fraction(1))
"""Upper ends of the bands of a share of samples. None at all is a band of its own."""

LIKELIHOOD_EDGES: Final = (1, 2, 3, 6, 9)
"""Lower ends of the bands of a likelihood: one in 10 to this power, the limits of the shipped policies among them. A
lower bound below the last has no band: its power of ten would tell the score."""

_INTERVALS: Final[dict[str, Callable[..., Interval]]] = {"wilson": wilson, "clopper_pearson": clopper_pearson}


def score_band(value: float | None) -> float | None:
    """The upper end of an InvMM's band."""
    if value is None or not isfinite(value):
        return None
    return next((edge for edge in INVMM_EDGES if value <= edge), INVMM_EDGES[-1])


def bound_band(value: float | None) -> float | None:
    """The lower end of the band of a value that the score exceeds: it exceeds that too."""
    if value is None or not isfinite(value):
        return None
    return max((edge for edge in INVMM_EDGES if edge <= value), default=0.0)


def likelihood_band(nats: float) -> float | None:
    """-ln of the lower end of the band of a likelihood that is at least exp(-nats); None below the last band."""
    edges = (edge * log(10) for edge in LIKELIHOOD_EDGES)
    return next((edge for edge in edges if nats <= edge + 1e-9), None)


def share_band(share: ReplicationShare | None) -> ReplicationShare | None:
    """The most hits of the share's band."""
    if share is None:
        return None
    hits, interval = counts_band(share.hits, share.trials, share.interval)
    return ReplicationShare(hits=hits, trials=share.trials, interval=interval)


def counts_band(hits: int, trials: int, interval: Interval) -> tuple[int, Interval]:
    """The most hits of the band, and an interval that covers those of all counts in it: both tell of the band alone."""
    return _counts_band(_band_of(hits, trials), max(trials, 0), interval.confidence, interval.method)


def _band_of(hits: int, trials: int) -> int:
    share = Fraction(hits, trials) if trials > 0 else Fraction(0)
    ends = _ends(max(trials, 0))
    return next((band for band, most in enumerate(ends) if share * trials <= most), len(ends) - 1)


@cache
def _ends(trials: int) -> tuple[int, ...]:
    """The most hits of each band. A band of a single count, which would be exact, is one with that above it."""
    ends = [0]
    for edge in SHARE_EDGES[1:]:
        most = floor(edge * trials)
        if most > ends[-1] + 1 or edge == SHARE_EDGES[-1]:
            ends.append(most)
    return tuple(ends)


@cache
def _counts_band(band: int, trials: int, confidence: float, method: str) -> tuple[int, Interval]:
    most, least = _ends(trials)[band], _least_of(band, trials)
    low, high = (_INTERVALS[method](count, trials, confidence=confidence) for count in (least, most))
    return most, Interval(low=low.low, high=high.high, confidence=confidence, method=low.method)


def _least_of(band: int, trials: int) -> int:
    ends = _ends(trials)
    return min(ends[band - 1] + 1, ends[band]) if band else 0


def fewest_copies(item: Confirmation) -> Confirmation:
    """A sound confirmation with the fewest copies of its band."""
    least = _least_of(_band_of(item.hits, item.trials), item.trials)
    interval = _INTERVALS[item.interval.method](least, item.trials, confidence=item.interval.confidence)
    return replace(item, hits=least, interval=interval)
