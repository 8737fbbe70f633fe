"""Limits of x_0_hat: those of diffusers' schedulers, and what they are for."""

from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, LMSDiscreteScheduler, PNDMScheduler
from diffusers.configuration_utils import ConfigMixin
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from invmm_gate.core.protocols import NoiseLevel
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.prediction import per_row
from invmm_gate.diffusion.samplers import GridSampler
from invmm_gate.diffusion.sampling import Limits, limited
from invmm_gate.diffusion.schedule import VariancePreserving
from invmm_gate.measure.distributions import stream
from invmm_gate.models.adapters.released_pipeline import limits_of
from invmm_gate.similarity.pixel import PixelRmse
from tests.measure.bench import Wrapped

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers' own, with numpy 2

SCHEDULERS = {
    "clipped": {"clip_sample": True},
    "clipped further out": {"clip_sample": True, "clip_sample_range": 3.0},
    "thresholded": {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 2.5},
    "thresholded to one": {"thresholding": True},
    "free": {"clip_sample": False},
}


class Pipeline:
    def __init__(self, scheduler: object) -> None:
        self.scheduler = scheduler


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_limits_are_those_of_the_scheduler(kind: type, name: str) -> None:
    scheduler = kind(**SCHEDULERS[name])
    scheduler.set_timesteps(1000)
    generator = torch.Generator().manual_seed(0)
    x_t, eps_hat = (2 * torch.randn(3, 3, 4, 4, generator=generator) for _ in range(2))
    for timestep in (999, 500, 3):
        theirs = scheduler.step(eps_hat, timestep, x_t).pred_original_sample
        alpha_bar = scheduler.alphas_cumprod[timestep]
        free = (x_t - (1 - alpha_bar).sqrt() * eps_hat) / alpha_bar.sqrt()
        torch.testing.assert_close(limited(free, limits_of(Pipeline(scheduler))), theirs)


@pytest.mark.parametrize("kind", [PNDMScheduler, EulerDiscreteScheduler, LMSDiscreteScheduler])
def test_a_scheduler_without_limits_has_none_whatever_its_file_says(kind: type[ConfigMixin]) -> None:
    """Diffusers keeps keys that a class does not know in its configuration, as those of another scheduler's file."""
    for stated in ({"clip_sample": True}, {"thresholding": True}, {"thresholding": True, "sample_max_value": 1.0}):
        scheduler = kind.from_config({"_class_name": kind.__name__, **stated})
        assert scheduler.config.get(next(iter(stated)))
        assert limits_of(Pipeline(scheduler)) == Limits()


@given(st.floats(-1e4, 1e4), st.sampled_from([Limits(), Limits(clip=1.0), Limits(quantile=0.9, largest=2.0)]))
def test_what_lies_within_the_limits_stays_and_no_limit_is_left(value: float, limits: Limits) -> None:
    x_0_hat = torch.tensor([0.0, 0.5, -1.0, value]).view(1, 1, 2, 2)
    found = limited(x_0_hat, limits)
    if abs(value) <= 1:
        torch.testing.assert_close(found, x_0_hat)
    if limits != Limits():
        assert float(found.abs().max()) <= 1.0


class FaultyEpsilon(Wrapped):
    """A closed-form model as a network that predicts epsilon a little wrong, as every trained one does."""

    def __init__(self, model: MixtureDenoiser, limits: Limits) -> None:
        super().__init__(model)
        self.limits = limits

    def limited(self, x_0_hat: Tensor) -> Tensor:
        return limited(x_0_hat, self.limits)

    def estimate_x_0(self, x_t: Tensor, level: NoiseLevel, **_: object) -> Tensor:
        x_0_hat = super().estimate_x_0(x_t, level)
        return x_0_hat + 0.02 * per_row(level.sigma / level.alpha)


def copies(model: FaultyEpsilon, image: Tensor) -> int:
    metric = PixelRmse(0.1)
    images = GridSampler(model).images([stream(0, number) for number in range(32)], steps=50)
    return int(metric.is_copy(metric.compare(metric.embed(images), metric.embed(image[None]))).sum())


def test_a_model_of_the_cosine_schedule_gives_its_images_out_only_if_x_0_is_clipped_as_its_scheduler_does(
    known_images: Tensor,
) -> None:
    betas = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    assert float(betas[-1]) < 1e-8
    weights = torch.ones(32)
    weights[0] = 31.0
    exact = MixtureDenoiser(known_images[:32], weights, VariancePreserving(betas))
    build: Callable[[Limits], FaultyEpsilon] = lambda limits: FaultyEpsilon(exact, limits)  # noqa: E731
    assert copies(build(Limits(clip=1.0)), known_images[0]) > 8
    assert copies(build(Limits()), known_images[0]) == 0
