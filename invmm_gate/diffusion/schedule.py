"""Two schedules in one notation, x_t = alpha_t * x_0 + sigma_t * eps, and noise levels by their strength."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.core.protocols import NoiseLevel, Schedule


@final
@dataclass(frozen=True, slots=True, eq=False)
class VariancePreserving:
    """alpha_t = sqrt(alpha_bar_t), sigma_t = sqrt(1 - alpha_bar_t): DDPM, LDM, Stable Diffusion 1, 2 and XL.

    The sampling grid is evenly spaced and ends at T - 1 (diffusers: `timestep_spacing="trailing"`,
    `set_alpha_to_one=True`), as the authors' samplers have it: timesteps 19, 39, .., 999 for 50 steps.
    """

    alpha_bar: Float[Tensor, " timestep"]

    @property
    def timesteps(self) -> int:
        """Number of training timesteps."""
        return self.alpha_bar.shape[0]

    def at(self, timestep: Int[Tensor, " row"]) -> NoiseLevel:
        """The level of each timestep, in float32; the roots are taken in float64."""
        alpha_bar = self.alpha_bar.double()[timestep]
        return NoiseLevel(alpha=alpha_bar.sqrt().float(), sigma=(1 - alpha_bar).sqrt().float(), time=timestep)

    def grid(self, steps: int) -> tuple[NoiseLevel, ...]:
        """`steps` levels, noisiest first, e.g. 999, 979, .., 19 for 50 of 1000."""
        spacing = self.timesteps / steps
        indices = [round(self.timesteps - index * spacing) - 1 for index in range(steps)]
        device = self.alpha_bar.device
        return tuple(self.at(torch.tensor([index], device=device)) for index in indices)


@final
@dataclass(frozen=True, slots=True)
class FlowMatching:
    """alpha = 1 - s, sigma = s with s shifted towards noise: Stable Diffusion 3, as in the authors' code, and FLUX.

    s = shift * u / (1 + (shift - 1) * u) for u = 1/T, .., 1; the network is told T * s, or a multiple of it.
    """

    shift: float = 3.0
    timesteps: int = 1000
    spacing: Literal["scheduler", "pipeline", "solver"] = "scheduler"
    """Who spaces the sampler's levels in diffusers: Euler's scheduler, a pipeline that hands it its own, DPM-Solver."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    shift_in: Callable[[int], float] | None = None
    """The sampler's shift, for a number of steps; None = `shift`."""
    last: float | None = None
    """The sampler's last sigma (diffusers: `shift_terminal`); None = as the others are."""

    def at(self, timestep: Int[Tensor, " row"]) -> NoiseLevel:
        """The level of each training timestep, u = (timestep + 1) / T."""
        return self._level((timestep.double() + 1) / self.timesteps)

    def grid(self, steps: int) -> tuple[NoiseLevel, ...]:
        """`steps` Euler levels, noisiest first, u evenly spaced.

        From the level of u = 1 to that of u = 1/T, as diffusers' FlowMatchEulerDiscreteScheduler has it: its end points
        are already shifted, then shifted again. Pipelines that hand it their own levels space u from 1 to 1/steps.
        With `last`, alpha is then scaled so that the last sigma is this one; a single level, pure noise, stays.
        DPM-Solver begins a timestep below pure noise, and tells the network whole timesteps.
        """
        if self.spacing == "solver":
            sigma = self._shifted(_below_noise(steps, self.timesteps)).to(self.device)
            levels = tuple(self._of_sigma(value[None]) for value in sigma)
            times = (sigma * self.timesteps).floor().float()
            return tuple(replace(level, time=time[None]) for level, time in zip(levels, times, strict=True))
        ends = torch.tensor([1.0, 1 / self.timesteps], dtype=torch.float64)
        first, last = (1.0, 1 / steps) if self.spacing == "pipeline" else self._shifted(ends).tolist()
        u = torch.linspace(first, last, steps, dtype=torch.float64, device=self.device)
        sampler = self if self.shift_in is None else replace(self, shift=self.shift_in(steps))
        sigma = self._stretched(sampler._shifted(u))
        return tuple(self._of_sigma(value[None]) for value in sigma)

    def _stretched(self, sigma: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        if self.last is None or len(sigma) == 1:
            return sigma
        return 1 - (1 - sigma) * ((1 - self.last) / (1 - sigma[-1]))

    def _shifted(self, u: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        return self.shift * u / (1 + (self.shift - 1) * u)

    def _level(self, u: Float[Tensor, " row"]) -> NoiseLevel:
        return self._of_sigma(self._shifted(u))

    def _of_sigma(self, sigma: Float[Tensor, " row"]) -> NoiseLevel:
        return NoiseLevel(alpha=(1 - sigma).float(), sigma=sigma.float(), time=(sigma * self.timesteps).float())


def _below_noise(steps: int, timesteps: int) -> Float[Tensor, " row"]:
    """Values of u from 1 - 1/T down to (1 - 1/T) / steps, bit for bit as diffusers' scheduler has it."""
    ends = 1.0, 1 / timesteps
    alphas = torch.arange(steps + 1, dtype=torch.float64) * ((ends[1] - ends[0]) / steps) + ends[0]
    alphas[-1] = ends[1]
    return (1 - alphas).flip(0)[:-1]


def timestep_at(schedule: Schedule, ratio: float) -> int:
    """The training timestep at which the noise is nearest to `ratio` times the signal, sigma = ratio * alpha."""
    level = schedule.at(torch.arange(schedule.timesteps))
    return int((level.sigma - ratio * level.alpha).abs().argmin())


def level_at(schedule: Schedule, timestep: int, device: torch.device) -> NoiseLevel:
    """The level of one timestep, with one row."""
    return schedule.at(torch.tensor([timestep], device=device))


def expanded(level: NoiseLevel, rows: int) -> NoiseLevel:
    """A level of one row for all rows."""
    return NoiseLevel(alpha=level.alpha.expand(rows), sigma=level.sigma.expand(rows), time=level.time.expand(rows))
