"""lambda follows the loop of the authors' code: growth after each step, test when (step + 1) % C is 0."""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from invmm_gate.core.settings import InversionSettings
from invmm_gate.measure.slots import WeightState, adapt, weights_until_test

GOLDEN = InversionSettings(
    steps=9, batch_size=1, test_every=3, weight_step=0.1, plateau_tolerance=0.5, loss_window=1, initial_weight=1.0
)
LOSSES = (5.0, 4.0, 3.0, 2.9, 2.8, 2.7, 1.0, 1.0, 1.0)


class Lambda(NamedTuple):
    """lambda of each optimisation step, and what each test left."""

    used: list[float]
    left: list[float]


def authors_loop(losses: Sequence[float], options: InversionSettings) -> Lambda:
    """A direct transcription of the order in the authors' training loop: step, log, test, then lambda."""
    weight, previous = options.initial_weight, inf
    logged: deque[float] = deque(maxlen=options.loss_window)
    result = Lambda([], [])
    for step, loss in enumerate(losses):
        result.used.append(weight)  # loss = denoise + weight * normality; optimizer.step()
        logged.append(loss)
        if (step + 1) % options.test_every == 0:
            now = sum(logged) / len(logged)
            change = previous - now if options.plateau_sign == "improvement" else now - previous
            weight = weight / 2 if change < options.plateau_tolerance else weight + options.weight_step
            previous = now
            result.left.append(weight)
        else:
            weight = weight + options.weight_step
    return result


def gates_loop(losses: Sequence[float], options: InversionSettings) -> Lambda:
    """The same through the two functions that the inversion loop calls."""
    state, seen = WeightState(options.initial_weight), list[float]()
    result = Lambda([], [])
    for start in range(0, len(losses), options.test_every):
        result.used.extend(weights_until_test(state, options))
        seen.extend(losses[start : start + options.test_every])
        window = seen[-options.loss_window :]
        state = adapt(state, sum(window) / len(window), options)
        result.left.append(state.weight)
    return result


# used: lambda of steps 0 to 8. left: after the tests behind steps 2, 5 and 8.
TABLE = {
    # First test: +inf - 3 is an improvement, so + delta. Second: 0.3 < 0.5, halved. Third: 1.7, + delta.
    "improvement": Lambda([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 0.75, 0.85, 0.95], [1.3, 0.75, 1.05]),
    # The sign of Algorithm 1 halves at every test while the loss falls, the first one included.
    "paper": Lambda([1.0, 1.1, 1.2, 0.6, 0.7, 0.8, 0.4, 0.5, 0.6], [0.6, 0.4, 0.3]),
}


@pytest.mark.parametrize("sign", ["improvement", "paper"])
def test_golden_table_of_lambda(sign: str) -> None:
    options = replace(GOLDEN, plateau_sign=sign)
    for loop in (authors_loop, gates_loop):
        assert loop(LOSSES, options).used == pytest.approx(TABLE[sign].used)
        assert loop(LOSSES, options).left == pytest.approx(TABLE[sign].left)


def test_a_window_compares_means_that_share_most_of_their_losses() -> None:
    # Means over 4: 4, then (3 + 2.9 + 2.8 + 2.7) / 4 = 2.85, then (2.7 + 1 + 1 + 1) / 4 = 1.425.
    # Improvements 1.15 and 1.425: both above 0.5, so lambda only grows, where single losses would have halved it.
    options = replace(GOLDEN, loss_window=4)
    assert gates_loop(LOSSES, options).left == pytest.approx([1.3, 1.6, 1.9])
    assert authors_loop(LOSSES, options).left == pytest.approx([1.3, 1.6, 1.9])


OPTIONS = st.builds(
    InversionSettings,
    steps=st.just(1),
    batch_size=st.just(1),
    test_every=st.integers(1, 12),
    weight_step=st.floats(1e-5, 1.0),
    plateau_tolerance=st.floats(0.0, 1.0),
    plateau_sign=st.sampled_from(["improvement", "paper"]),
    loss_window=st.integers(1, 20),
    initial_weight=st.floats(1e-3, 10.0),
)


@settings(deadline=None)
@given(options=OPTIONS, tests=st.integers(1, 10), data=st.data())
def test_lambda_is_that_of_the_authors_loop_for_any_losses(
    options: InversionSettings, tests: int, data: st.DataObject
) -> None:
    length = tests * options.test_every
    losses = data.draw(
        st.lists(st.floats(0.0, 10.0).map(lambda loss: round(loss, 3)), min_size=length, max_size=length)
    )
    expected, found = authors_loop(losses, options), gates_loop(losses, options)
    # Growth is a product here and a repeated sum there: equal up to rounding.
    assert found.used == pytest.approx(expected.used, rel=1e-9)
    assert found.left == pytest.approx(expected.left, rel=1e-9)


@settings(deadline=None)
@given(options=OPTIONS, losses=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=60))
def test_an_adaptive_lambda_stays_above_zero(options: InversionSettings, losses: list[float]) -> None:
    state = WeightState(options.initial_weight)
    for loss in losses:
        state = adapt(state, loss, options)
        assert min(weights_until_test(state, options)) > 0


@settings(deadline=None)
@given(
    options=OPTIONS, losses=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=20), weight=st.sampled_from([0.0, 1.0])
)
def test_a_fixed_lambda_stays_what_it_was(options: InversionSettings, losses: list[float], weight: float) -> None:
    fixed = replace(options, weight_rule="fixed", initial_weight=weight)
    state = WeightState(weight)
    for loss in losses:
        assert set(weights_until_test(state, fixed)) == {weight}
        state = adapt(state, loss, fixed)
    assert state.weight == weight


@settings(deadline=None)
@given(
    cycles=st.integers(1, 20), every=st.integers(1, 50), first=st.floats(1e-3, 10), last=st.floats(1e-3, 10),
    losses=st.lists(st.floats(0.0, 1e6), min_size=20, max_size=20),
)  # fmt: skip
def test_a_growing_lambda_rises_by_one_factor_to_the_last_step(
    cycles: int, every: int, first: float, last: float, losses: list[float]
) -> None:
    growing = replace(
        GOLDEN, weight_rule="growing", initial_weight=first, final_weight=last, steps=cycles * every, test_every=every
    )
    state, used = WeightState(first), []
    for loss in losses[:cycles]:
        used += weights_until_test(state, growing)
        state = adapt(state, loss, growing)
    assert used[0] == first
    factors = [later / earlier for earlier, later in itertools.pairwise([*used, state.weight])]
    assert factors == pytest.approx([(last / first) ** (1 / growing.steps)] * growing.steps, rel=1e-9)
    assert state.weight == pytest.approx(last, rel=1e-9)


def test_steady_halving_ends_where_growth_makes_up_for_it() -> None:
    # Each cycle adds (C - 1) * delta, and halving takes half of the sum: the fixed point is (C - 1) * delta.
    options = replace(GOLDEN, test_every=50, weight_step=1e-3)
    state = WeightState(1.0, watched=1.0)
    for _ in range(100):
        state = adapt(state, 1.0, options)
    assert state.weight == pytest.approx(49 * 1e-3)
