"""How near samples come to images that no model saw, and how frequently one of 16 such controls would be named for it.

python benchmarks/unseen_controls.py --samples 512 --sets 20000
"""

import argparse
import random
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import torch
from torch import Tensor

from invmm_gate.confirm.counting import CopyCount, Input, count_copies, sampled_images
from invmm_gate.diffusion.samplers import GridSampler
from invmm_gate.measure.distributions import stream
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.policy.controls import nearest_of_all
from invmm_gate.similarity.pixel import PixelRmse

sys.path.insert(0, str(Path(__file__).parents[1] / "examples/demo"))

from draw import NEVER_SEEN, draw_array

DEMO: Final = Path(__file__).parents[1] / "examples/demo"
CHECKPOINTS: Final = ("clean", "memorizing")
ROWS: Final = 64


def closest_values(checkpoint: str, samples: int) -> tuple[int, list[float]]:
    """How many samples are copies of an unseen image, and for each image the RMSE of its closest sample."""
    model, metric = load_model(inspect_checkpoint(DEMO / "models" / checkpoint)), PixelRmse()
    references = {str(number): (metric.embed(_pixels(number)),) for number in NEVER_SEEN}
    counts = {name: CopyCount() for name in references}
    sampler, streams = GridSampler(model), partial(stream, 5)
    with torch.no_grad():
        for first in range(0, samples, ROWS):
            images = sampled_images(sampler, Input(), range(first, first + ROWS), rows=ROWS, steps=50, streams=streams)
            count_copies(metric, images, references, counts)
    values = [count.closest for count in counts.values() if count.closest is not None]
    return sum(count.hits for count in counts.values()), values


def false_alarms(values: list[float], *, sets: int, controls: int) -> float:
    """The share of sets of so many images in which one lies far nearer to a sample than the others."""
    chance = random.Random(0)
    drawn = (dict(enumerate(chance.sample(values, controls))) for _ in range(sets))
    named = (nearest_of_all({str(place): value for place, value in each.items()}) for each in drawn)
    return sum(name is not None for name in named) / sets


def _pixels(number: int) -> Tensor:
    return torch.from_numpy(draw_array(number).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--sets", type=int, default=20_000)
    options = parser.parse_args()
    print("| checkpoint | copies of unseen images | lowest, median, highest RMSE | named of 16 | named of 32 |")
    print("|---|---|---|---|---|")
    for checkpoint in CHECKPOINTS:
        hits, values = closest_values(checkpoint, options.samples)
        spread = f"{min(values):.3f}, {median(values):.3f}, {max(values):.3f}"
        named = [f"{false_alarms(values, sets=options.sets, controls=count):.2%}" for count in (16, 32)]
        print(f"| {checkpoint} | {hits} | {spread} | {' | '.join(named)} |")


if __name__ == "__main__":
    main()
