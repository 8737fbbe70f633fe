"""Mixtures of noise distributions: densities against torch's own, weights, and an estimate of a known p."""

from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from invmm_gate.measure.likelihood import WeighedDraws, log_lower_bound
from invmm_gate.measure.proposals import Mixture, around

SHAPE = (2, 3, 3)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_weights_are_the_ratio_of_torchs_own_densities() -> None:
    components = ((drawn(0, *SHAPE), drawn(1, *SHAPE)), (drawn(2, *SHAPE), drawn(3, *SHAPE)))
    mixture = Mixture(components=components, counts=(2, 4), plain=4)
    noises = drawn(4, 20, *SHAPE)
    x = noises.double()
    plain = Normal(0, 1).log_prob(x).flatten(1).sum(dim=1)
    parts = [
        Normal(mu.double(), (0.5 * log_var.double()).exp()).log_prob(x).flatten(1).sum(dim=1) + log(share)
        for (mu, log_var), share in zip(mixture.components, (0.2, 0.4), strict=True)
    ]
    density = torch.stack([plain + log(0.4), *parts]).logsumexp(dim=0)
    assert torch.allclose(mixture.log_weights(noises), plain - density, atol=1e-9)


def test_no_weight_is_above_what_the_plain_draws_allow() -> None:
    mixture = around(10 * drawn(0, *SHAPE), drawn(1, *SHAPE), draws=75, plain=25)
    assert float(mixture.log_weights(drawn(2, 500, *SHAPE)).max()) <= log(4) + 1e-12


def test_plain_samples_alone_weigh_one() -> None:
    alone = Mixture(components=(), counts=(), plain=3)
    assert alone.log_weights(drawn(0, 3, *SHAPE)).tolist() == [0.0, 0.0, 0.0]
    assert alone.noises(drawn(0, 0, *SHAPE)).shape == (0, *SHAPE)


def test_each_draw_comes_from_its_component() -> None:
    mixture = around(torch.full(SHAPE, 9.0), torch.full(SHAPE, -6.0), draws=7, plain=1, nearer=((0.2, 1e3),))
    assert (mixture.counts, mixture.draws) == ((4, 3), 7)
    noises = mixture.noises(drawn(1, 7, *SHAPE)).flatten(1)
    assert [mean > 6 for mean in noises.mean(dim=1).tolist()] == 4 * [True] + 3 * [False]
    assert [deviation > 0.5 for deviation in noises.std(dim=1).tolist()] == 4 * [False] + 3 * [True], "and wide"


@pytest.mark.parametrize(("far", "expected"), [(0.0, 0.0), (2.0, 0.5), (50.0, 3.0)])
def test_a_mean_comes_nearer_by_the_factor_or_until_it_is_so_many_nats_away(far: float, expected: float) -> None:
    mu = torch.zeros(SHAPE)
    mu[0, 0, 0] = (2 * far) ** 0.5
    (_, (nearer, log_var)) = around(mu, torch.ones(SHAPE), draws=4, plain=1, nearer=((0.5, 3.0),)).components
    assert float(nearer.square().sum() / 2) == pytest.approx(expected, rel=1e-5)
    assert float(log_var.abs().max()) == 0


@pytest.mark.parametrize("edge", [2.0, 4.0])
def test_the_estimate_of_a_known_likelihood_is_near_it_and_its_bound_below_it(edge: float) -> None:
    """R is a half-space: the noises whose first coordinate lies beyond an edge."""
    p = float(Normal(0, 1).cdf(torch.tensor(-edge, dtype=torch.float64)))
    mu = torch.zeros(SHAPE)
    mu[0, 0, 0] = edge + 0.5
    mixture, generator = around(mu, torch.zeros(SHAPE), draws=1_000, plain=1_000), torch.Generator().manual_seed(1)
    plain = torch.randn(1_000, *SHAPE, generator=generator)
    noises = torch.cat([plain, mixture.noises(torch.randn(1_000, *SHAPE, generator=generator))])
    copies = noises[:, 0, 0, 0] > edge
    found = WeighedDraws(draws=2_000, log_weights=tuple(mixture.log_weights(noises)[copies].tolist()))
    assert exp(found.log_estimate) == pytest.approx(p, rel=0.3)
    assert log(p / 2) < log_lower_bound(found, 0.025) < log(p)


def test_a_mixture_without_plain_draws_is_refused() -> None:
    with pytest.raises(ValueError, match="0 plain draws"):
        around(torch.zeros(SHAPE), torch.zeros(SHAPE), draws=10, plain=0)


def test_the_bound_holds_for_fixed_numbers_of_draws_too() -> None:
    """1,000 runs of 8 plain draws beside 12 of each of two others: the bound at 90 % is above p in at most 10 %."""
    edge = 1.5
    p = float(Normal(0, 1).cdf(torch.tensor(-edge, dtype=torch.float64)))
    shape = (1, 1, 1)
    near, far = (torch.full(shape, 0.8), torch.zeros(shape)), (torch.full(shape, 2.5), torch.full(shape, -1.0))
    mixture, generator = Mixture(components=(near, far), counts=(12, 12), plain=8), torch.Generator().manual_seed(5)
    above, estimates = 0, []
    for _ in range(1_000):
        plain = torch.randn(8, *shape, generator=generator)
        noises = torch.cat([plain, mixture.noises(torch.randn(24, *shape, generator=generator))])
        copied = noises[noises[:, 0, 0, 0] > edge]
        found = WeighedDraws(draws=32, log_weights=tuple(mixture.log_weights(copied).tolist()))
        above += log_lower_bound(found, 0.1) > log(p)
        estimates.append(exp(found.log_estimate))
    assert above <= 100
    assert sum(estimates) / 1_000 == pytest.approx(p, rel=0.05)
