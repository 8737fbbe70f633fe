"""Two runs of one rate seldom look different, though sampling stops when it pleases: exact, over every ending."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binom

from invmm_gate.confirm.plain_sampling import looks
from invmm_gate.core.intervals import clopper_pearson, wilson
from invmm_gate.core.records import Interval
from invmm_gate.policy.compare.changes import rate_changes
from tests.policy.policy_builders import sampled

STATED = 0.01
"""Of pairs of runs with one and the same rate, at most this share may be called worse or better."""
RATES = (0.0003, 0.001, 0.003, 0.005, 0.01, 0.02, 0.05, 0.2, 0.5, 0.9)


class Ending(NamedTuple):
    """How sampling can end, and how likely that is."""

    hits: int
    trials: int
    interval: Interval
    probability: float


def plain(rate: float, limit: float, trials: int = 512) -> list[Ending]:
    """Every ending of `confirm_by_sampling`: it looks at 64, 128, .. samples and stops once the limit is decided."""
    marks = looks(trials)
    confidence = 1 - 0.05 / len(marks)
    endings, going = [], np.ones(1)
    for start, end in pairwise((0, *marks)):
        going = np.convolve(going, binom.pmf(np.arange(end - start + 1), end - start, rate))
        for hits in np.flatnonzero(going > 0):
            interval = clopper_pearson(int(hits), end, confidence=confidence)
            if end == trials or interval.low > limit or interval.high <= limit:
                endings.append(Ending(int(hits), end, interval, float(going[hits])))
                going[hits] = 0
    return endings


def fixed(rate: float, trials: int) -> list[Ending]:
    """Every ending of the measure's own last test."""
    return [
        Ending(hits, trials, wilson(hits, trials), float(binom.pmf(hits, trials, rate))) for hits in range(trials + 1)
    ]


def false_alarms(first: list[Ending], second: list[Ending]) -> float:
    """How often two such runs are called different."""
    lows, highs, weights = (
        np.array(values)
        for values in zip(*((each.interval.low, each.interval.high, each.probability) for each in second), strict=True)
    )
    return sum(
        each.probability * float(weights[(lows > each.interval.high) | (highs < each.interval.low)].sum())
        for each in first
    )


@pytest.mark.parametrize("limits", [(0.0, 0.0), (0.005, 0.005), (0.02, 0.02), (0.0, 0.02), (0.005, 0.02)])
@pytest.mark.parametrize("rate", RATES)
def test_runs_of_one_rate_are_seldom_called_different_whatever_limit_stopped_them(
    rate: float, limits: tuple[float, float]
) -> None:
    first, second = (plain(rate, limit) for limit in limits)
    assert sum(each.probability for each in first) == pytest.approx(1)
    assert false_alarms(first, second) <= STATED


@pytest.mark.parametrize("trials", [8, 24, 64])
@pytest.mark.parametrize("rate", RATES)
def test_so_are_shares_of_a_test_that_never_stops_early(rate: float, trials: int) -> None:
    assert false_alarms(fixed(rate, trials), fixed(rate, trials)) <= STATED


def _called(first: Ending, second: Ending) -> str:
    runs = ([sampled("p1", each.hits, each.trials, interval=each.interval)] for each in (first, second))
    return list(rate_changes(None, None, *runs))[-1].change


def test_what_is_called_different_is_what_the_rates_above_are_of() -> None:
    endings = [each for each in plain(0.01, 0.0) if each.probability > 1e-4]
    assert len(endings) > 10
    for first in endings:
        for second in endings:
            apart = second.interval.low > first.interval.high or second.interval.high < first.interval.low
            assert (_called(first, second) != "unchanged") == apart
