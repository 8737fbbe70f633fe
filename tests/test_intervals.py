"""The intervals are those of scipy, and cover as often as they say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaincinv
from scipy.stats import binom, binomtest

from invmm_gate.core.intervals import clopper_pearson, replication_share, wilson
from invmm_gate.core.records import Interval

COUNTS = st.integers(1, 2000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))
CONFIDENCES = st.sampled_from([0.8, 0.95, 0.9875, 0.999])
METHODS = {"wilson": (wilson, "wilson"), "clopper_pearson": (clopper_pearson, "exact")}


@pytest.mark.parametrize("name", METHODS)
@given(counts=COUNTS, confidence=CONFIDENCES)
def test_intervals_equal_scipys(name: str, counts: tuple[int, int], confidence: float) -> None:
    method, scipy_name = METHODS[name]
    found = method(*counts, confidence=confidence)
    expected = binomtest(*counts).proportion_ci(confidence_level=confidence, method=scipy_name)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert (found.method, found.confidence) == (name, confidence)
    assert 0 <= found.low <= counts[0] / counts[1] <= found.high <= 1


@given(trials=st.integers(1, 1_000_000), confidence=CONFIDENCES)
def test_the_exact_interval_of_no_hits_and_of_all_hits_is_that_of_the_beta_distribution(trials, confidence) -> None:
    tail = (1 - confidence) / 2
    high, low = clopper_pearson(0, trials, confidence=confidence).high, clopper_pearson(trials, trials).low
    assert high == pytest.approx(float(betaincinv(1, trials, 1 - tail)), rel=1e-12)
    assert low == pytest.approx(float(betaincinv(trials, 1, 0.025)), rel=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_no_hits_begin_at_exactly_zero_and_all_hits_end_at_exactly_one(name: str) -> None:
    method, _ = METHODS[name]
    assert method(0, 8).low == 0.0
    assert method(8, 8).high == 1.0


def test_no_trials_tell_nothing() -> None:
    assert wilson(0, 0) == Interval(low=0.0, high=1.0, confidence=0.95, method="wilson")
    interval = clopper_pearson(0, 0)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_29_of_29_certify_nine_in_ten_one_sided() -> None:
    # The confirmation batch of the settings: 0.9 ** 29 is just below 5 %.
    assert clopper_pearson(29, 29, confidence=0.9).low > 0.9
    assert clopper_pearson(28, 28, confidence=0.9).low < 0.9


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5, 0.93])
@pytest.mark.parametrize("trials", [8, 64, 512])
def test_the_exact_interval_covers_at_least_as_often_as_it_says(rate: float, trials: int) -> None:
    covered = 0.0
    for hits in range(trials + 1):
        interval = clopper_pearson(hits, trials)
        covered += float(binom.pmf(hits, trials, rate)) if interval.low <= rate <= interval.high else 0.0
    assert covered >= 0.95


def test_a_share_carries_its_wilson_interval() -> None:
    share = replication_share(5, 8)
    assert (share.hits, share.trials, share.interval) == (5, 8, wilson(5, 8))
