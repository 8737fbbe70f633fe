"""One deterministic sampler for all families, and the bounds that a scheduler keeps x_0_hat in."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from invmm_gate.core.protocols import Condition, DiffusionModel, NoiseLevel
from invmm_gate.diffusion.prediction import Rows, per_row
from invmm_gate.diffusion.schedule import expanded


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
    levels = model.schedule.grid(steps)
    return descend(model, noise, levels, condition=condition, guidance_scale=guidance_scale)


def descend(
    model: DiffusionModel,
    x_t: Rows,
    levels: Sequence[NoiseLevel],
    *,
    condition: Condition | None = None,
    guidance_scale: float = 1.0,
) -> Rows:
    """x_0 reached from x_t at the first of the levels, noisiest first, each with one row."""
    spread = tuple(expanded(level, x_t.shape[0]) for level in levels)
    with torch.no_grad():
        for level, following in zip(spread, (*spread[1:], None), strict=True):
            estimate = model.estimate_x_0(x_t, level, condition=condition, guidance_scale=guidance_scale)
            x_0_hat = model.limited(estimate)
            x_t = x_0_hat if following is None else step(x_t, x_0_hat, level, following)
    return x_t


def step(x_t: Rows, x_0_hat: Rows, level: NoiseLevel, following: NoiseLevel) -> Rows:
    """The noise that x_0_hat leaves in x_t, mixed again at the next level."""
    eps_hat = (x_t - per_row(level.alpha) * x_0_hat) / per_row(level.sigma)
    return per_row(following.alpha) * x_0_hat + per_row(following.sigma) * eps_hat


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits that x_0_hat is kept in at each sampling step; none by default."""

    clip: float | None = None
    """x_0_hat is clipped to [-clip, clip]."""
    quantile: float | None = None
    """Dynamic thresholding in place of clipping: s is this quantile of |x_0_hat| of a row."""
    largest: float = 1.0
    """Upper bound of s."""

    def __str__(self) -> str:
        """For records and reports."""
        if self.quantile is not None:
            return f"x_0 thresholded at its quantile {self.quantile:g}, at most {self.largest:g}"
        return "x_0 not clipped" if self.clip is None else f"x_0 clipped to [-{self.clip:g}, {self.clip:g}]"


def limited(x_0_hat: Rows, limits: Limits) -> Rows:
    """x_0_hat within its limits.

    Thresholding clips a row to [-s, s], with s of at least 1, and divides it by s. Source: arXiv:2205.11487, section
    2.3, as diffusers' schedulers have it.
    """
    if limits.quantile is not None:
        quantile = torch.quantile(x_0_hat.abs().flatten(1), limits.quantile, dim=1)
        s = per_row(quantile.clamp(min=1, max=limits.largest))
        return x_0_hat.clamp(-s, s) / s
    return x_0_hat if limits.clip is None else x_0_hat.clamp(-limits.clip, limits.clip)
