"""The noise schedule that a network was trained with, number for number as diffusers computes it."""

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.core.errors import ModelError
from invmm_gate.diffusion.schedule import FlowMatching, VariancePreserving
from invmm_gate.models.read.scheduler_config import FlowConfig, SchedulerConfig

Betas = Float[Tensor, " timestep"]


def schedule_of(config: SchedulerConfig | FlowConfig, device: torch.device) -> VariancePreserving | FlowMatching:
    """The noise schedule on the device. Raises ModelError if it is none."""
    if isinstance(config, FlowConfig):
        return FlowMatching(shift=config.shift, timesteps=config.num_train_timesteps, device=device)
    return VariancePreserving(alpha_bar_of(config).to(device))


def alpha_bar_of(config: SchedulerConfig) -> Float[Tensor, " timestep"]:
    """alpha_bar_t for t = 0 .. T - 1, float32, falling. Raises ModelError if it is not a noise schedule.

    With `rescale_betas_zero_snr` the last one is 0, as in training; some of diffusers' samplers put 2**-24 there.
    """
    if config.trained_betas is not None:
        betas = torch.tensor(config.trained_betas, dtype=torch.float32)
    else:
        betas = _SCHEDULES[config.beta_schedule](config)
    if config.rescale_betas_zero_snr:
        betas = _rescaled_to_zero_snr(betas)
    alpha_bar = torch.cumprod(1.0 - betas, dim=0)
    _refuse_unusable(alpha_bar, config)
    return alpha_bar


def _linear(config: SchedulerConfig) -> Betas:
    return torch.linspace(config.beta_start, config.beta_end, config.num_train_timesteps, dtype=torch.float32)


def _scaled_linear(config: SchedulerConfig) -> Betas:
    ends = config.beta_start**0.5, config.beta_end**0.5
    return torch.linspace(*ends, config.num_train_timesteps, dtype=torch.float32) ** 2


def _squared_cosine(config: SchedulerConfig) -> Betas:
    """Source: arXiv:2102.09672, Eq. 17; betas capped at 0.999."""
    steps = config.num_train_timesteps

    def signal(step: int) -> float:
        return math.cos((step / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - signal(step + 1) / signal(step), 0.999) for step in range(steps)]
    return torch.tensor(betas, dtype=torch.float32)


def _sigmoid(config: SchedulerConfig) -> Betas:
    ramp = torch.sigmoid(torch.linspace(-6, 6, config.num_train_timesteps))
    return ramp * (config.beta_end - config.beta_start) + config.beta_start


_SCHEDULES: Final[dict[str, Callable[[SchedulerConfig], Betas]]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _squared_cosine,
    "sigmoid": _sigmoid,
}


def _rescaled_to_zero_snr(betas: Betas) -> Betas:
    """Source: arXiv:2305.08891, Algorithm 1."""
    root = torch.cumprod(1.0 - betas, dim=0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * (first / (first - last))
    alpha_bar = root**2
    return 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def _refuse_unusable(alpha_bar: Float[Tensor, " timestep"], config: SchedulerConfig) -> None:
    """An epsilon estimate divides by sqrt(alpha_bar); v_prediction and sample may end in pure noise."""
    enough = alpha_bar > 0 if config.prediction_type == "epsilon" else alpha_bar >= 0
    sound = alpha_bar.isfinite().all() and (alpha_bar < 1).all() and (alpha_bar[1:] <= alpha_bar[:-1]).all()
    if not sound or not enough.all():
        raise ModelError(
            f"the betas of {config.scheduler} give no usable noise schedule for {config.prediction_type}",
            expected="alpha_bar finite, falling, below 1 and, for epsilon, above 0",
            do="correct scheduler_config.json",
        )


def refuse_other_process(
    scheduler: Any, config: SchedulerConfig | FlowConfig, schedule: VariancePreserving | FlowMatching
) -> None:
    """Raises ModelError where the pipeline's scheduler is not the process that is measured."""
    if isinstance(schedule, VariancePreserving):
        theirs, ours = scheduler.alphas_cumprod.float(), schedule.alpha_bar.cpu()
        last = len(ours) - (1 if scheduler.config.get("rescale_betas_zero_snr") else 0)  # Euler lifts the last from 0
        same = theirs.shape == ours.shape and torch.equal(theirs[:last], ours[:last])
        same = same and scheduler.config.prediction_type == config.prediction_type
    else:
        same = scheduler.config.shift == schedule.shift and scheduler.config.num_train_timesteps == schedule.timesteps
    if not same:
        raise ModelError(
            f"{type(scheduler).__name__} in the released pipeline has another noise schedule or prediction type than "
            "the scheduler's configuration says",
            expected="what the network was trained with in both",
            do="save the pipeline again with diffusers",
        )
