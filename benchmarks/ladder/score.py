"""Scores and likelihoods of the ladder's images and of never-seen ones, under the gate's settings and its former ones.

    INVMM_CIFAR10=cifar10_subset.npz python benchmarks/ladder/score.py --models DIR [--former] [--seed N] NAME ..

Writes records/gate-NAME.csv beside this file, or former-NAME.csv, or seedN-NAME.csv for another seed than 0. Prints
what was found by multiplicity.
"""

import argparse
import csv
import json
import time
from dataclasses import asdict
from math import inf, log, prod
from pathlib import Path
from typing import Final

import torch
from criteria import CERTIFIED, RECORDS
from images import images
from recipes import EACH, LADDER, RECIPES, Recipe, names
from torch import Tensor

from invmm_gate.core.likelihood_record import Likelihood
from invmm_gate.core.protocols import DiffusionModel
from invmm_gate.core.records import MetricRecord, Trial
from invmm_gate.core.settings import PROFILES, InversionSettings
from invmm_gate.diffusion.samplers import GridSampler
from invmm_gate.measure.distributions import stream
from invmm_gate.measure.extraction import Generation, PlainSamples, likelihood, plain_samples
from invmm_gate.measure.inversion import Inversion, Inverter
from invmm_gate.measure.proposals import NEARER
from invmm_gate.measure.slots import Task
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.policy.likelihoods import copied
from invmm_gate.similarity.pixel import PixelRmse

FORMER: Final = {
    "pixel": InversionSettings(steps=400, batch_size=4, test_at_start=True),
    "latent": InversionSettings(steps=1000, batch_size=8, weight_step=5e-4, test_at_start=True),
}
"""Profile `gate` before the search for models without prompts was changed."""
SLOTS: Final = 16
CONFIRM: Final = 512
"""Plain samples of each of the two ways in which `confirm` looks for copies before likelihoods are estimated."""
PLAIN: Final = 2048
DRAWS: Final = 128
CONFIDENCE: Final = 0.95
STEPS: Final = 50


def measured(
    recipe: Recipe, model: DiffusionModel, *, former: bool, unseen: int, each: int, seed: int
) -> dict[str, tuple[Trial, Likelihood | None]]:
    """By image, `each` of every multiplicity and so many never-seen ones. A likelihood only where there was a copy."""
    settings = (FORMER if former else PROFILES["gate"])[model.family]
    ladder, held_out = images(recipe)
    pictures = dict(zip(names(), torch.cat([ladder[: len(LADDER)], held_out]).expand(-1, 3, -1, -1), strict=True))
    chosen = [name for name in names() if int(name.rsplit("-", 1)[1]) < (unseen if name.startswith("unseen") else each)]
    inverter = Inverter(model, PixelRmse(), settings, load_image=pictures.__getitem__, root_seed=seed, slots=SLOTS)
    tasks = [Task(probe=name, content=f"{recipe.name} {name}", seed=0) for name in chosen]
    found = {event.task.probe: event for event in inverter.run(tasks) if isinstance(event, Inversion)}
    generation = Generation(model=model, sampler=GridSampler(model), metric=PixelRmse(), steps=STEPS, rows=128)
    looks = plain_samples(generation, 2 * CONFIRM, stream(seed, "confirm", recipe.name))
    plain = plain_samples(generation, PLAIN, stream(seed, "plain", recipe.name))
    return {
        name: (found[name].trial, _likelihood(generation, looks, plain, pictures[name], found[name], seed))
        for name in chosen
    }


def _likelihood(
    generation: Generation,
    looks: PlainSamples,
    plain: PlainSamples,
    picture: Tensor,
    inversion: Inversion,
    seed: int,
) -> Likelihood | None:
    """None where neither the search nor a plain sample of `looks` copied the image, as in a run."""
    references, trial = (generation.metric.embed(picture[None]),), inversion.trial
    metric = MetricRecord(name=generation.metric.name, threshold=generation.metric.threshold, higher_is_copy=False)
    if not copied(trial, metric) and not bool(generation.copies(looks.features, references).any()):
        return None
    inverted = (inversion.mu, inversion.log_var) if copied(trial, metric) else None
    return likelihood(
        generation, plain, references, inverted, draws=DRAWS, confidence=CONFIDENCE,
        generator=stream(seed, "likelihood", inversion.task.content), probe=inversion.task.probe, prompt_kind="none",
    )  # fmt: skip


def write(path: Path, found: dict[str, tuple[Trial, Likelihood | None]], dimensions: int) -> None:
    """A line for each image; the score in nats over all dimensions; empty where there is none."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        known = ("score_nats", "copies", "draws", "evaluations")
        rows.writerow(("image", "outcome", *known, "bound_nats", "estimate", "upper", "likelihood_evaluations"))
        for name, (trial, likely) in found.items():
            nats = "" if trial.invmm is None else f"{trial.invmm * dimensions:.4f}"
            share = trial.confirmation or trial.share
            counts = (share.hits, share.trials) if share else ("", "")
            bounds = ("", "", "", 0)
            if likely:
                bound = "" if likely.nats is None else f"{likely.nats:.4f}"
                bounds = (bound, f"{likely.estimate:.4g}", f"{likely.upper:.4g}", likely.evaluations)
            rows.writerow((name, trial.outcome, nats, *counts, trial.evaluations, *bounds))


def write_search(path: Path, settings: InversionSettings) -> None:
    """How the images were searched, as a run records it: what a figure of this study is true of."""
    metric = PixelRmse()
    search = {
        "settings": {name: value for name, value in asdict(settings).items() if name != "mirror"},
        "sampling": {"trials": CONFIRM, "sampler_steps": STEPS, "confidence": CONFIDENCE, "probes": "all"},
        "likelihood": {"draws": DRAWS, "plain_draws": PLAIN, "confidence": CONFIDENCE},
        "metric": metric.name,
        "threshold": metric.threshold,
        "nearer": NEARER,
    }
    path.write_text(json.dumps(search, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, write, and print a line for each multiplicity."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--former", action="store_true", help="the settings that profile gate had before")
    parser.add_argument("--unseen", type=int, default=64, help="never-seen images")
    parser.add_argument("--each", type=int, default=EACH, help="images of each multiplicity")
    parser.add_argument("--seed", type=int, default=0, help="of all random streams")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        recipe, began = RECIPES[name], time.process_time()
        model = load_model(inspect_checkpoint(options.models / name))
        asked = {"former": options.former, "unseen": options.unseen, "each": options.each, "seed": options.seed}
        found = measured(recipe, model, **asked)
        RECORDS.mkdir(exist_ok=True)
        kind = "former" if options.former else f"seed{options.seed}" if options.seed else "gate"
        write(RECORDS / f"{kind}-{name}.csv", found, prod(model.latent_shape))
        if kind == "gate":
            write_search(RECORDS / f"{kind}-{name}.json", PROFILES["gate"][model.family])
        print(f"{name}, {kind}: {time.process_time() - began:.0f} s of CPU")
        for rung in dict.fromkeys(image.rsplit("-", 1)[0] for image in found):
            own = [pair for image, pair in found.items() if image.rsplit("-", 1)[0] == rung]
            inverted = sum(trial.outcome == "inverted" for trial, _ in own)
            certified = sum(likely is not None and (likely.nats or inf) < -log(CERTIFIED) for _, likely in own)
            cost = sum(trial.evaluations for trial, _ in own) // len(own)
            print(f"  {rung}: of {len(own)} {inverted} inverted, {certified} with p above 1e-6, {cost} F a probe")


if __name__ == "__main__":
    main()
