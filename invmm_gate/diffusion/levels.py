"""Noise levels found by how strong the noise is, and spread over rows."""

import torch

from invmm_gate.core.protocols import NoiseLevel, Schedule


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
