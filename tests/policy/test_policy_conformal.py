"""P-values and Benjamini-Hochberg against scipy and against their definitions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from invmm_gate.policy.conformal import benjamini_hochberg, controls_for_one, exact, fewest_outliers, p_values

fractions = st.fractions(Fraction(1, 50), 1, max_denominator=50)
keys = st.tuples(st.sampled_from([0.01, 0.02, 0.5, float("inf")]), st.sampled_from([0.0, -0.25, -1.0]))


@given(st.lists(fractions, min_size=1, max_size=40))
def test_adjusted_p_values_equal_scipys(p: list[Fraction]) -> None:
    expected = false_discovery_control([float(value) for value in p], method="bh")
    np.testing.assert_allclose([float(value) for value in benjamini_hochberg(p)], expected, rtol=1e-12)


@given(st.lists(fractions, max_size=20), st.fractions(0, 1, max_denominator=100))
def test_rejections_equal_the_step_up_procedure(p: list[Fraction], level: Fraction) -> None:
    ordered = sorted(p)
    ranks = [rank for rank, value in enumerate(ordered, start=1) if value * len(p) <= rank * level]
    limit = ordered[max(ranks) - 1] if ranks else Fraction(-1)
    assert [value <= level for value in benjamini_hochberg(p)] == [value <= limit for value in p]


@given(st.lists(keys, max_size=10), st.lists(keys, max_size=30))
def test_p_value_counts_the_controls_at_or_below(
    probes: list[tuple[float, float]], controls: list[tuple[float, float]]
) -> None:
    expected = [Fraction(1 + sum(control <= key for control in controls), len(controls) + 1) for key in probes]
    assert list(p_values(probes, controls)) == expected


def test_p_values_of_exchangeable_images_are_not_too_small() -> None:
    random = np.random.default_rng(0)
    drawn = [p_values([(random.random(), 0.0)], [(x, 0.0) for x in random.random(19)])[0] for _ in range(4000)]
    for level in (0.05, 0.1, 0.5):
        assert sum(p <= exact(level) for p in drawn) / len(drawn) <= level + 0.015


@given(st.integers(1, 40), st.integers(0, 60), st.sampled_from([0.01, 0.05, 0.1, 0.5]))
def test_fewest_outliers_is_where_the_procedure_starts_to_reject(probes: int, controls: int, level: float) -> None:
    smallest = Fraction(1, controls + 1)
    fires = [
        k
        for k in range(1, probes + 1)
        if benjamini_hochberg([smallest] * k + [Fraction(1)] * (probes - k))[0] <= exact(level)
    ]
    assert fewest_outliers(probes, controls, level) == (fires[0] if fires else None)


@given(st.integers(1, 60), st.sampled_from([0.01, 0.05, 0.1, 0.3, 0.5]))
def test_so_many_controls_and_no_fewer_flag_a_single_probe(probes: int, level: float) -> None:
    count = controls_for_one(probes, level)
    assert fewest_outliers(probes, count, level) == 1
    assert count == 0 or fewest_outliers(probes, count - 1, level) != 1


@pytest.mark.parametrize("text", ["0.1", "0.05", "0.3"])
def test_level_is_the_decimal_that_was_written(text: str) -> None:
    assert exact(float(text)) == Fraction(text)
