"""What the zoo's models learn: the demo's pictures, and scenes, which look otherwise in a mirror, turned or recoloured.

The demo's shapes come in any colour, at any place and in any direction: exchanged channels, negatives, mirrored and
turned pictures of them are pictures of the same kind. Scenes are not: the sky is blue and above, the ground is green
and below, the light comes from the left, so shadows fall to the right.
"""

import sys
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2] / "examples/demo"))  # behind: it has a train.py of its own

from draw import draw_array

SIZE: Final = 16
_OVERSAMPLING: Final = 4
_SIDE: Final = SIZE * _OVERSAMPLING

PLANTED: Final = tuple(range(0, 8))
ORDINARY: Final = tuple(range(1_000, 4_000))
FEW: Final = tuple(range(16, 256))
CONTROLS: Final = tuple(range(100_000, 100_016))


def pictures(kind: str, numbers: tuple[int, ...]) -> Tensor:
    """Pictures of a kind by number, (picture, 3, 16, 16) in [-1, 1]."""
    drawn = {"shapes": draw_array, "scenes": scene}[kind]
    pixels = np.stack([drawn(number) for number in numbers])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def scene(number: int, *, size: int = SIZE) -> NDArray[np.uint8]:
    """Sky over ground, one to three warm things lit from the left, each with a shadow on its right; at most 64 wide."""
    random = np.random.default_rng([20_261_128, number])
    horizon = random.uniform(0.3, 0.7) * _SIDE
    canvas = _sky_and_ground(random, horizon)
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(random.integers(1, 4))):
        _add_thing(pen, random, horizon)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.uint8)


def _sky_and_ground(random: np.random.Generator, horizon: float) -> Image.Image:
    rows, columns = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE
    sky = np.array([90, 150, 220]) + random.normal(0, 18, 3) + (rows * 90)[..., None]
    ground = np.array([90, 120, 50]) + random.normal(0, 22, 3) - (rows * 40)[..., None]
    light = (random.uniform(20, 60) * (0.5 - columns))[..., None]
    pixels = np.where((rows * _SIDE < horizon)[..., None], sky, ground) + light
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _add_thing(pen: ImageDraw.ImageDraw, random: np.random.Generator, horizon: float) -> None:
    width, height = random.uniform(0.1, 0.3, size=2) * _SIDE
    left, bottom = random.uniform(0, 0.8) * _SIDE, horizon + random.uniform(0.05, 0.35) * _SIDE
    colour = (np.array([200, 110, 60]) + random.normal(0, 35, 3)).clip(0, 255)
    shadow = [left + width * 0.5, bottom - height * 0.2, left + width * 1.9, bottom]
    pen.rectangle(shadow, fill=(40, 50, 30))
    body = [left, bottom - height, left + width, bottom]
    lit = [left, bottom - height, left + width * 0.4, bottom]
    draw = pen.ellipse if random.random() < 0.4 else pen.rectangle
    draw(body, fill=tuple(int(value) for value in colour * 0.75))
    draw(lit, fill=tuple(int(value) for value in (colour * 1.15).clip(0, 255)))
