"""The noise distribution: its distance to N(0, I) is a KL divergence, and its draws have its moments."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from invmm_gate.measure.distributions import noise_from, normality

SHAPE = (2, 3, 2, 2)


def _draw(seed: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mu, log_var = torch.randn(2, *SHAPE, generator=generator) * spread
    return mu, log_var


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**31), spread=st.floats(1e-3, 3.0))
def test_normality_is_the_kl_divergence_to_standard_normal_noise(seed: int, spread: float) -> None:
    mu, log_var = (values.double() for values in _draw(seed, spread))
    expected = kl_divergence(Normal(mu, (log_var / 2).exp()), Normal(0.0, 1.0)).flatten(1).mean(dim=1)
    torch.testing.assert_close(normality(mu, log_var), expected, atol=1e-12, rtol=1e-9)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**31), spread=st.floats(1e-3, 3.0))
def test_normality_is_positive_away_from_standard_normal_noise(seed: int, spread: float) -> None:
    assert bool((normality(*_draw(seed, spread)) > 0).all())


def test_normality_is_exactly_zero_at_standard_normal_noise() -> None:
    assert normality(torch.zeros(SHAPE), torch.zeros(SHAPE)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_parameter_that_is_not_finite_gives_no_finite_normality_to_its_own_slot_only(value: float) -> None:
    mu = torch.zeros(SHAPE)
    mu[0, 0, 0, 0] = value
    first, second = normality(mu, torch.zeros(SHAPE)).tolist()
    assert not math.isfinite(first)
    assert second == 0.0


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_draws_have_the_mean_and_variance_of_the_distribution(seed: int) -> None:
    mu, log_var = _draw(seed, 0.5)
    standard = torch.randn(2, 20_000, *SHAPE[1:], generator=torch.Generator().manual_seed(seed))
    noise = noise_from(mu, log_var, standard).double()
    # Against the moments of the standard draws themselves, so there is no sampling error: only rounding.
    sigma = (0.5 * log_var.double()).exp()
    mean, variance = standard.double().mean(dim=1), standard.double().var(dim=1)
    torch.testing.assert_close(noise.mean(dim=1), mu.double() + sigma * mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(noise.var(dim=1), sigma.square() * variance, atol=1e-5, rtol=1e-5)
    # And within five standard errors of the distribution's own.
    assert bool(((noise.mean(dim=1) - mu).abs() < 5 * sigma / 20_000**0.5).all())
    assert bool(((noise.var(dim=1) / sigma.square() - 1).abs() < 5 * (2 / 20_000) ** 0.5).all())


def test_standard_parameters_give_the_standard_draws_back_bit_for_bit() -> None:
    standard = torch.randn(2, 5, *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise_from(torch.zeros(SHAPE), torch.zeros(SHAPE), standard), standard)
