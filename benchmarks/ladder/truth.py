"""How often each image of the ladder comes out of its model, by plain sampling: the truth of the likelihood study.

    INVMM_CIFAR10=cifar10_subset.npz python benchmarks/ladder/truth.py --models DIR --samples 20000 NAME ..

Samples are drawn as the measure draws them, from N(0, I) in 50 deterministic steps; one is a copy of an image when
their pixel RMSE on [0, 1] is at most 0.1. Writes records/truth-NAME.csv beside this file: multiplicity 0 is an image
that was never seen.
"""

import argparse
import csv
import time
from pathlib import Path
from typing import Final

import torch
from criteria import RECORDS
from images import images
from recipes import EACH, LADDER, MULTIPLICITIES, NEVER_SEEN, RECIPES, Recipe, names

from invmm_gate.diffusion.sampling import sample
from invmm_gate.measure.distributions import stream
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.similarity.pixel import PixelRmse

BATCH: Final = 250
STEPS: Final = 50


def hits(recipe: Recipe, folder: Path, count: int) -> list[int]:
    """Copies of each image of the ladder, then of each never-seen one, among `count` samples."""
    model, metric = load_model(inspect_checkpoint(folder)), PixelRmse()
    trained, unseen = images(recipe)
    probes = torch.cat([trained[: len(LADDER)], unseen]).expand(-1, 3, -1, -1)
    known, generator = metric.embed(probes), stream(0, "truth", recipe.name)
    found = torch.zeros(len(known), dtype=torch.int64)
    for _ in range(0, count, BATCH):
        noise = torch.randn(BATCH, *model.latent_shape, generator=generator)
        drawn = metric.embed(model.decode(sample(model, noise, steps=STEPS)))
        distances = torch.cdist(drawn, known) / known.shape[1] ** 0.5
        found += metric.is_copy(distances.flatten()).view_as(distances).sum(dim=0)
    counted: list[int] = found.tolist()
    return counted


def write(recipe: Recipe, found: list[int], count: int) -> None:
    """records/truth-NAME.csv."""
    RECORDS.mkdir(exist_ok=True)
    with (RECORDS / f"truth-{recipe.name}.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("image", "multiplicity", "copies", "samples"))
        multiplicity = LADDER + (0,) * NEVER_SEEN
        rows.writerows(
            (name, times, copies, count) for name, times, copies in zip(names(), multiplicity, found, strict=True)
        )


def main() -> None:
    """Count, write, and print a line for each multiplicity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        began, count = time.process_time(), -(-options.samples // BATCH) * BATCH
        found = hits(RECIPES[name], options.models / name, count)
        write(RECIPES[name], found, count)
        rungs = {times: found[rung * EACH : (rung + 1) * EACH] for rung, times in enumerate(MULTIPLICITIES)}
        print(f"{name}: {time.process_time() - began:.0f} s of CPU", rungs, "never seen", sum(found[len(LADDER) :]))


if __name__ == "__main__":
    main()
