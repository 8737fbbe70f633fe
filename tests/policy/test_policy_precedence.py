"""The test of a whole group: its errors counted over every order, simulated on keys as runs have, and its power."""

from fractions import Fraction
from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invmm_gate.policy.conformal import Key, fewest_outliers
from invmm_gate.policy.precedence import fewest_below, holm, strongest_look, tail

NOTHING: Key = (float("inf"), 0.0)
LEVELS = (Fraction(1, 100), Fraction(1, 20), Fraction(1, 10), Fraction(1, 2))
keys = st.tuples(st.sampled_from([0.0, 0.01, 0.02, float("inf")]), st.sampled_from([0.0, -0.25, -1.0]))
fractions = st.fractions(Fraction(1, 200), 1, max_denominator=200)


@given(st.lists(keys, min_size=7, max_size=8), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_if_every_order_is_equally_likely_no_level_is_exceeded_whatever_the_ties(
    pool: list[Key], controls: int
) -> None:
    found = []
    for chosen in combinations(range(len(pool)), controls):
        rest = [key for place, key in enumerate(pool) if place not in chosen]
        found.append(strongest_look(rest, [pool[place] for place in chosen]).p)
    for level in LEVELS:
        assert Fraction(sum(p <= level for p in found), len(found)) <= level


def measured(random: Random) -> Key:
    """As under an early stop: scores below the stop, others stopped or not inverted with a share, most with nothing."""
    kind = random.random()
    if kind < 0.15:
        return (round(random.uniform(0, 0.08), 3), -1.0)
    if kind < 0.2:
        return (0.0, -1.0)  # the test of plain noise
    return (float("inf"), -random.choice((0, 0, 0, 0, 1, 2, 4)) / 8)


@pytest.mark.parametrize("probes", [4, 16, 40])
def test_a_group_that_no_model_saw_is_flagged_no_more_often_than_alpha(probes: int) -> None:
    random = Random(probes)
    found = [
        strongest_look([measured(random) for _ in range(probes)], [measured(random) for _ in range(16)]).p
        for _ in range(1500)
    ]
    for level in LEVELS[1:]:
        error = (float(level) * (1 - float(level)) / len(found)) ** 0.5
        assert sum(p <= level for p in found) / len(found) <= float(level) + 2 * error


@given(st.integers(0, 6), st.integers(0, 3), st.integers(0, 6), st.integers(1, 5))
def test_a_look_s_tail_is_the_share_of_orders_that_show_as_much(
    below: int, past: int, probes: int, controls: int
) -> None:
    if below > probes or past >= controls:
        return
    orders = list(combinations(range(probes + controls), controls))  # places of the controls
    shown = [order[past] - past >= below for order in orders]  # probes before the control after the `past` lowest
    assert tail(below, past, probes=probes, controls=controls) == Fraction(sum(shown), len(shown))


@given(st.lists(keys, min_size=1, max_size=8), st.lists(keys, min_size=1, max_size=6), st.data())
def test_a_lower_probe_never_raises_p_nor_does_a_higher_control(
    probes: list[Key], controls: list[Key], data: st.DataObject
) -> None:
    before = strongest_look(probes, controls).p
    place, key = data.draw(st.integers(0, len(probes) - 1)), data.draw(keys)
    lower = [*probes[:place], min(key, probes[place]), *probes[place + 1 :]]
    assert strongest_look(lower, controls).p <= before
    place = data.draw(st.integers(0, len(controls) - 1))
    higher = [*controls[:place], max(key, controls[place]), *controls[place + 1 :]]
    assert strongest_look(probes, higher).p <= before


def test_probes_that_say_nothing_are_no_evidence() -> None:
    controls = [NOTHING] * 16
    assert strongest_look([NOTHING] * 100, controls).p == 1
    alone, among = (strongest_look([(0.01, -1.0)] * 6 + [NOTHING] * more, controls).p for more in (0, 10))
    assert alone < among


def test_one_control_that_inverts_by_luck_hides_no_group() -> None:
    probes = [(0.02, -1.0)] * 8 + [NOTHING] * 8
    without, lucky = (strongest_look(probes, [low, *[NOTHING] * 15]) for low in (NOTHING, (0.001, -1.0)))
    assert (without.below, without.past) == (8, 0)
    assert (lucky.below, lucky.past) == (8, 1)
    assert without.p < lucky.p < Fraction(1, 20)


@pytest.mark.parametrize(
    ("probes", "group", "single"), [(8, 4, 5), (16, 5, 10), (20, 6, 12), (32, 9, 19), (50, 12, 30), (100, 23, 59)]
)
def test_beside_16_controls_a_group_shows_far_sooner_than_single_outliers(probes: int, group: int, single: int) -> None:
    """How many of the probes must lie below every control: the group's test at 0.05, single probes at an FDR of 0.1."""
    assert fewest_below(probes, 16, 0.05) == group
    assert fewest_outliers(probes, 16, 0.1) == single
    for below, flagged in ((group - 1, False), (group, True)):
        look = strongest_look([(0.01, -1.0)] * below + [NOTHING] * (probes - below), [NOTHING] * 16)
        assert (look.p <= Fraction(1, 20)) == flagged


@pytest.mark.parametrize(
    ("probes", "controls", "few"), [(1, 16, None), (1, 39, 1), (2, 16, 2), (5, 0, None), (0, 16, None)]
)
def test_a_group_that_cannot_be_flagged_is_known_by_its_size(probes: int, controls: int, few: int | None) -> None:
    assert fewest_below(probes, controls, 0.05) == few


@given(st.lists(fractions, max_size=12), st.fractions(0, Fraction(99, 100), max_denominator=200))
def test_holm_rejects_step_by_step(p: list[Fraction], level: Fraction) -> None:
    left = sorted(p)
    while left and left[0] * len(left) <= level:
        left.pop(0)
    rejected = len(p) - len(left)
    assert sorted(value <= level for value in holm(p)) == sorted(place < rejected for place in range(len(p)))
    assert all(adjusted >= value for adjusted, value in zip(holm(p), p, strict=True))
    ordered = sorted(range(len(p)), key=lambda place: p[place])
    assert [holm(p)[place] for place in ordered] == sorted(holm(p))
