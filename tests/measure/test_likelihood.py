"""The extraction likelihood against distributions whose p is known exactly."""

from collections.abc import Sequence
from itertools import product
from math import exp, inf, log, log2

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri_exp
from scipy.stats import binom
from torch import Tensor

from invmm_gate.core.intervals import upper_bound
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.sampling import sample
from invmm_gate.diffusion.schedule import VariancePreserving
from invmm_gate.measure.likelihood import (
    WeighedDraws,
    bet_against,
    draws_to_certify,
    log_bound_of_share,
    log_lower_bound,
)

RUNS, ALPHA = 1_000, 0.05
SCHEDULE = VariancePreserving((1 - torch.linspace(1e-4, 0.02, 1_000).double()).cumprod(0))


def edge_of(p: float) -> float:
    """R is the half-space of noises beyond this edge along one direction, and p its share of N(0, I)."""
    return float(-ndtri_exp(log(p)))


def weighed(edge: float, shift: float, draws: int, random: np.random.Generator, plain: float = 0.0) -> WeighedDraws:
    """Draws of (1 - plain) N(shift, 1) + plain N(0, 1), weighed; only the direction of R matters."""
    shifted = random.random(draws) >= plain
    x = random.normal(size=draws) + shift * shifted
    log_q = np.logaddexp(log(plain), log(1 - plain) + shift * x - shift**2 / 2) if plain else shift * x - shift**2 / 2
    return WeighedDraws(draws=draws, log_weights=tuple((-log_q)[x > edge]))


@pytest.mark.parametrize(("shift", "plain"), [(0.8, 0.0), (1.0, 0.75), (1.3, 0.0)])
@pytest.mark.parametrize("p", [0.5, 1e-2, 1e-4, 1e-6, 1e-9])
def test_the_lower_bound_holds_and_is_near_the_truth(p: float, shift: float, plain: float) -> None:
    """1,000 runs: a bound lies above p exactly where the bet at p wins. Its median is no worse than p / 100."""
    random, edge = np.random.default_rng(0), edge_of(p)
    found = [weighed(edge, shift * edge, 128, random, plain) for _ in range(RUNS)]
    wins = sum(bet_against(each, log(p)) >= -log(ALPHA) for each in found)
    assert wins <= ALPHA * RUNS
    bounds = [log_lower_bound(each, ALPHA) for each in found[:50]]
    assert np.median(bounds) > log(p / 100)


@pytest.mark.parametrize("p", [0.5, 1e-3, 1e-6, 1e-9])
def test_the_estimate_is_unbiased(p: float) -> None:
    random, edge = np.random.default_rng(1), edge_of(p)
    relative = np.array([exp(weighed(edge, edge, 64, random, 0.25).log_estimate - log(p)) for _ in range(RUNS)])
    assert abs(relative.mean() - 1) < 4 * relative.std() / RUNS**0.5


@pytest.mark.parametrize("p", [0.3, 1e-2, 1e-3])
def test_the_upper_bound_from_plain_samples_holds(p: float) -> None:
    hits = np.random.default_rng(2).binomial(512, p, size=RUNS)
    below = {int(count): upper_bound(int(count), 512, confidence=1 - ALPHA) for count in set(hits.tolist())}
    assert sum(below[count] < p for count in hits.tolist()) <= ALPHA * RUNS + 4 * (ALPHA * RUNS) ** 0.5


def test_where_the_bound_lies_the_bet_just_wins() -> None:
    found = weighed(edge_of(1e-4), 3.0, 128, np.random.default_rng(3))
    bound = log_lower_bound(found, ALPHA)
    assert bet_against(found, bound) == pytest.approx(-log(ALPHA), abs=1e-6)
    assert bet_against(found, bound + 0.01) < -log(ALPHA)


@given(
    weights=st.lists(st.floats(-900, 5), min_size=1, max_size=20),
    misses=st.integers(0, 200),
    alpha=st.floats(1e-4, 0.4),
)
def test_the_lower_bound_is_markovs_at_least_and_never_above_the_estimate(
    weights: list[float], misses: int, alpha: float
) -> None:
    found = WeighedDraws(draws=len(weights) + misses, log_weights=tuple(weights))
    bound = log_lower_bound(found, alpha)
    assert log(alpha / 2) + found.log_estimate <= bound + 1e-9
    assert bound <= found.log_estimate


def test_without_a_copy_there_is_neither_estimate_nor_bound() -> None:
    nothing = WeighedDraws(draws=100, log_weights=())
    assert nothing.log_estimate == log_lower_bound(nothing, ALPHA) == -inf


@given(share=st.floats(0.01, 1), kl=st.floats(0, 2_000))
def test_the_bound_of_a_share_is_tighter_than_its_closed_form_and_exact_at_both_ends(share: float, kl: float) -> None:
    """q = pi replicates as often as pi; a share of 1 gives -KL."""
    entropy = -sum(part * log(part) for part in (share, 1 - share) if part > 0)
    bound = log_bound_of_share(share, kl)
    assert bound >= -(kl + entropy) / share - 1e-9
    assert bound <= log(share)
    assert log_bound_of_share(share, 0.0) == pytest.approx(log(share), abs=1e-6)
    assert log_bound_of_share(1.0, kl) == pytest.approx(-kl, abs=1e-9)


