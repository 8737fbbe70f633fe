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
    """E[x_0 | x_t] for x_0 drawn from `images` with probabilities `weights`; a pixel-space `DiffusionModel`."""

    family: Final = "pixel"

    def __init__(
        self,
        images: Float[Tensor, "image channel height width"],
        weights: Float[Tensor, " image"],
        schedule: Schedule,
    ) -> None:
        self.schedule = schedule
        self.device = images.device
        self._images = images.float()
        self._log_weights = (weights / weights.sum()).log().to(images.device)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one image."""
        channel, height, width = self._images.shape[1:]
        return (channel, height, width)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.latent_shape[1:]

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
        """Pixels are the latent."""
        del generator
        return images

    def decode(self, x_0: Tensor) -> Tensor:
        """Pixels are the latent; clamped to [-1, 1]."""
        return x_0.clamp(-1, 1)

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
        return posterior_mean(x_t, level, self._images, self._log_weights)


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
