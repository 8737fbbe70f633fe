"""Whether draws that replicate an image, spent on a better distribution to draw from, sharpen its likelihood.

    INVMM_CIFAR10=cifar10.npz python benchmarks/ladder/refits.py --models DIR cifar16-v-cosine

Each image is inverted once. Its likelihood is then estimated with 128 draws around the inverted distribution, as a run
does it, and with 64 of these and 64 around a refit: the mean of the noises that replicated among the first 64, weighed
as draws of N(0, I), with variance 1 (one round of the cross-entropy method). Only the second 64 count then, beside the
same plain samples. Prints the nats of both lower bounds, for several streams of draws.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

import torch
from images import images
from recipes import LADDER, RECIPES, Recipe, names
from score import CONFIDENCE, DRAWS, PLAIN, SLOTS, STEPS
from torch import Tensor

from invmm_gate.core.settings import PROFILES
from invmm_gate.diffusion.samplers import GridSampler
from invmm_gate.measure.distributions import stream
from invmm_gate.measure.extraction import Generation, PlainSamples, plain_samples
from invmm_gate.measure.inversion import Inversion, Inverter
from invmm_gate.measure.likelihood import WeighedDraws, log_lower_bound
from invmm_gate.measure.proposals import Mixture, around
from invmm_gate.measure.slots import Task
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.similarity.pixel import PixelRmse

RUNGS: Final = ("m4", "m8", "m16", "m32", "m64")
STREAMS: Final = 5


def main() -> None:
    """Print a line for each image, and how often the refit had the higher bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--each", type=int, default=2, help="images of each multiplicity")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = RECIPES[options.name]
    model = load_model(inspect_checkpoint(options.models / options.name))
    generation = Generation(model=model, sampler=GridSampler(model), metric=PixelRmse(), steps=STEPS, rows=128)
    plain = plain_samples(generation, PLAIN, stream(0, "plain", recipe.name))
    higher = 0
    found = inverted(recipe, generation, options.each)
    for name, (picture, inversion) in found.items():
        as_run, refit = bounds(generation, plain, picture, inversion)
        higher += sum(new < old for old, new in zip(as_run, refit, strict=True))
        print(f"{name}: nats {median(as_run):.2f} as a run draws, {median(refit):.2f} with a refit", flush=True)
    print(f"the refit has the higher bound in {higher} of {STREAMS * len(found)}")


def inverted(recipe: Recipe, generation: Generation, each: int) -> dict[str, tuple[Tensor, Inversion]]:
    """By image of the upper rungs: the picture, and what profile `gate` made of it."""
    ladder, held_out = images(recipe)
    pictures = dict(zip(names(), torch.cat([ladder[: len(LADDER)], held_out]).expand(-1, 3, -1, -1), strict=True))
    chosen = [f"{rung}-{place}" for rung in RUNGS for place in range(each)]
    settings = PROFILES["gate"][generation.model.family]
    inverter = Inverter(
        generation.model, generation.metric, settings, load_image=pictures.__getitem__, root_seed=0, slots=SLOTS
    )
    tasks = [Task(probe=name, content=f"{recipe.name} {name}", seed=0) for name in chosen]
    return {
        event.task.probe: (pictures[event.task.probe], event)
        for event in inverter.run(tasks)
        if isinstance(event, Inversion)
    }


def bounds(
    generation: Generation, plain: PlainSamples, picture: Tensor, inversion: Inversion
) -> tuple[list[float], list[float]]:
    """Nats of the lower bound, as a run draws and with a refit, for each stream."""
    references = (generation.metric.embed(picture[None]),)
    as_run, refits = [], []
    for place in range(STREAMS):
        whole = around(inversion.mu.cpu(), inversion.log_var.cpu(), draws=DRAWS, plain=PLAIN)
        half = around(inversion.mu.cpu(), inversion.log_var.cpu(), draws=DRAWS // 2, plain=PLAIN)
        as_run.append(-bound(generation, plain, references, whole, place)[0])
        _, copies = bound(generation, plain, references, half, place)
        refits.append(-bound(generation, plain, references, refit(half, copies), STREAMS + place)[0])
    return as_run, refits


def bound(
    generation: Generation, plain: PlainSamples, references: tuple[Tensor, ...], mixture: Mixture, place: int
) -> tuple[float, Tensor]:
    """Ln of the lower bound, and the noises that replicated."""
    standard = torch.randn(mixture.draws, *generation.model.latent_shape, generator=stream(0, "refits", str(place)))
    own = mixture.noises(standard)
    drawn = generation.features(own, torch.arange(len(own)))
    noises, features = torch.cat([plain.noises, own]), torch.cat([plain.features, drawn])
    copies = noises[generation.copies(features, references)]
    weighed = WeighedDraws(draws=PLAIN + mixture.draws, log_weights=tuple(mixture.log_weights(copies).tolist()))
    return log_lower_bound(weighed, (1 - CONFIDENCE) / 4), copies


def refit(mixture: Mixture, copies: Tensor) -> Mixture:
    """One distribution in place of those of the mixture; the mixture itself where nothing replicated."""
    if not len(copies):
        return mixture
    weights = mixture.log_weights(copies).softmax(dim=0).to(copies.dtype)
    mean = torch.einsum("n,nchw->chw", weights, copies)
    return replace(mixture, components=((mean, torch.zeros_like(mean)),), counts=(mixture.draws,))


if __name__ == "__main__":
    main()
