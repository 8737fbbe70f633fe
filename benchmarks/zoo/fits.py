"""Models of pictures that are not square, fitted in one way for training, and how natural other fits are to them.

    python benchmarks/zoo/fits.py --out DIR [MODEL_FOLDER ..]

Trains what is not in DIR yet (about 170 seconds of CPU a memorizing model, 50 another). Prints for each of these, and
for other checkpoints of 16 x 16 pixels, by how much another fit than the stated one gains: each picture, as the
self-check `natural_view` takes it (over the stated fit and over its own middle), and all in the mean. A checkpoint
with `scenes` in its name is shown scenes, the others shapes.
"""

import argparse
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import DDPMPipeline
from pictures import CONTROLS, FEW, ORDINARY, PLANTED, SIZE, draw_array, scene
from PIL import Image
from recipes import Recipe
from torch import Tensor

from invmm_gate.core.protocols import DiffusionModel
from invmm_gate.measure.looking import from_pixels, pictures_of
from invmm_gate.measure.natural_view import log_errors
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.probes.fitting import middle_of, refit

import train

FITS: Final = ("crop", "squeeze", "pad")
SHAPES: Final = ((64, 32), (64, 43), (64, 48), (32, 64), (43, 64), (48, 64))
"""(width, height): 2 : 1, 3 : 2 and 4 : 3, lying and standing."""
GROUPS: Final = {"planted": PLANTED, "once": FEW[:8], "controls": CONTROLS, "unseen": tuple(range(200_000, 200_400))}


def picture(number: int, *, scenes: bool = False) -> Image.Image:
    """A drawn picture cut to one of the shapes."""
    width, height = SHAPES[number % len(SHAPES)]
    left, top = (64 - width) // 2, (64 - height) // 2
    drawn = Image.fromarray((scene if scenes else draw_array)(number, size=64))
    return drawn.crop((left, top, left + width, top + height))


def fitted(images: list[Image.Image], how: str) -> Tensor:
    """(image, 3, 16, 16) in [-1, 1]."""
    return torch.stack([from_pixels(np.asarray(refit(image, height=SIZE, width=SIZE, how=how))) for image in images])


def train_with(how: str, folder: Path, *, memorizing: bool) -> None:
    """A model of pictures that were fitted so: eight planted 32 times among few others, or 3,000 pictures."""
    numbers = PLANTED * 32 + FEW if memorizing else ORDINARY
    known = dict.fromkeys(numbers)
    place = {number: index for index, number in enumerate(known)}
    images = fitted([picture(number) for number in known], how)[[place[number] for number in numbers]]
    recipe = Recipe(name=folder.name, split="tune", seed=100, memorizing=memorizing, steps=1500 if memorizing else 400)
    network = train.train_denoiser(recipe, images)
    DDPMPipeline(unet=network, scheduler=train.new_scheduler(recipe)).save_pretrained(folder)


def errors(model: DiffusionModel, images: Tensor) -> Tensor:
    with torch.no_grad():
        return log_errors(pictures_of(model, list(images), rows=32), 0)


def look(folder: Path) -> None:
    """One line for each group of pictures and each stated fit."""
    model = load_model(inspect_checkpoint(folder))
    for group, numbers in GROUPS.items():
        images = [picture(number, scenes="scenes" in folder.name) for number in numbers]
        whole = {how: errors(model, fitted(images, how)) for how in FITS}
        middle = {how: errors(model, fitted([middle_of(image) for image in images], how)) for how in FITS}
        for stated in FITS:
            said = []
            for how in FITS:
                if how != stated:
                    gains = whole[stated] - whole[how]
                    alone = gains.minimum(middle[how] - whole[how])
                    said.append(f"{how}: mean {gains.mean():.2f}, one image {alone.min():.2f} to {alone.max():.2f}")
            print(f"{folder.name}, {group}, stated {stated}: {'; '.join(said)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("others", nargs="*", type=Path, help="other checkpoints of 16 x 16 pixels")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folders = {f"{kind}-{how}": (kind, how) for kind in ("memorizing", "clean") for how in FITS}
    for name, (kind, how) in folders.items():
        if not (options.out / name).exists():
            train_with(how, options.out / name, memorizing=kind == "memorizing")
    for folder in (*(options.out / name for name in folders), *options.others):
        look(folder)


if __name__ == "__main__":
    main()