@pytest.mark.parametrize("p", [0.5, 1e-3, 1e-9])
def test_no_shifted_distribution_breaks_the_bound_of_its_share(p: float) -> None:
    edge = edge_of(p)
    for shift in np.linspace(0, 2 * edge + 1, 20):
        share = exp(float(log_ndtr(shift - edge)))
        assert log_bound_of_share(share, shift**2 / 2) <= log(p) + 1e-9


def test_the_share_of_a_distribution_is_certified_wrongly_in_one_run_of_twenty_however_many_attempts() -> None:
    """Exactly, at the share that is asked for: attempt after attempt, each with its part of alpha."""
    for attempts, misses in product((1, 3, 40), (0, 1, 3, 8)):
        chance = chance_to_certify(0.95, draws_to_certify(0.95, ALPHA / attempts, misses=misses))
        assert ALPHA / 3 < 1 - (1 - chance) ** attempts <= ALPHA
    assert draws_to_certify(0.9, ALPHA) == (29,)
    assert draws_to_certify(0.9, ALPHA / 4, misses=3) == (55, 77, 95, 112)


@given(st.floats(0.05, 0.99), st.floats(1e-4, 0.5), st.integers(0, 6))
def test_each_miss_takes_further_draws_that_have_its_part_of_the_error(share: float, alpha: float, misses: int) -> None:
    needed = draws_to_certify(share, alpha, misses=misses)
    assert list(needed) == sorted(set(needed))
    for allowed, draws in enumerate(needed):
        lucky = [binom.cdf(allowed, count, 1 - share) for count in (draws, draws - 1)]
        assert lucky[0] <= alpha / (misses + 1) < lucky[1] or draws == allowed + 1


def test_misses_raise_the_chance_to_certify_a_share_that_is_high_enough() -> None:
    chances = [chance_to_certify(0.97, draws_to_certify(0.9, ALPHA / 4, misses=misses)) for misses in (0, 3)]
    assert chances[0] < 0.3 < 0.6 < chances[1]


def chance_to_certify(share: float, needed: Sequence[int]) -> float:
    """Of one attempt whose draws replicate in this share: every number of misses and draws in turn."""
    reached, chance = {0: 1.0}, 0.0
    for draws in range(1, needed[-1] + 1):
        after: dict[int, float] = {}
        for misses, weight in reached.items():
            after[misses] = after.get(misses, 0.0) + weight * share
            after[misses + 1] = after.get(misses + 1, 0.0) + weight * (1 - share)
        open_yet = {misses: weight for misses, weight in after.items() if misses < len(needed)}
        chance += sum(weight for misses, weight in open_yet.items() if draws >= needed[misses])
        reached = {misses: weight for misses, weight in open_yet.items() if draws < needed[misses]}
    return chance


def noises(position: NDArray[np.float64], direction: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """N(0, I) with these coordinates along the direction."""
    rest = torch.randn(len(position), direction.numel(), generator=torch.Generator().manual_seed(5))
    rest -= (rest @ direction)[:, None] * direction
    return (rest + torch.from_numpy(position).float()[:, None] * direction).view(-1, *shape)


@pytest.mark.parametrize("weight", [0.5, 1e-3, 1e-6])
def test_the_closed_form_model_gives_out_an_image_beyond_an_edge_that_makes_p_its_weight(weight: float) -> None:
    """So p is known for a real sampler: of two images, the second comes out of a half-space of the noises."""
    images = 2 * torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(6)) - 1
    model = MixtureDenoiser(images, torch.tensor([1 - weight, weight]), SCHEDULE)
    direction = (images[1] - images[0]).flatten()
    direction = direction / direction.norm()
    positions = np.linspace(-3, 8, 441)
    drawn = sample(model, noises(positions, direction, (3, 4, 4)), steps=50)
    second = ((drawn - images[1]).flatten(1).norm(dim=1) < (drawn - images[0]).flatten(1).norm(dim=1)).numpy()
    edge = positions[second.argmax()]
    assert (second == (positions >= edge)).all(), "one edge, whatever the other coordinates"
    # Fifty steps of the sampler keep the share of the weight to within a factor of two.
    assert abs(log2(weight) - float(log_ndtr(-edge)) / log(2)) < 1


def test_many_plain_draws_do_not_wear_the_bound_out() -> None:
    """Half of 128 draws replicate and carry a p of 1e-6; a million plain draws beside them make no copy."""
    p, draws, copies = 1e-6, 1_000_128, 64
    found = WeighedDraws(draws=draws, log_weights=(log(p * draws / copies),) * copies)
    assert log(p / 4) < log_lower_bound(found, 0.02) < log(p)
