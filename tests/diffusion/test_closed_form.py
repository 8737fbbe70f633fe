"""The closed-form denoiser is Bayes' rule, and sampling it gives its images at their weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from invmm_gate.core.protocols import Schedule
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.prediction import denoising_error
from invmm_gate.diffusion.sampling import sample
from invmm_gate.diffusion.schedule import FlowMatching, VariancePreserving


@pytest.fixture(params=["variance preserving", "flow matching"])
def schedule(request: pytest.FixtureRequest, linear_schedule: VariancePreserving) -> Schedule:
    return linear_schedule if request.param == "variance preserving" else FlowMatching()


@pytest.mark.parametrize("timestep", [0, 10, 500, 900, 999])
def test_the_estimate_is_the_posterior_mean_written_out(schedule: Schedule, timestep: int) -> None:
    generator = torch.Generator().manual_seed(timestep)
    images = torch.rand(4, 3, 2, 2, generator=generator) * 2 - 1
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0])
    level = schedule.at(torch.tensor([timestep] * 5))
    x_t = level.alpha[:, None, None, None] * images[:1] + torch.randn(5, 3, 2, 2, generator=generator)
    expected = []
    for row in x_t.double():
        alpha, sigma = float(level.alpha[0]), float(level.sigma[0])
        log_density = [
            float(torch.distributions.Normal(alpha * image.double(), sigma).log_prob(row).sum()) for image in images
        ]
        joint = weights.double() * (torch.tensor(log_density, dtype=torch.float64) - max(log_density)).exp()
        expected.append(sum(share * image for share, image in zip(joint / joint.sum(), images.double(), strict=True)))
    found = MixtureDenoiser(images, weights, schedule).estimate_x_0(x_t, level)
    torch.testing.assert_close(found.double(), torch.stack(expected), atol=2e-4, rtol=1e-3)


def test_samples_are_the_images_at_their_weights(known_images: Tensor, schedule: Schedule) -> None:
    model = MixtureDenoiser(known_images[:3], torch.tensor([6.0, 3.0, 1.0]), schedule)
    noise = torch.randn(1000, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gaps = (sample(model, noise, steps=50)[:, None] - known_images[:3]).square().flatten(2).mean(dim=2)
    nearest = gaps.min(dim=1)
    assert float(nearest.values.max()) < 1e-2
    shares = torch.bincount(nearest.indices, minlength=3) / 1000
    # Three standard errors of 0.016, and what 50 steps leave of the continuous path.
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.06, rtol=0)


def test_an_image_of_weight_zero_is_never_given(known_images: Tensor, schedule: Schedule) -> None:
    model = MixtureDenoiser(known_images[:2], torch.tensor([1.0, 0.0]), schedule)
    level = schedule.at(torch.tensor([100]))
    found = model.estimate_x_0(level.alpha * known_images[1:2], level)
    torch.testing.assert_close(found, known_images[:1])


@pytest.mark.parametrize("weights", [[1.0, -0.5], [0.0, 0.0], [1.0, float("nan")]])
def test_weights_that_are_no_probabilities_give_nan_and_nothing_that_could_pass_for_a_score(
    known_images: Tensor, schedule: Schedule, weights: list[float]
) -> None:
    model = MixtureDenoiser(known_images[:2], torch.tensor(weights), schedule)
    level = schedule.at(torch.tensor([500]))
    assert bool(model.estimate_x_0(known_images[:1], level).isnan().all())


def test_the_denoising_error_is_the_mean_square_of_what_is_missing(
    mixture: Callable[..., MixtureDenoiser], known_images: Tensor
) -> None:
    model = mixture()
    x_0, eps = known_images[:4], torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([10, 400, 900, 999])
    level = model.schedule.at(timestep)
    x_t = level.alpha.view(-1, 1, 1, 1) * x_0 + level.sigma.view(-1, 1, 1, 1) * eps
    expected = [((model.estimate_x_0(x_t, level)[row] - x_0[row]) ** 2).mean() for row in range(4)]
    torch.testing.assert_close(denoising_error(model, x_0, eps, timestep), torch.stack(expected))


def test_the_denoising_error_reaches_the_noise_with_its_gradient(
    mixture: Callable[..., MixtureDenoiser], known_images: Tensor
) -> None:
    model, timestep = mixture(), torch.tensor([850])
    eps = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(denoising_error(model, known_images[:1], eps, timestep).sum(), eps)
    direction = torch.randn(eps.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ahead, behind = (
            denoising_error(model, known_images[:1], eps + sign * 1e-2 * direction, timestep) for sign in (1, -1)
        )
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-2, rel=0.05)
    assert float(gradient.abs().max()) > 0
