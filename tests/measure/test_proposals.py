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
    mixture = Mixture(
        components=((drawn(0, *SHAPE), drawn(1, *SHAPE)), (drawn(2, *SHAPE), drawn(3, *SHAPE))), plain=0.4
    )
    noises = drawn(4, 20, *SHAPE)
    x = noises.double()
    plain = Normal(0, 1).log_prob(x).flatten(1).sum(dim=1)
    parts = [
        Normal(mu.double(), (0.5 * log_var.double()).exp()).log_prob(x).flatten(1).sum(dim=1) + log(0.3)
        for mu, log_var in mixture.components
    ]
    density = torch.stack([plain + log(0.4), *parts]).logsumexp(dim=0)
    assert torch.allclose(mixture.log_weights(noises), plain - density, atol=1e-9)


def test_no_weight_is_above_what_the_plain_draws_allow() -> None:
    mixture = around(10 * drawn(0, *SHAPE), drawn(1, *SHAPE), plain=0.25)
    assert float(mixture.log_weights(drawn(2, 500, *SHAPE)).max()) <= log(4) + 1e-12


def test_each_draw_comes_from_its_component() -> None:
    mixture = around(torch.full(SHAPE, 5.0), torch.full(SHAPE, -6.0), plain=0.5, stretches=(1.0,))
    chosen = mixture.choose(2_000, torch.Generator().manual_seed(0))
    assert 900 < int((chosen == -1).sum()) < 1_100
    means = mixture.noises(chosen, drawn(1, 2_000, *SHAPE)).flatten(1).mean(dim=1)
    assert all((mean > 4) == (place == 0) for mean, place in zip(means.tolist(), chosen.tolist(), strict=True))


@pytest.mark.parametrize("edge", [2.0, 4.0])
def test_the_estimate_of_a_known_likelihood_is_near_it_and_its_bound_below_it(edge: float) -> None:
    """R is a half-space: the noises whose first coordinate lies beyond an edge."""
    p = float(Normal(0, 1).cdf(torch.tensor(-edge, dtype=torch.float64)))
    mu = torch.zeros(SHAPE)
    mu[0, 0, 0] = edge + 0.5
    mixture, generator = around(mu, torch.zeros(SHAPE), plain=0.5), torch.Generator().manual_seed(1)
    noises = mixture.noises(mixture.choose(2_000, generator), torch.randn(2_000, *SHAPE, generator=generator))
    copies = noises[:, 0, 0, 0] > edge
    found = WeighedDraws(draws=2_000, log_weights=tuple(mixture.log_weights(noises)[copies].tolist()))
    assert exp(found.log_estimate) == pytest.approx(p, rel=0.2)
    assert log(p / 2) < log_lower_bound(found, 0.025) < log(p)


def test_a_mixture_without_plain_draws_is_refused() -> None:
    with pytest.raises(ValueError, match="expected both"):
        around(torch.zeros(SHAPE), torch.zeros(SHAPE), plain=0.0)
