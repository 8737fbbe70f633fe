"""A copy metric's threshold at a stated false-match rate, from images that are not copies of one another."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from invmm_gate.errors import ConfigError
from invmm_gate.protocols import CopyMetric


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The threshold at which a share `false_match_rate` of pairs of different images would pass for copies."""

    metric: str
    false_match_rate: float
    threshold: float
    low: float
    high: float
    """95 % interval of the threshold: percentile bootstrap over images, as pairs that share one are not independent."""
    images: int
    pairs: int


def calibrate(
    metric: CopyMetric,
    images: Float[Tensor, "row 3 height width"],
    *,
    false_match_rate: float,
    seed: int = 0,
    resamples: int = 1000,
) -> Calibration:
    """Calibrate on all pairs of `images`. Raises ConfigError when they are too few for the rate."""
    pairs = len(images) * (len(images) - 1) // 2
    if pairs * false_match_rate < 1:
        raise ConfigError(
            f"{len(images)} images make {pairs} pairs",
            expected=f"at least {1 / false_match_rate:.0f} pairs for a false-match rate of {false_match_rate:g}",
            do="give more images, or a higher --rate",
        )
    values = _pairwise(metric, images)
    random = np.random.default_rng(seed)
    tail = 1 - false_match_rate if metric.higher_is_copy else false_match_rate
    drawn = [_quantile(values, random.integers(0, len(images), len(images)), tail) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Calibration(
        metric=metric.name,
        false_match_rate=false_match_rate,
        threshold=_quantile(values, np.arange(len(images)), tail),
        low=float(low),
        high=float(high),
        images=len(images),
        pairs=pairs,
    )


def _pairwise(metric: CopyMetric, images: Tensor) -> NDArray[np.float64]:
    """Metric values of all ordered pairs, (row, row)."""
    features = metric.embed(images)
    rows = [metric.compare(features, features[index : index + 1]) for index in range(len(images))]
    return torch.stack(rows).double().cpu().numpy()


def _quantile(values: NDArray[np.float64], chosen: NDArray[np.int64], tail: float) -> float:
    """Quantile over pairs of different images among the chosen ones; an image drawn twice is no pair with itself."""
    different = chosen[:, None] != chosen[None]
    upper = np.triu(different, k=1)
    picked = values[np.ix_(chosen, chosen)][upper]
    return float(np.quantile(picked, tail, method="lower" if tail < 0.5 else "higher"))
