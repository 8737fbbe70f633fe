"""A copy metric's threshold at a stated false-match rate, from images that are not copies of one another."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.protocols import CopyMetric


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
    """Calibrate on all pairs of `images`, of which at most the stated share passes.

    Raises ConfigError for a rate outside (0, 1), too few pairs for the rate, or a metric that gives NaN.
    """
    if not 0 < false_match_rate < 1:
        raise ConfigError(f"false-match rate {false_match_rate:g}", expected="a share between 0 and 1")
    pairs = len(images) * (len(images) - 1) // 2
    if pairs * false_match_rate < 1:
        raise ConfigError(
            f"{len(images)} images make {pairs} pairs",
            expected=f"at least {1 / false_match_rate:.0f} pairs for a false-match rate of {false_match_rate:g}",
            do="give more images, or a higher --rate",
        )
    sign = -1.0 if metric.higher_is_copy else 1.0
    values = sign * _pairwise(metric, images)
    random = np.random.default_rng(seed)
    draws = (random.integers(0, len(images), len(images)) for _ in range(resamples))
    drawn = [sign * _passed_by(values, draw, false_match_rate) for draw in draws if np.ptp(draw)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Calibration(
        metric=metric.name,
        false_match_rate=false_match_rate,
        threshold=sign * _passed_by(values, np.arange(len(images)), false_match_rate),
        low=float(low),
        high=float(high),
        images=len(images),
        pairs=pairs,
    )


def _pairwise(metric: CopyMetric, images: Tensor) -> NDArray[np.float64]:
    """Metric values of all ordered pairs, (row, row)."""
    features = metric.embed(images)
    rows = [metric.compare(features, features[index : index + 1]) for index in range(len(images))]
    values: NDArray[np.float64] = torch.stack(rows).double().cpu().numpy()
    if not np.isfinite(values).all():
        raise ConfigError(
            f"the copy metric {metric.name} gives NaN or infinity", expected="finite values", do="check its file"
        )
    return values


def _passed_by(values: NDArray[np.float64], chosen: NDArray[np.int64], rate: float) -> float:
    """The largest value that at most a share `rate` of the pairs (but at least one) reaches; low = copy.

    Pairs are of different images among the chosen ones; an image drawn twice is no pair with itself.
    """
    different = chosen[:, None] != chosen[None]
    picked = values[np.ix_(chosen, chosen)][np.triu(different, k=1)]
    passing = max(int(len(picked) * rate + 1e-9), 1)  # 100 * 0.29 is 28.999999999999996
    return float(np.partition(picked, passing - 1)[passing - 1])
