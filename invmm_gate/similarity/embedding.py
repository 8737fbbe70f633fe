"""Cosine similarity over any encoder that is passed in."""

from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Encoder = Callable[[Float[Tensor, "row 3 height width"]], Float[Tensor, "row feature"]]


@final
class EncoderCosine:
    """Cosine of an encoder's features; high = copy.

    `encoder` takes images in [-1, 1] and owns its transform, which `name` should say.
    """

    higher_is_copy = True

    def __init__(self, encoder: Encoder, *, name: str, threshold: float, smallest_side: int = 0) -> None:
        self._encoder, self.name, self.threshold = encoder, name, threshold
        self._smallest_side = smallest_side

    def embed(self, images: Float[Tensor, "row 3 height width"]) -> Float[Tensor, "row feature"]:
        """Features of unit length."""
        with torch.no_grad():
            features: Tensor = self._encoder(images).float()
        return torch.nn.functional.normalize(features, dim=1)

    def compare(
        self, features: Float[Tensor, "row feature"], reference: Float[Tensor, "#row feature"]
    ) -> Float[Tensor, " row"]:
        """Cosine of each pair of rows, in [-1, 1]."""
        return (features * reference).sum(dim=1)

    def is_copy(self, values: Float[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """At or above the threshold; NaN is no copy."""
        return values >= self.threshold

    def unfit_for(self, height: int, width: int) -> str | None:
        """Unfit where the images are smaller than the encoder can tell apart."""
        if min(height, width) >= self._smallest_side:
            return None
        return f"{self.name} is unreliable at {height}x{width}, below {self._smallest_side} pixels; use pixel_rmse"
