"""A copy metric as `probes build` uses it: images of one size in, embeddings and a Euclidean threshold out."""

import math
import re
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.protocols import CopyMetric
from invmm_gate.core.settings import ENCODERS
from invmm_gate.core.version import __version__
from invmm_gate.curation.neighbours import Vectors
from invmm_gate.similarity.encoders import encoder_metric, is_onnx
from invmm_gate.similarity.pixel import PixelRmse

Kind = Literal["cosine", "rmse"]

_RMSE_FACTORS: Final = tuple(step / 10 for step in range(2, 14))
"""The sweep of a pixel metric: 0.2 to 1.3 times the threshold."""
_COSINE_STEPS: Final = tuple(step / 20 for step in range(10, -3, -1))
"""The sweep of a cosine: 0.5 above the threshold to 0.1 below it."""
_COSINE_RANGE: Final = (0.05, 0.985)
PIXEL_SIZE: Final = 32
SSCD_SIZE: Final = 320
"""The side at which images are compared, unless it is named."""
_THRESHOLDS: Final = {"pixel_rmse": 0.1, "sscd": 0.5}


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


Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """A copy metric, the size of the images it gets, and what its threshold means as a distance."""

    metric: CopyMetric
    size: int
    scale: CopyScale
    digest: str
    """sha256 of the metric's own weights, where it has any."""

    @property
    def identity(self) -> str:
        """Names the embeddings: all that decides them."""
        parts = (self.metric.name, self.size, self.digest, __version__, version("pillow"), self.scale.width)
        return sha256(repr(parts).encode()).hexdigest()[:32]

    def fitted(self, image: Image.Image) -> Pixels:
        """The whole image, squeezed into a square: copies of other proportions stay comparable. uint8 (size, size, 3).

        Reduced with antialiasing, enlarged where it is smaller: for comparison only, a probe keeps its own size.
        """
        square = (self.size, self.size)
        fitting = image if image.size == square else image.resize(square, Image.Resampling.BILINEAR)
        return np.asarray(fitting, dtype=np.uint8)

    def embed(self, pixels: NDArray[np.uint8]) -> Vectors:
        """uint8 (row, size, size, 3) -> (row, feature). Raises ConfigError where the metric gives NaN."""
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        vectors: Vectors = self.metric.embed(images).float().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise ConfigError(
                f"the copy metric {self.metric.name} gives NaN or infinity",
                expected="finite values",
                do="check its file",
            )
        return vectors


def make_embedder(name: str, *, size: int | None, threshold: float | None, sscd: Path | None, device: str) -> Embedder:
    """The copy metric of this name. Raises ConfigError for an unknown one, a missing file or an unfit size."""
    if name == "pixel_rmse":
        size, threshold = size or PIXEL_SIZE, _THRESHOLDS[name] if threshold is None else threshold
        scale = CopyScale(kind="rmse", threshold=threshold, width=3 * size**2)
        metric: CopyMetric = PixelRmse(threshold)
        digest = ""
    elif name.startswith(ENCODERS):
        size, threshold = size or SSCD_SIZE, _encoder_threshold(name, sscd) if threshold is None else threshold
        metric, digest = encoder_metric(
            name=name, threshold=threshold, image_size=(size, size), path=sscd, device=_device(device)
        )
        width = metric.embed(torch.zeros(1, 3, size, size)).shape[1]
        scale = CopyScale(kind="cosine", threshold=threshold, width=width)
    else:
        raise ConfigError(
            f"--metric {name!r}", expected=f"pixel_rmse or a name that begins with {' or '.join(ENCODERS)}"
        )
    unfit = metric.unfit_for(size, size)
    if unfit:
        raise ConfigError(f"--size {size} with --metric {name}: {unfit}")
    return Embedder(metric=metric, size=size, scale=scale, digest=digest)


def _encoder_threshold(name: str, path: Path | None) -> float:
    if is_onnx(name, path):
        raise ConfigError(
            f"--metric {name} has no threshold of its own",
            do="find one with `invmm-gate metric calibrate`, and give it with --threshold",
        )
    return _THRESHOLDS["sscd"]


def _device(name: str) -> str:
    found = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if not re.fullmatch(r"cpu|cuda(:\d+)?", found) or (found != "cpu" and not torch.cuda.is_available()):
        raise ConfigError(f"--device {name!r}", expected="auto, cpu, or cuda or cuda:N where there is one")
    return found
