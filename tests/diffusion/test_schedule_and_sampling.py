"""The one sampler and the one notation are diffusers' own schedulers, and the four predictions agree."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import Condition, NoiseLevel, Schedule
from invmm_gate.diffusion.prediction import guided, per_row, x_0_from
from invmm_gate.diffusion.sampling import sample
from invmm_gate.diffusion.schedule import FlowMatching, VariancePreserving


class SmoothNetwork:
    """A fixed nonlinear function of x_t and time in the place of a network; a `DiffusionModel` with its prediction."""

    family = "pixel"
    latent_shape = (3, 8, 8)
    prompts, guidance_distilled = None, False
    image_size = (8, 8)
    device = torch.device("cpu")
    released = None

    def limited(self, x_0_hat: Tensor) -> Tensor:
        return x_0_hat

    def __init__(self, schedule: Schedule, prediction_type: str) -> None:
        self.schedule, self.prediction_type = schedule, prediction_type

    def network(self, x_t: Tensor, time: Tensor) -> Tensor:
        return torch.tanh(x_t * (0.5 + time.view(-1, 1, 1, 1) / 2000)) + 0.1 * x_t.roll(1, -1)

    def forwards(self, guidance_scale):
        return 1

    def encode(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return images

    def decode(self, x_0: Tensor) -> Tensor:
        return x_0.clamp(-1, 1)

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        return x_0_from(self.prediction_type, self.network(x_t, level.time), x_t, level)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [5, 50, 200])
def test_sampling_equals_diffusers_ddim_trailing(prediction_type: str, steps: int) -> None:
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
        prediction_type=prediction_type,
    )
    model = SmoothNetwork(VariancePreserving(scheduler.alphas_cumprod.double()), prediction_type)
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    scheduler.set_timesteps(steps)
    expected = noise
    for time in scheduler.timesteps:
        output = model.network(expected, time.repeat(3))
        expected = scheduler.step(output, time, expected).prev_sample
    # 1e-5 of the largest sample: predicting epsilon at alpha = 0.006 makes samples of size 10 and more.
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(sample(model, noise, steps=steps) / scale, expected / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [5, 28, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sampling_equals_diffusers_flow_euler(steps: int, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    model = SmoothNetwork(FlowMatching(shift=shift), "velocity")
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    scheduler.set_timesteps(steps)
    expected = noise
    for time in scheduler.timesteps:
        output = model.network(expected, time.repeat(2))
        expected = scheduler.step(output, time, expected).prev_sample
    torch.testing.assert_close(sample(model, noise, steps=steps), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 7, 50, 200, 1000])
def test_grid_is_the_trailing_grid_of_diffusers(steps: int, linear_schedule: VariancePreserving) -> None:
    scheduler = DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert [int(level.time) for level in linear_schedule.grid(steps)] == scheduler.timesteps.tolist()


def test_variance_preserving_levels_have_unit_variance(linear_schedule: VariancePreserving) -> None:
    level = linear_schedule.at(torch.arange(1000))
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(1000))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_levels_run_from_almost_data_to_pure_noise(shift: float) -> None:
    level = FlowMatching(shift=shift).at(torch.arange(1000))
    torch.testing.assert_close(level.alpha + level.sigma, torch.ones(1000))
    assert float(level.sigma[-1]) == 1.0
    assert bool((level.sigma.diff() > 0).all())


@settings(deadline=None, max_examples=50)
@given(timestep=st.integers(0, 999), seed=st.integers(0, 2**31))
def test_every_prediction_type_gives_back_the_same_x_0(timestep: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_0, eps = torch.randn(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64), dim=0)
    level = VariancePreserving(alpha_bar).at(torch.tensor([timestep, timestep]))
    alpha, sigma = per_row(level.alpha).double(), per_row(level.sigma).double()
    x_t = alpha * x_0 + sigma * eps
    outputs = {"epsilon": eps, "v_prediction": alpha * eps - sigma * x_0, "sample": x_0}
    # float32 eps leaves up to sigma / alpha * 6e-8 of its size, at most 157 * 6e-8 on this schedule.
    for prediction_type, output in outputs.items():
        estimate = x_0_from(prediction_type, output, x_t, level)
        torch.testing.assert_close(estimate.double(), x_0, atol=3e-4, rtol=0)


@settings(deadline=None, max_examples=30)
@given(timestep=st.integers(0, 998), seed=st.integers(0, 2**31))
def test_velocity_gives_back_x_0(timestep: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_0, eps = torch.randn(2, 1, 3, 4, 4, generator=generator)
    level = FlowMatching().at(torch.tensor([timestep]))
    x_t = per_row(level.alpha) * x_0 + per_row(level.sigma) * eps
    torch.testing.assert_close(x_0_from("velocity", eps - x_0, x_t, level), x_0, atol=1e-5, rtol=1e-5)


def test_unknown_prediction_type_is_refused_by_name() -> None:
    rows = torch.zeros(1, 3, 2, 2)
    level = FlowMatching().at(torch.tensor([0]))
    with pytest.raises(ModelError, match="'flow_prediction' is not known; expected one of epsilon, v_prediction"):
        x_0_from("flow_prediction", rows, rows, level)


def test_guidance_of_one_is_the_conditional_estimate() -> None:
    unconditional, conditional = torch.randn(2, 1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(guided(unconditional, conditional, 1.0), conditional)
    torch.testing.assert_close(guided(unconditional, conditional, 0.0), unconditional)
