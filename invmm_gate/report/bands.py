"""The bands that figures of single probes are put into before they leave the run folder."""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from math import floor, isfinite
from typing import Final

from invmm_gate.core.intervals import clopper_pearson, wilson
from invmm_gate.core.records import Interval, ReplicationShare

INVMM_EDGES: Final = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper ends of the bands of InvMM, the thresholds of the shipped policies among them; beyond the last, the last."""
SHARE_EDGES: Final = (Fraction(0), Fraction(1, 100), Fraction(1, 10), Fraction(1, 2), Fraction(1))
"""Upper ends of the bands of a share of samples. None at all is a band of its own."""

NOTE: Final = (
    "Public edition: names of probes and clusters are keyed hashes. An InvMM is the upper end of its band "
    f"({', '.join(f'{edge:g}' for edge in INVMM_EDGES)}), a bound the lower end. A count of replicating samples is the "
    "most that its band holds (none, 1 %, 10 %, 50 %, 100 % of the samples), with an interval that covers the band's. "
    "The full report stays in the run folder."
)

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
    ends = _ends(trials)
    most, least = ends[band], min(ends[band - 1] + 1, ends[band]) if band else 0
    low, high = (_INTERVALS[method](count, trials, confidence=confidence) for count in (least, most))
    return most, Interval(low=low.low, high=high.high, confidence=confidence, method=low.method)
