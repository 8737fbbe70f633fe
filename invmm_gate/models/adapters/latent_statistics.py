"""From an autoencoder's latents to those that a network denoises, and back."""

from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "row channel height width"]


class LatentStatistics(Protocol):
    """How latents are brought to about zero mean and unit variance."""

    def standardised(self, latents: Latents) -> Latents:
        """x_0 of an autoencoder's latents."""
        ...

    def raw(self, x_0: Latents) -> Latents:
        """The autoencoder's latents of x_0."""
        ...


class OneScale:
    """One shift and one factor for all channels: x_0 = (latent - shift_factor) * scaling_factor."""

    __slots__ = ("scaling_factor", "shift_factor")

    def __init__(self, scaling_factor: float, shift_factor: float = 0.0) -> None:
        self.scaling_factor, self.shift_factor = scaling_factor, shift_factor

    def standardised(self, latents: Latents) -> Latents:
        """x_0 of an autoencoder's latents."""
        return (latents - self.shift_factor) * self.scaling_factor

    def raw(self, x_0: Latents) -> Latents:
        """The autoencoder's latents of x_0."""
        return x_0 / self.scaling_factor + self.shift_factor


class BatchNormOfPatches:
    """Each 2 x 2 patch of latents is one place of four times the channels, with the statistics of a batch norm.

    `AutoencoderKLFlux2` brings the norm, frozen: its running mean and variance for each of these channels.
    """

    __slots__ = ("_mean", "_std")

    def __init__(self, autoencoder: Any) -> None:
        norm = autoencoder.bn
        self._mean: Tensor = norm.running_mean.float().view(1, -1, 1, 1)
        self._std: Tensor = (norm.running_var.float() + autoencoder.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)

    def standardised(self, latents: Latents) -> Latents:
        """x_0 of an autoencoder's latents: half of each side, four times the channels."""
        return (torch.nn.functional.pixel_unshuffle(latents, 2) - self._mean) / self._std

    def raw(self, x_0: Latents) -> Latents:
        """The autoencoder's latents of x_0."""
        return torch.nn.functional.pixel_shuffle(x_0 * self._std + self._mean, 2)
