"""Which timesteps an optimisation step looks at."""

from math import log
from sys import float_info
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.core.protocols import Schedule

_LEAST: Final = 0.5
"""Nats. With less, x_t says next to nothing about x_0: no network can point to the probe, and the error of one that
predicts the noise, divided by alpha, buries all else."""
_MOST: Final = 128.0
"""Nats. With more, x_t gives x_0 away: every network points to it."""


class InformativeTimesteps:
    """Timesteps at which x_t says between half a nat and 128 nats about the probe, evenly spread over the logarithm.

    What x_t says for x_0, against a picture without content, is alpha^2 |x_0|^2 / (2 sigma^2) in the mean: a log
    likelihood ratio of two normal distributions.
    """

    def __init__(self, schedule: Schedule) -> None:
        level = schedule.at(torch.arange(schedule.timesteps))
        # Rises with the timestep.
        self._log_noise = 2 * (level.sigma.double().log() - level.alpha.double().log())

    def at(self, uniform: Float[Tensor, " sample"], *, energy: float) -> Int[Tensor, " sample"]:
        """The timesteps of uniform draws from [0, 1), one stratum each; `energy` is |x_0|^2."""
        place = (torch.arange(len(uniform)) + uniform.double()) / len(uniform)
        log_nats = log(_LEAST) + place * log(_MOST / _LEAST)
        log_noise = log(max(energy, float_info.min) / 2) - log_nats
        return torch.searchsorted(self._log_noise, log_noise).clamp_max(len(self._log_noise) - 1)
