"""The images of the likelihood study: drawn ones, digits, and CIFAR-10's from a file that is not in the repository.

Images of one model lie further apart than the copy metric's threshold, so that a sample copies one of them at most.
"""

import os
import sys
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2] / "examples/demo"))

from recipes import BACKGROUND, LADDER, NEVER_SEEN, Recipe

from draw import draw_array

CIFAR: Final = "INVMM_CIFAR10"
"""Environment variable: path of an .npz with `train` and `heldout`, (image, 32, 32, 3) bytes."""
APART: Final = 0.13
"""Pixel RMSE on [0, 1] that two images of a model keep at least; the copy metric's threshold is 0.1."""
_FIRST_SHAPE: Final = 200_000
"""Number of the first drawn image: the demo uses none from there on."""


@cache
def images(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Images that are trained on, the ladder first, and images never seen; (image, channel, side, side) in [-1, 1]."""
    wanted = len(LADDER) + BACKGROUND
    if recipe.source == "cifar":
        pixels = _cifar()
        trained, unseen = _small(pixels["train"], recipe), _small(pixels["heldout"], recipe)
    else:
        drawn = _shape if recipe.source == "shapes" else _digits
        numbers = range(recipe.seed * 10_000, recipe.seed * 10_000 + 3 * wanted)
        trained = np.stack([drawn(number, recipe.size) for number in numbers])
        trained, unseen = trained[:-400], trained[-400:]
    kept = _apart(_tensor(np.concatenate([trained[: 3 * wanted], unseen[:400]])))
    seen = [place for place in kept if place < len(trained[: 3 * wanted])][:wanted]
    held_out = [place for place in kept if place >= len(trained[: 3 * wanted])][:NEVER_SEEN]
    if len(seen) < wanted or len(held_out) < NEVER_SEEN:
        raise SystemExit(f"{recipe.name}: {len(seen)} of {wanted} images lie far enough apart; draw more")
    every = _tensor(np.concatenate([trained[: 3 * wanted], unseen[:400]]))
    return every[seen], every[held_out]


def training_set(recipe: Recipe) -> Tensor:
    """The trained images, each as often as it is planted."""
    trained, _ = images(recipe)
    times = torch.tensor(LADDER + (1,) * BACKGROUND)
    return trained.repeat_interleave(times, dim=0)


def _tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


def _apart(every: Tensor) -> list[int]:
    """Places of the images that keep their distance from all before them."""
    pixels = (every.flatten(1) + 1) / 2
    close = torch.cdist(pixels, pixels) < APART * pixels.shape[1] ** 0.5
    kept: list[int] = []
    for place in range(len(pixels)):
        if not close[place, kept].any():
            kept.append(place)
    return kept


def _cifar() -> dict[str, NDArray[np.uint8]]:
    path = os.environ.get(CIFAR)
    if not path:
        raise SystemExit(f"{CIFAR} is not set; expected the path of an .npz with CIFAR-10's images")
    with np.load(path) as arrays:
        return {name: arrays[name] for name in ("train", "heldout")}


def _small(pixels: NDArray[np.uint8], recipe: Recipe) -> NDArray[np.uint8]:
    """Another part of the file for each seed, at the model's size."""
    turned = np.roll(pixels, -1_300 * recipe.seed, axis=0)[:4_000]
    side = (recipe.size, recipe.size)
    return np.stack([np.asarray(Image.fromarray(each).resize(side, Image.Resampling.BOX)) for each in turned])


def _shape(number: int, size: int) -> NDArray[np.uint8]:
    return draw_array(_FIRST_SHAPE + number, size=size)


def _digits(number: int, size: int) -> NDArray[np.uint8]:
    """Two to four grey digits, large and small, turned and overlapping, on grey; (size, size, 1)."""
    random = np.random.default_rng([20_261_129, number])
    side = 8 * size
    canvas = Image.new("L", (side, side), int(random.integers(0, 100)))
    for _ in range(int(random.integers(2, 5))):
        height = int(random.uniform(0.4, 0.9) * side)
        glyph = Image.new("L", (height, height))
        font = ImageFont.load_default(size=height)
        ImageDraw.Draw(glyph).text((height * 0.2, -height * 0.15), str(random.integers(0, 10)), fill=255, font=font)
        glyph = glyph.rotate(float(random.uniform(-40, 40)), Image.Resampling.BILINEAR)
        x, y = random.uniform(-0.15, 0.75, size=2) * side
        canvas.paste(int(random.integers(110, 256)), (int(x), int(y)), glyph)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))[..., None]
