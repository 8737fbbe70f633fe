"""Scores of the ladder's images and of never-seen ones, under the gate's settings and under those it had before.

    INVMM_CIFAR10=cifar10_subset.npz python benchmarks/ladder/score.py --models DIR [--former] NAME ..

Writes records/gate-NAME.csv or records/former-NAME.csv beside this file, and prints what was found by multiplicity.
"""

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from images import images
from recipes import EACH, LADDER, RECIPES, Recipe, names
from truth import RECORDS

from invmm_gate.core.records import Trial
from invmm_gate.core.settings import PROFILES, InversionSettings
from invmm_gate.measure.inversion import Inversion, Inverter
from invmm_gate.measure.slots import Task
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.similarity.pixel import PixelRmse

FORMER: Final = {
    "pixel": InversionSettings(steps=400, batch_size=4, test_at_start=True),
    "latent": InversionSettings(steps=1000, batch_size=8, weight_step=5e-4, test_at_start=True),
}
"""Profile `gate` before the search for models without prompts was changed."""
SLOTS: Final = 16


def trials(recipe: Recipe, folder: Path, *, former: bool, unseen: int, each: int) -> dict[str, Trial]:
    """By image, `each` of every multiplicity and so many never-seen ones."""
    model = load_model(inspect_checkpoint(folder))
    settings = (FORMER if former else PROFILES["gate"])[model.family]
    ladder, held_out = images(recipe)
    pictures = dict(zip(names(), torch.cat([ladder[: len(LADDER)], held_out]).expand(-1, 3, -1, -1), strict=True))
    chosen = [name for name in names() if int(name.rsplit("-", 1)[1]) < (unseen if name.startswith("unseen") else each)]
    inverter = Inverter(
        model, PixelRmse(), replace(settings), load_image=pictures.__getitem__, root_seed=0, slots=SLOTS
    )
    tasks = [Task(probe=name, content=f"{recipe.name} {name}", seed=0) for name in chosen]
    found = {event.task.probe: event.trial for event in inverter.run(tasks) if isinstance(event, Inversion)}
    return {name: found[name] for name in chosen}


def write(path: Path, found: dict[str, Trial], dimensions: int) -> None:
    """A line for each image; nats are over all dimensions, empty without a score."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("image", "outcome", "nats", "copies", "draws", "evaluations"))
        for name, trial in found.items():
            nats = "" if trial.invmm is None else f"{trial.invmm * dimensions:.4f}"
            share = trial.confirmation or trial.share
            copies, draws = (share.hits, share.trials) if share else ("", "")
            rows.writerow((name, trial.outcome, nats, copies, draws, trial.evaluations))


def main() -> None:
    """Measure, write, and print a line for each multiplicity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--former", action="store_true", help="the settings that profile gate had before")
    parser.add_argument("--unseen", type=int, default=64, help="never-seen images")
    parser.add_argument("--each", type=int, default=EACH, help="images of each multiplicity")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        recipe, began = RECIPES[name], time.process_time()
        found = trials(recipe, options.models / name, former=options.former, unseen=options.unseen, each=options.each)
        dimensions = load_model(inspect_checkpoint(options.models / name)).latent_shape
        RECORDS.mkdir(exist_ok=True)
        kind = "former" if options.former else "gate"
        write(RECORDS / f"{kind}-{name}.csv", found, dimensions[0] * dimensions[1] * dimensions[2])
        print(f"{name}, {kind}: {time.process_time() - began:.0f} s of CPU")
        for rung in dict.fromkeys(image.rsplit("-", 1)[0] for image in found):
            own = [trial for image, trial in found.items() if image.rsplit("-", 1)[0] == rung]
            inverted = sum(trial.outcome == "inverted" for trial in own)
            now_and_then = sum(bool(trial.share and trial.share.hits) for trial in own)
            cost = sum(trial.evaluations for trial in own) // len(own)
            print(f"  {rung}: {inverted} of {len(own)} inverted, {now_and_then} replicate at all, {cost} F a probe")


if __name__ == "__main__":
    main()
