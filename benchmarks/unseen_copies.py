"""Which altered copies the pixel metric still takes for copies, on the demo's images.

python benchmarks/unseen_copies.py
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from invmm_gate.similarity.pixel import PixelRmse

sys.path.insert(0, str(Path(__file__).parents[1] / "examples/demo"))

from draw import NEVER_SEEN, SIZE, draw_array

Picture = NDArray[np.uint8]
IMAGES: Final = NEVER_SEEN
THRESHOLD: Final = 0.1


def shifted(pixels: int) -> Callable[[Picture], Picture]:
    """To the right; the left edge is repeated."""
    return lambda image: np.pad(image, ((0, 0), (pixels, 0), (0, 0)), mode="edge")[:, : image.shape[1]]


def scaled(*, contrast: float = 1.0, brightness: float = 0.0) -> Callable[[Picture], Picture]:
    """Contrast about the middle grey; brightness as a part of the range from black to white."""
    return lambda image: np.clip((image - 127.5) * contrast + 127.5 + 255 * brightness, 0, 255).astype(np.uint8)


def jpeg(quality: int) -> Callable[[Picture], Picture]:
    """Saved as JPEG and read again."""

    def saved(image: Picture) -> Picture:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=quality)
        return np.asarray(Image.open(stream).convert("RGB"))

    return saved


def cropped(pixels: int) -> Callable[[Picture], Picture]:
    """That many pixels cut off at each edge, then enlarged to the old size."""

    def enlarged(image: Picture) -> Picture:
        inner = Image.fromarray(image[pixels:-pixels, pixels:-pixels])
        return np.asarray(inner.resize(image.shape[1::-1], Image.Resampling.BICUBIC))

    return enlarged


def patch(part: float) -> Callable[[Picture], Picture]:
    """A square of this part of the area is kept, on a picture that shows something else."""

    def pasted(image: Picture) -> Picture:
        side, other = round(SIZE * part**0.5), draw_array(int(IMAGES[0]) + 50_000)
        other = other.copy()
        other[:side, :side] = image[:side, :side]
        return other

    return pasted


CHANGES: Final[dict[str, Callable[[Picture], Picture]]] = {
    "none": lambda image: image,
    **{f"shifted by {pixels} of {SIZE} pixels": shifted(pixels) for pixels in (1, 2, 3, 4)},
    "mirrored": lambda image: image[:, ::-1],
    "turned by 90 degrees": lambda image: np.rot90(image),
    "turned by 180 degrees": lambda image: np.rot90(image, 2),
    "colour negative": lambda image: 255 - image,
    "red and blue exchanged": lambda image: image[:, :, ::-1],
    "grey": lambda image: np.asarray(Image.fromarray(image).convert("L").convert("RGB")),
    **{f"brighter by {part:.0%}": scaled(brightness=part) for part in (0.05, 0.1, 0.2)},
    **{f"contrast x {factor:g}": scaled(contrast=factor) for factor in (0.8, 0.5, 1.5)},
    **{f"JPEG, quality {quality}": jpeg(quality) for quality in (90, 50, 10)},
    **{f"cropped by {pixels} pixels, enlarged": cropped(pixels) for pixels in (1, 2)},
    **{f"{part:.0%} of the area on another picture": patch(part) for part in (0.75, 0.5, 0.25)},
}


def table() -> list[str]:
    """Lines of Markdown: the change, the middle RMSE and its range, and how many are still copies."""
    metric = PixelRmse(THRESHOLD)
    images = [draw_array(number) for number in IMAGES]
    lines = ["| change | RMSE: median (lowest to highest) | still copies |", "|---|---|---|"]
    for name, change in CHANGES.items():
        pairs = ((_features(metric, image), _features(metric, change(image))) for image in images)
        values = np.array([float(metric.compare(one, other)) for one, other in pairs])
        low, middle, high = values.min(), np.median(values), values.max()
        found = f"{(values <= THRESHOLD).sum()} of {len(values)}"
        lines.append(f"| {name} | {middle:.3f} ({low:.3f} to {high:.3f}) | {found} |")
    return lines


def _features(metric: PixelRmse, image: Picture) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    return metric.embed(pixels.float() / 127.5 - 1)


if __name__ == "__main__":
    print("\n".join(table()))
