"""A denoiser that knows its images exactly: the optimal posterior mean over a finite, weighted set.

Its memorization is known without training, so it is the self-check's positive control and the tests' fixture.
"""

from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.core.protocols import Condition, NoiseLevel, Schedule
from invmm_gate.diffusion.prediction import per_row


@final
class MixtureDenoiser:
    """E[x_0 | x_t] for x_0 drawn from `images` with probabilities `weights`; a `DiffusionModel`.

    Its latent is one of these images. They may stand for larger ones of `image_size` (height, width): both are then
    interpolated from the same few `cells` (down, across), so that a known image is decoded exactly.
    """

    family: Final = "pixel"

    def __init__(
        self,
        images: Float[Tensor, "image channel height width"],
        weights: Float[Tensor, " image"],
        schedule: Schedule,
        *,
        image_size: tuple[int, int] | None = None,
        cells: tuple[int, int] = (1, 1),
    ) -> None:
        self.schedule = schedule
        self.device = images.device
        self.images = images.float()
        self._image_size, self._cells = image_size, cells
        self._log_weights = (weights / weights.sum()).log().to(images.device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one image."""
        channel, height, width = self.images.shape[1:]
        return (channel, height, width)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width)."""
        return self._image_size or self.latent_shape[1:]

    @property
    def prompts(self) -> None:
        """No text side."""
        return None

    @property
    def guidance_distilled(self) -> bool:
        """There is no guidance."""
        return False

    @property
    def released(self) -> None:
        """It is no checkpoint."""
        return None

    def limited(self, x_0_hat: Tensor) -> Tensor:
        """As it is: a mean of images needs no limits."""
        return x_0_hat

    def forwards(self, guidance_scale: float) -> int:
        """One evaluation a row."""
        del guidance_scale
        return 1

    def encode(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Pixels are the latent; larger images at the latent's size, by their cells."""
        del generator
        return images if self._image_size is None else self._resized(images, self.latent_shape[1:])

    def decode(self, x_0: Tensor) -> Tensor:
        """Pixels are the latent; larger images by its cells; clamped to [-1, 1]."""
        return (x_0 if self._image_size is None else self._resized(x_0, self._image_size)).clamp(-1, 1)

    def _resized(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        return interpolated(fewer(images, self._cells), size)

    def estimate_x_0(
        self,
        x_t: Float[Tensor, "row channel height width"],
        level: NoiseLevel,
        *,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row channel height width"]:
        """Posterior mean: images weighted by w_k * N(x_t; alpha x_k, sigma^2 I)."""
        del condition, guidance_scale
        return posterior_mean(x_t, level, self.images, self._log_weights)


def posterior_mean(
    x_t: Float[Tensor, "row channel height width"],
    level: NoiseLevel,
    images: Float[Tensor, "image channel height width"],
    log_weights: Float[Tensor, "*#row image"],
) -> Float[Tensor, "row channel height width"]:
    """E[x_0 | x_t] for x_0 drawn from `images`; their log weights need not be normalised. Differentiable in both."""
    known = images.flatten(1)
    alpha, sigma = per_row(level.alpha).flatten(1), per_row(level.sigma).flatten(1)
    distances = (x_t.flatten(1)[:, None] - alpha[:, None] * known[None]).square().sum(dim=2)
    posterior = (log_weights - distances / (2 * sigma.square())).softmax(dim=1)
    return torch.einsum("rk,kd->rd", posterior, known).view_as(x_t)


def interpolated(
    images: Float[Tensor, "row channel cells_down cells_across"], size: tuple[int, int]
) -> Float[Tensor, "row channel height width"]:
    """Images at another (height, width), bilinear."""
    return torch.nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)


def fewer(
    images: Float[Tensor, "row channel height width"], cells: tuple[int, int]
) -> Float[Tensor, "row channel cells_down cells_across"]:
    """The small images, of (height, width) `cells`, whose interpolation comes nearest to these."""
    down, across = (_undone(size, few, images.device) for size, few in zip(images.shape[-2:], cells, strict=True))
    return down @ images @ across.T


def _undone(size: int, cells: int, device: torch.device) -> Float[Tensor, "cells size"]:
    """The matrix that undoes the interpolation of one axis."""
    each = torch.eye(cells, device=device)[None]
    spread = torch.nn.functional.interpolate(each, size=size, mode="linear", align_corners=False)[0]
    undone: Tensor = torch.linalg.pinv(spread.T)
    return undone
