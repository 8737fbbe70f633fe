"""The likelihood of an image in a closed-form model where it is known: of two images one comes out of a half-space."""

from math import log

import pytest
import torch
from scipy.special import log_ndtr
from torch import Tensor

from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.likelihood_record import Likelihood
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.samplers import GridSampler
from invmm_gate.diffusion.sampling import sample
from invmm_gate.diffusion.schedule import VariancePreserving
from invmm_gate.measure.extraction import Generation, likelihood, plain_samples
from invmm_gate.similarity.pixel import PixelRmse

SCHEDULE = VariancePreserving((1 - torch.linspace(1e-4, 0.02, 1_000).double()).cumprod(0))
SHAPE = (3, 4, 4)
IMAGES = 2 * torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(6)) - 1
DIRECTION = (IMAGES[1] - IMAGES[0]) / (IMAGES[1] - IMAGES[0]).norm()


def model_of(weight: float) -> MixtureDenoiser:
    return MixtureDenoiser(IMAGES, torch.tensor([1 - weight, weight]), SCHEDULE)


def edge_of(model: MixtureDenoiser) -> float:
    """From where on along the direction the sampler makes the second image, by bisection with the sampler itself."""
    low, high = -9.0, 9.0
    for _ in range(30):
        middle = (low + high) / 2
        drawn = sample(model, middle * DIRECTION[None], steps=50)
        second = (drawn[0] - IMAGES[1]).norm() < (drawn[0] - IMAGES[0]).norm()
        low, high = (low, middle) if second else (middle, high)
    return high


def measured(model: MixtureDenoiser, mu: Tensor | None, *, seed: int, rows: int = 512, probe: int = 1) -> Likelihood:
    generation = Generation(model=model, sampler=GridSampler(model), metric=PixelRmse(), steps=50, rows=rows)
    plain = plain_samples(generation, 512, torch.Generator().manual_seed(seed))
    return likelihood(
        generation,
        plain,
        (PixelRmse().embed(IMAGES[probe][None]),),
        None if mu is None else (mu, torch.zeros(SHAPE)),
        draws=128,
        confidence=0.95,
        generator=torch.Generator().manual_seed(seed + 100),
        probe="second",
        prompt_kind="none",
    )


@pytest.mark.parametrize("weight", [0.3, 1e-2, 1e-4, 1e-6])
def test_the_bounds_hold_the_known_likelihood_and_the_estimate_is_near_it(weight: float) -> None:
    model = model_of(weight)
    edge = edge_of(model)
    log_p = float(log_ndtr(-edge))
    for seed in range(3):
        found = measured(model, (edge + 0.3) * DIRECTION, seed=seed)
        assert found.nats is not None
        assert found.lower <= found.estimate
        assert -found.nats < log_p < log(found.upper)
        assert -found.nats > log_p - log(30), "within a factor of thirty"
        assert abs(log(found.estimate) - log_p) < log(4)


def test_an_image_that_never_comes_out_has_no_lower_bound() -> None:
    found = measured(model_of(1e-9), torch.zeros(SHAPE), seed=0)
    assert (found.nats, found.lower, found.estimate, found.copies, found.plain_copies) == (None, 0.0, 0.0, 0, 0)
    assert found.upper == pytest.approx(-log(0.025) / 512, rel=0.01)


def test_draws_and_costs_are_counted_and_the_rows_of_a_call_change_nothing() -> None:
    model = model_of(1e-2)
    one, other = (measured(model, 2.0 * DIRECTION, seed=1, rows=rows) for rows in (512, 100))
    assert one == other
    assert one.draws == 128
    assert one.evaluations == 50 * 128
    assert one.plain_draws == 512


def test_a_distribution_that_always_replicates_certifies_its_distance_where_weights_say_less() -> None:
    """Of the first image nearly every noise is a copy: its likelihood is near 1, whatever the method."""
    found = measured(model_of(1e-6), torch.zeros(SHAPE), seed=2, probe=0)
    assert found.plain_copies == 512
    assert found.lower > 0.9
    assert found.upper == 1.0


def test_plain_samples_alone_bound_it_where_no_inversion_got_near() -> None:
    found = measured(model_of(0.3), None, seed=0)
    assert (found.draws, found.copies, found.evaluations) == (0, 0, 0)
    assert found.estimate == pytest.approx(found.plain_copies / 512)
    assert 0.2 < found.lower < 0.3 < found.upper


def test_the_mirror_image_counts_where_it_is_asked_for() -> None:
    model = model_of(0.3)
    generation = Generation(model=model, sampler=GridSampler(model), metric=PixelRmse(), steps=50, rows=64)
    both = tuple(PixelRmse().embed(image[None]) for image in IMAGES)
    features = plain_samples(generation, 64, torch.Generator().manual_seed(0)).features
    assert bool(generation.copies(features, both).all())
    assert not bool(generation.copies(features, both[1:]).all())


def test_what_is_not_finite_is_no_copy_but_an_error() -> None:
    model = model_of(0.3)
    generation = Generation(model=model, sampler=GridSampler(model), metric=PixelRmse(), steps=50, rows=4)
    with pytest.raises(MeasurementError, match="NaN or infinity"):
        generation.features(torch.full((2, *SHAPE), float("nan")), torch.arange(2))
