"""Two copy metrics at once: a sample is a copy if either calls it one."""

from collections.abc import Iterator
from typing import Final, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invmm_gate.core.protocols import AligningMetric, CopyMetric
from invmm_gate.core.settings import EITHER_AT, either_name

_LEAST: Final = 1e-6
"""Smallest distance that a threshold leaves, so that a similarity of 1 can still be asked for."""


@final
class Either:
    """The nearer of two metrics, each in units of its own threshold: a copy is at most 1; low = copy.

    Distances are divided by their threshold; of similarities, such as a cosine, what is missing to 1 is. `size` is
    (height, width) of the images that it will be given.
    """

    higher_is_copy = False
    threshold = EITHER_AT

    def __init__(self, first: CopyMetric, second: CopyMetric, *, size: tuple[int, int]) -> None:
        self._metrics = first, second
        self._width = first.embed(torch.zeros(1, 3, *size)).shape[1]
        self.name = either_name(*((metric.name, metric.threshold) for metric in self._metrics))

    def embed(self, images: Float[Tensor, "row 3 height width"]) -> Float[Tensor, "row feature"]:
        """The features of both, side by side."""
        return torch.cat([metric.embed(images).to(images.device) for metric in self._metrics], dim=1)

    def compare(
        self, features: Float[Tensor, "row feature"], reference: Float[Tensor, "#row feature"]
    ) -> Float[Tensor, " row"]:
        """The smaller ratio of each pair of rows, >= 0; NaN where either metric gives NaN."""
        return torch.stack(list(self._ratios(features, reference))).amin(dim=0)

    def alignment(self, feature: Float[Tensor, "1 feature"], reference: Float[Tensor, "1 feature"]) -> str:
        """How the nearer of the two metrics aligned the pair, in words; empty where it moves nothing."""
        ratios = [float(ratio) for ratio in self._ratios(feature, reference)]
        nearer = ratios.index(min(ratios))
        metric, (own, other) = self._metrics[nearer], list(self._split(feature, reference))[nearer]
        return str(metric.alignment(own, other)) if isinstance(metric, AligningMetric) else ""

    def is_copy(self, values: Float[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """At most 1; NaN is no copy."""
        return values <= self.threshold

    def unfit_for(self, height: int, width: int) -> str | None:
        """Unfit where one of the two is."""
        return next(filter(None, (metric.unfit_for(height, width) for metric in self._metrics)), None)

    def _ratios(self, features: Tensor, reference: Tensor) -> Iterator[Tensor]:
        for metric, (own, other) in zip(self._metrics, self._split(features, reference), strict=True):
            values = metric.compare(own, other)
            if metric.higher_is_copy:
                yield (1 - values).clamp_min(0) / max(1 - metric.threshold, _LEAST)
            else:
                yield values / metric.threshold

    def _split(self, features: Tensor, reference: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        yield features[:, : self._width], reference[:, : self._width]
        yield features[:, self._width :], reference[:, self._width :]
