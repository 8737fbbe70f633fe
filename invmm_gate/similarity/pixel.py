"""Distances between pixels, for resolutions at which a copy detector is blind (below about 64 pixels)."""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invmm_gate.core.errors import ConfigError

_LARGEST_SIDE = 64
"""Above this a shift of a few pixels, which no reader would notice, already passes any pixel threshold."""

_FEWEST_REFERENCES = 2
"""With one reference, the probe itself, a copy's distance is 1 / scale times that to its neighbours, however small."""


def unfit_above_64(height: int, width: int) -> str | None:
    """Why no distance between pixels tells copies at this size; None where one does."""
    if max(height, width) <= _LARGEST_SIDE:
        return None
    return f"pixel distance misses shifted or recompressed copies at {height}x{width}; use sscd above {_LARGEST_SIDE}"


def unit_pixels(images: Float[Tensor, "row 3 height width"]) -> Float[Tensor, "row feature"]:
    """Images in [-1, 1] as rows of pixels on [0, 1]."""
    return ((images.clamp(-1, 1) + 1) / 2).flatten(1)


@final
class PixelRmse:
    """Root mean squared difference of pixels on the [0, 1] scale; low = copy."""

    name = "pixel_rmse"
    higher_is_copy = False

    def __init__(self, threshold: float = 0.1) -> None:
        self.threshold = threshold

    def embed(self, images: Float[Tensor, "row 3 height width"]) -> Float[Tensor, "row feature"]:
        """Pixels on [0, 1]."""
        return unit_pixels(images)

    def compare(
        self, features: Float[Tensor, "row feature"], reference: Float[Tensor, "#row feature"]
    ) -> Float[Tensor, " row"]:
        """Distance of each pair of rows, in [0, 1]."""
        return (features - reference).square().mean(dim=1).sqrt()

    def is_copy(self, values: Float[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """At or below the threshold; NaN is no copy."""
        return values <= self.threshold

    def unfit_for(self, height: int, width: int) -> str | None:
        """Unfit above 64 pixels a side."""
        return unfit_above_64(height, width)


@final
class NeighbourNormalisedL2:
    """l2 distance over `scale` times the mean distance of the sample to its nearest reference images; low = copy.

    A plain sky is close to every plain sky: the distance to the neighbours says what "close" means for this sample.
    Source: arXiv:2301.13188, section 5.1 (Carlini et al.), with scale 0.5 and 50 neighbours; near-duplicates among the
    references would hide copies, so references closer to one another than `duplicate_rmse` count once.
    Raises ConfigError for references of which no two differ.
    """

    higher_is_copy = False

    def __init__(
        self,
        references: Float[Tensor, "reference 3 height width"],
        *,
        threshold: float = 1.0,
        scale: float = 0.5,
        neighbours: int = 50,
        duplicate_rmse: float = 0.05,
    ) -> None:
        self.threshold = threshold
        self._scale = scale
        pixels = _without_duplicates(unit_pixels(references), duplicate_rmse)
        if len(pixels) < _FEWEST_REFERENCES:
            raise ConfigError(
                f"{len(references)} reference images, of which {len(pixels)} differ",
                expected=f"at least {_FEWEST_REFERENCES} that differ, or nothing can ever count as a copy",
                do="give more reference images, or use pixel_rmse",
            )
        self._references = pixels
        self._neighbours = min(neighbours, len(pixels))
        self.name = f"pixel_l2_neighbours@{self._neighbours}"

    def embed(self, images: Float[Tensor, "row 3 height width"]) -> Float[Tensor, "row feature"]:
        """Pixels on [0, 1]."""
        return unit_pixels(images)

    def compare(
        self, features: Float[Tensor, "row feature"], reference: Float[Tensor, "#row feature"]
    ) -> Float[Tensor, " row"]:
        """Normalised distance of each pair of rows, >= 0; 0 = equal."""
        distances = torch.cdist(features, self._references.to(features.device))
        nearest = distances.topk(self._neighbours, dim=1, largest=False).values.mean(dim=1)
        distance: Tensor = (features - reference).square().sum(dim=1).sqrt()
        return distance / (self._scale * nearest).clamp_min(1e-12)

    def is_copy(self, values: Float[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """At or below the threshold; NaN is no copy."""
        return values <= self.threshold

    def unfit_for(self, height: int, width: int) -> str | None:
        """Unfit above 64 pixels a side."""
        return unfit_above_64(height, width)


def _without_duplicates(
    pixels: Float[Tensor, "reference feature"], duplicate_rmse: float
) -> Float[Tensor, "kept feature"]:
    """Keep the first of each run of near-equal images, in order."""
    limit = duplicate_rmse * pixels.shape[1] ** 0.5
    close = torch.cdist(pixels, pixels) <= limit
    kept: list[int] = []
    for index in range(len(pixels)):
        if not close[index, kept].any():
            kept.append(index)
    return pixels[kept]
