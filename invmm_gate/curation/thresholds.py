"""A copy metric's thresholds as Euclidean distances between its embeddings, and the thresholds of the sweep."""

import math
from dataclasses import dataclass
from typing import Final, Literal

from invmm_gate.core.errors import ConfigError

Kind = Literal["cosine", "rmse"]

_RMSE_FACTORS: Final = tuple(step / 10 for step in range(2, 14))
"""The sweep of a pixel metric: 0.2 to 1.3 times the threshold."""
_COSINE_STEPS: Final = tuple(step / 20 for step in range(10, -3, -1))
"""The sweep of a cosine: 0.5 above the threshold to 0.1 below it."""
_COSINE_RANGE: Final = (0.05, 0.985)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyScale:
    """What a value of the copy metric means as a distance between two embeddings."""

    kind: Kind
    threshold: float
    """The value at which two images count as copies."""
    width: int
    """Numbers in an embedding."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(f"copy threshold {self.threshold:g}", expected="a value between 0 and 1")

    def distance(self, value: float) -> float:
        """sqrt(2 - 2c) for a cosine c of unit vectors; the RMSE times sqrt(width)."""
        return math.sqrt(max(0.0, 2 - 2 * value)) if self.kind == "cosine" else value * math.sqrt(self.width)

    def value(self, distance: float) -> float:
        """The metric's value at a distance; `distance` turned round."""
        return 1 - distance**2 / 2 if self.kind == "cosine" else distance / math.sqrt(self.width)

    def sweep(self) -> tuple[float, ...]:
        """Thresholds from the strictest to the loosest, the metric's own among them."""
        if self.kind == "rmse":
            return tuple(value for value in (self.threshold * factor for factor in _RMSE_FACTORS) if value < 1)
        low, high = _COSINE_RANGE
        steps = (self.threshold + step for step in _COSINE_STEPS)
        return tuple(value for value in steps if low <= value <= high or value == self.threshold)
