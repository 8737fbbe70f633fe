"""Bounds that a scheduler keeps x_0_hat in while it samples."""

from dataclasses import dataclass

import torch

from invmm_gate.diffusion.prediction import Rows, per_row


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
