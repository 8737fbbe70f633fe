"""Is the network told the right noise level? It must denoise best under the timestep that the schedule gives it."""

from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.core.protocols import NoiseLevel
from invmm_gate.core.records import SelfCheck
from invmm_gate.diffusion.levels import level_at, timestep_at
from invmm_gate.measure.looking import Pictures, mixed, noise_like, row_means
from invmm_gate.measure.streams import stream

TOLD_TIME: Final = "told_time"
GAIN_LIMIT: Final = 0.15
"""Natural logarithm of an error ratio: under another timestep the error may be smaller by this much."""
LOSS_LIMIT: Final = 0.1
"""Under the most wrong timestep the error must be larger by this much: a network that is deaf to it was not trained."""
RATIOS: Final = (0.5, 1.0, 2.0)
"""sigma / alpha at which images are noised."""
FACTORS: Final = (0.5, 0.71, 1.41, 2.0)
"""What the timestep is multiplied by."""


def told_time(pictures: Pictures, *, root_seed: int) -> SelfCheck:
    """Denoising errors under other timesteps than the schedule's, against those under its own.

    A schedule that is not the one of training, or a time embedding that is built otherwise, puts the network's own
    clock out: it then denoises better when told a wrong time. Value = log(error as configured / least error
    elsewhere), a mean over levels and a median over images; low = good. 15 evaluations an image.
    """
    with torch.no_grad():
        gains = torch.stack([_gains(pictures, ratio, stream(root_seed, TOLD_TIME, str(ratio))) for ratio in RATIOS])
    typical = gains.mean(dim=0).median(dim=1).values
    value, loss = float(typical.max()), float(-typical.min())
    if not bool(typical.isfinite().all()):
        return _check(None, "the controls' denoising error is NaN or infinity: the checkpoint does not denoise")
    if value > GAIN_LIMIT:
        factor = FACTORS[int(typical.argmax())]
        return _check(
            value,
            f"told {factor:g} times the timestep, the network's error is smaller by a factor of"
            f" {typical.max().exp():.2f}: schedule or time embedding are not those of its training",
        )
    if loss < LOSS_LIMIT:
        return _check(value, "the network denoises alike whatever timestep it is told: it is not a trained denoiser")
    return SelfCheck(
        name=TOLD_TIME,
        passed=True,
        detail=f"under other timesteps than the schedule's the log error changes by {-value:+.2f} at the least",
        value=value,
        limit=GAIN_LIMIT,
    )


def _check(value: float | None, detail: str) -> SelfCheck:
    return SelfCheck(name=TOLD_TIME, passed=False, detail=detail, value=value, limit=GAIN_LIMIT)


def _gains(pictures: Pictures, ratio: float, generator: torch.Generator) -> Float[Tensor, "factor image"]:
    """log(error under the schedule's timestep / error under each other one), at one noise level."""
    schedule, device = pictures.model.schedule, pictures.model.device
    timestep = timestep_at(schedule, ratio)
    level, x_0 = level_at(schedule, timestep, device), pictures.encoded()
    x_t = mixed(x_0, noise_like(x_0, generator), level)

    def log_error(told: NoiseLevel) -> Float[Tensor, " image"]:
        return row_means((pictures.estimates(x_t, told) - x_0).square()).log()

    others = [min(round(timestep * factor), schedule.timesteps - 1) for factor in FACTORS]
    told = [replace(level, time=level_at(schedule, other, device).time) for other in others]
    own = log_error(level)
    return torch.stack([own - log_error(other) for other in told])
