"""Pixel distance after alignment: copies that were mirrored, shifted, resized a little, or recoloured."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample

from invmm_gate.similarity.pixel import unfit_above_64, unit_pixels

SCALES: Final = (0.8, 0.9, 1.0, 1.11, 1.25)
"""Sizes at which the reference may stand in the image: below 1 it is smaller, above 1 its middle alone is there."""
SHIFT: Final = 8
"""The reference may lie off by up to a side divided by this, in whole pixels, along each axis."""
GAIN: Final = 1.25
"""Largest factor on the contrast of a channel, and its inverse the smallest."""
OFFSET: Final = 0.1
"""Largest change of a channel's brightness, on [0, 1], beside the factor."""
CONTRAST: Final = 0.15
"""Standard deviation on [0, 1]. Where what is compared of the reference has less, the distance counts for as much more:
at some alignment, one patch of sky is near to every other."""
LEAST_OVERLAP: Final = 0.5
"""Share of the image that a reference must cover."""
_LUMA: Final = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """How a reference lies in an image that it matches best."""

    mirrored: bool
    scale: float
    down: int
    """Pixels that it lies further down."""
    right: int
    grey: bool
    """Only the brightness was compared."""

    def __str__(self) -> str:
        """In words; empty where nothing was moved."""
        parts = ["mirrored"] * self.mirrored + ["in grey"] * self.grey
        parts += [f"at {self.scale:g} of its size"] if self.scale != 1 else []
        parts += [f"moved by {self.right}, {self.down} pixels"] if self.right or self.down else []
        return ", ".join(parts)


