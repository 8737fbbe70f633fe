"""One deterministic sampler: on x_0_hat, DDIM with eta 0 and the flow Euler step are the same update."""

import torch
from torch import Tensor

from invmm_gate.diffusion.prediction import Rows, per_row
from invmm_gate.protocols import Condition, DiffusionModel, NoiseLevel


def sample(
    model: DiffusionModel,
    noise: Rows,
    *,
    steps: int,
    condition: Condition | None = None,
    guidance_scale: float = 1.0,
) -> Rows:
    """x_0 reached from x_T = `noise` in `steps` network evaluations a row.

    At each step x_0_hat is kept within the model's limits (`DiffusionModel.limited`), as the checkpoint's own scheduler
    does it, and the noise is taken anew from the limited one. Source: arXiv:2010.02502, Eq. 12 with eta = 0.
    """
    rows = noise.shape[0]
    x_t = noise
    grid = tuple(_expanded(level, rows) for level in model.schedule.grid(steps))
    with torch.no_grad():
        for level, following in zip(grid, (*grid[1:], None), strict=True):
            estimate = model.estimate_x_0(x_t, level, condition=condition, guidance_scale=guidance_scale)
            x_0_hat = model.limited(estimate)
            x_t = x_0_hat if following is None else step(x_t, x_0_hat, level, following)
    return x_t


def step(x_t: Rows, x_0_hat: Rows, level: NoiseLevel, following: NoiseLevel) -> Rows:
    """The noise that x_0_hat leaves in x_t, mixed again at the next level."""
    eps_hat = (x_t - per_row(level.alpha) * x_0_hat) / per_row(level.sigma)
    return per_row(following.alpha) * x_0_hat + per_row(following.sigma) * eps_hat


def _expanded(level: NoiseLevel, rows: int) -> NoiseLevel:
    def expand(values: Tensor) -> Tensor:
        return values.expand(rows)

    return NoiseLevel(alpha=expand(level.alpha), sigma=expand(level.sigma), time=expand(level.time))
