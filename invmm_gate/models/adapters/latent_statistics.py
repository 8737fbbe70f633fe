"""From an autoencoder's latents to those that a network denoises, and back."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.core.errors import ModelError

Latents = Float[Tensor, "row channel height width"]


def encoded(
    autoencoder: Any, images: Float[Tensor, "row 3 image_height image_width"], generator: torch.Generator | None
) -> Latents:
    """An autoencoder's latents of images in [-1, 1]: the posterior's mode, or with a generator a draw from it.

    `AutoencoderDC` gives each image one latent.
    """
    given = images.to(autoencoder.dtype)
    if type(autoencoder).__name__ == "AutoencoderDC":  # it has no posterior
        only: Tensor = autoencoder.encode(given, return_dict=False)[0]
        return only.float()
    posterior = autoencoder.encode(given.unsqueeze(2) if _of_videos(autoencoder) else given, return_dict=False)[0]
    latents: Tensor = posterior.mode() if generator is None else posterior.sample(generator)
    return (latents.squeeze(2) if _of_videos(autoencoder) else latents).float()


def decoded(autoencoder: Any, latents: Latents) -> Float[Tensor, "row 3 image_height image_width"]:
    """Images of an autoencoder's latents; not clamped."""
    given = latents.to(autoencoder.dtype)
    images: Tensor = autoencoder.decode(given.unsqueeze(2) if _of_videos(autoencoder) else given, return_dict=False)[0]
    return (images.squeeze(2) if _of_videos(autoencoder) else images).float()


def _of_videos(autoencoder: Any) -> bool:
    """Whether it takes frames, on an axis after the channels; an image is one frame."""
    return type(autoencoder).__name__ == "AutoencoderKLQwenImage"


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


class PerChannel:
    """A mean and a standard deviation for each channel: x_0 = (latent - mean) / std."""

    __slots__ = ("_mean", "_std")

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean, self._std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))

    def standardised(self, latents: Latents) -> Latents:
        """x_0 of an autoencoder's latents."""
        return (latents - self._mean.to(latents)) / self._std.to(latents)

    def raw(self, x_0: Latents) -> Latents:
        """The autoencoder's latents of x_0."""
        return x_0 * self._std.to(x_0) + self._mean.to(x_0)


class BatchNormOfPatches:
    """Each 2 x 2 patch of latents is one place of four times the channels, with the statistics of a batch norm.

    `AutoencoderKLFlux2` brings the norm, frozen: its running mean and variance for each of these channels. Raises
    ModelError for a variance below 0.
    """

    __slots__ = ("_mean", "_std")

    def __init__(self, autoencoder: Any) -> None:
        norm = autoencoder.bn
        if float(norm.running_var.min()) < 0:
            raise ModelError(
                f"the smallest running_var of the autoencoder's batch norm is {float(norm.running_var.min()):.3g}",
                expected="variances, 0 or more",
                do="save the checkpoint again with the autoencoder that it was trained with",
            )
        self._mean: Tensor = norm.running_mean.float().view(1, -1, 1, 1)
        self._std: Tensor = (norm.running_var.float() + autoencoder.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)

    def standardised(self, latents: Latents) -> Latents:
        """x_0 of an autoencoder's latents: half of each side, four times the channels."""
        return (torch.nn.functional.pixel_unshuffle(latents, 2) - self._mean) / self._std

    def raw(self, x_0: Latents) -> Latents:
        """The autoencoder's latents of x_0."""
        return torch.nn.functional.pixel_shuffle(x_0 * self._std + self._mean, 2)