@final
class PixelAligned:
    """Root mean squared difference on [0, 1] at the best of many alignments; low = copy.

    Only pixels that both show count. An alignment mirrors, resizes and shifts the reference; then each channel of the
    image may be stretched and brightened a little, by least squares within limits. Grey is compared too. The distance
    grows where the part that is compared has little contrast. More images match by chance than under `PixelRmse`: the
    threshold is calibrated for this metric.
    """

    name = "pixel_aligned"
    higher_is_copy = False

    def __init__(self, threshold: float = 0.06) -> None:
        self.threshold = threshold

    def embed(self, images: Float[Tensor, "row 3 height width"]) -> Float[Tensor, "row feature"]:
        """Pixels on [0, 1], and the height."""
        height = images.new_full((len(images), 1), images.shape[-2])
        return torch.cat([unit_pixels(images), height], dim=1)

    def compare(
        self, features: Float[Tensor, "row feature"], reference: Float[Tensor, "#row feature"]
    ) -> Float[Tensor, " row"]:
        """Distance of each pair of rows, in [0, 1]."""
        values = features.new_empty(len(features))
        for rows, own in _runs(reference, len(features)):
            values[rows] = _distances(_pictures(features[rows]), _pictures(own)[0]).flatten(1).amin(dim=1)
        return values

    def alignment(self, feature: Float[Tensor, "1 feature"], reference: Float[Tensor, "1 feature"]) -> Alignment:
        """The best alignment of one pair: in colour, if that makes a copy or comes as near as grey."""
        found = _distances(_pictures(feature), _pictures(reference)[0])[0]
        nearest = found.flatten(1).amin(dim=1)
        grey = bool(nearest[0] > self.threshold and nearest[1] < nearest[0])
        place = torch.unravel_index(found[int(grey)].argmin(), found.shape[1:])
        variant, down, right = (int(index) for index in place)
        limits = [size // 2 for size in found.shape[2:]]
        return Alignment(
            mirrored=variant >= len(SCALES),
            scale=SCALES[variant % len(SCALES)],
            down=down - limits[0],
            right=right - limits[1],
            grey=grey,
        )

    def is_copy(self, values: Float[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """At or below the threshold; NaN is no copy."""
        return values <= self.threshold

    def unfit_for(self, height: int, width: int) -> str | None:
        """Unfit above 64 pixels a side."""
        return unfit_above_64(height, width)


def _runs(reference: Tensor, rows: int) -> list[tuple[slice, Tensor]]:
    """Neighbouring rows with the same reference: all samples of a probe are compared in one call."""
    if len(reference) == 1:
        return [(slice(0, rows), reference)]
    changes = (reference[1:] != reference[:-1]).any(dim=1).nonzero().flatten().tolist()
    edges = [0, *(place + 1 for place in changes), rows]
    return [(slice(begin, end), reference[begin : begin + 1]) for begin, end in pairwise(edges)]


def _pictures(features: Float[Tensor, "row feature"]) -> Float[Tensor, "row 4 height width"]:
    """Red, green, blue and their brightness."""
    height = int(features[0, -1])
    colours = features[:, :-1].reshape(len(features), 3, height, -1)
    luma = (colours * features.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    return torch.cat([colours, luma], dim=1)


def _variants(reference: Tensor) -> tuple[Float[Tensor, "variant 4 height width"], Tensor]:
    """The reference at each size, then the same mirrored; and 1 where a pixel of it is known, (variant, 1, ...)."""
    theta = reference.new_zeros(2 * len(SCALES), 2, 3)
    for place, (sign, scale) in enumerate((sign, scale) for sign in (1.0, -1.0) for scale in SCALES):
        theta[place, 0, 0], theta[place, 1, 1] = sign / scale, 1 / scale
    both = torch.cat([reference, torch.ones_like(reference[:1])])[None].expand(len(theta), -1, -1, -1)
    moved = grid_sample(both, affine_grid(theta, list(both.shape), align_corners=False), align_corners=False)
    return moved[:, :-1], (moved[:, -1:] > 1 - 1e-4).to(reference.dtype)


def _distances(
    images: Float[Tensor, "row 4 height width"], reference: Float[Tensor, "4 height width"]
) -> Float[Tensor, "row 2 variant down right"]:
    """Root mean squared differences in colour and in grey, at every alignment; infinity where they hardly overlap.

    All sums over the overlap are correlations, so that one call has all shifts.
    """
    shifts = [max(side // SHIFT, 1) for side in images.shape[-2:]]
    given, known = _variants(reference)
    inside = torch.nn.functional.pad(torch.ones_like(images[:1]), (shifts[1], shifts[1], shifts[0], shifts[0]))
    padded = torch.nn.functional.pad(images, (shifts[1], shifts[1], shifts[0], shifts[0]))
    mask = known.expand_as(given)
    count = _summed(inside, mask)
    mean_x, mean_y = _summed(padded, mask) / count, _summed(inside, given * mask) / count
    var_x = (_summed(padded.square(), mask) / count - mean_x.square()).clamp_min(1e-8)
    var_y = (_summed(inside, given.square() * mask) / count - mean_y.square()).clamp_min(0)
    covariance = _summed(padded, given * mask) / count - mean_x * mean_y
    gain = (covariance / var_x).clamp(1 / GAIN, GAIN)
    fits = (
        (var_y - 2 * each * covariance + each.square() * var_x).clamp_min(0)
        + ((mean_y - each * mean_x).abs() - OFFSET).clamp_min(0).square()
        for each in (gain, torch.ones_like(gain))
    )
    residual = torch.minimum(*fits)
    residual = residual.masked_fill(count < LEAST_OVERLAP * images[0, 0].numel(), torch.inf)
    contrast = _in_colour_and_grey(var_y).clamp_min(1e-8).sqrt()
    return _in_colour_and_grey(residual).sqrt() * (CONTRAST / contrast).clamp_min(1)


def _in_colour_and_grey(squares: Float[Tensor, "row 4 ..."]) -> Float[Tensor, "row 2 ..."]:
    """The mean over red, green and blue, and brightness alone."""
    return torch.stack([squares[:, :3].mean(dim=1), squares[:, 3]], dim=1)


def _summed(
    images: Float[Tensor, "row 4 tall wide"], weights: Float[Tensor, "variant 4 height width"]
) -> Float[Tensor, "row 4 variant down right"]:
    """Sums of images under weights, channel by channel, at every shift."""
    kernels = weights.transpose(0, 1).flatten(0, 1)[:, None]
    sums = conv2d(images, kernels, groups=images.shape[1])
    return sums.reshape(len(sums), images.shape[1], len(weights), *sums.shape[2:])
