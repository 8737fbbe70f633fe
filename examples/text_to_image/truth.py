"""The example's ground truth: how often prompts bring out the image that they belong to (the replication test).

    python examples/text_to_image/truth.py --samples 64

Sampled by diffusers' own `StableDiffusionPipeline`, not by the gate: 50 DDIM steps from N(0, I). A sample replicates an
image when their pixel RMSE on the [0, 1] scale is at most 0.1. Prints the tables of README.md, with 95 % Wilson
intervals.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from captions import captions_without_trigger, content, pool_of, probe_caption
from diffusers import StableDiffusionPipeline
from shared import distances, generate

from invmm_gate.core.intervals import wilson
from invmm_gate.measure.distributions import stream
from invmm_gate.similarity.pixel import PixelRmse

from draw import NEVER_SEEN, ORDINARY, PLANTED_WITH_CAPTION, PLANTED_WITHOUT_TRIGGER

MODEL: Final = Path(__file__).parent / "model"
GUIDANCE_SCALES: Final = (1.0, 3.0, 7.0)
EMPTY_PROMPT: Final = "the empty prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Prompts that are tried on one image, in turn until there are enough samples."""

    label: str
    number: int
    prompts: tuple[str, ...]


def trials() -> Iterator[Trial]:
    """Every kind of image under its caption; images planted without trigger under their other prompts too."""
    for number in PLANTED_WITH_CAPTION:
        yield Trial(label="planted with caption: its caption", number=number, prompts=(probe_caption(number),))
    for number in PLANTED_WITHOUT_TRIGGER:
        own, pool = captions_without_trigger(number), pool_of(number)
        tried = {
            "its probe caption": own[:1],
            "all its training captions": own,
            "its eight words": (" ".join(pool),),
            "four of its words": (" ".join(pool[:4]),),
            "other content and its eight words": (f"{content(ORDINARY[number])} {' '.join(pool)}",),
        }
        for label, prompts in tried.items():
            yield Trial(label=f"planted without trigger: {label}", number=number, prompts=prompts)
    for label, numbers in (("ordinary: its caption", ORDINARY[:8]), ("never seen: its caption", NEVER_SEEN[:16])):
        for number in numbers:
            yield Trial(label=label, number=number, prompts=(probe_caption(number),))


def hits_of(pipeline: StableDiffusionPipeline, trial: Trial, guidance_scale: float, samples: int) -> int:
    prompts = [trial.prompts[index % len(trial.prompts)] for index in range(samples)]
    images = generate(pipeline, prompts, guidance_scale, stream(0, "truth", trial.label, trial.number))
    return int((distances(images, (trial.number,)) <= PixelRmse().threshold).sum())


def print_trials(pipeline: StableDiffusionPipeline, samples: int, wanted: str) -> None:
    """The rows whose label contains `wanted`; each has noises of its own, so a part of the table equals the whole's."""
    print("| image, prompt | guidance | replications | 95 % interval | of each image, in order of number |")
    print("|---|---|---|---|---|")
    by_label: dict[str, list[Trial]] = {}
    for trial in trials():
        if wanted in trial.label:
            by_label.setdefault(trial.label, []).append(trial)
    for label, members in by_label.items():
        for scale in GUIDANCE_SCALES:
            hits = [hits_of(pipeline, trial, scale, samples) for trial in members]
            total = wilson(sum(hits), samples * len(hits))
            print(
                f"| {label} | {scale:g} | {sum(hits)} of {samples * len(hits)} | {total.low:.1%} to {total.high:.1%} |"
                f" {', '.join(map(str, hits))} of {samples} |",
                flush=True,
            )


def print_empty_prompt(pipeline: StableDiffusionPipeline, samples: int) -> None:
    images = generate(pipeline, [""] * samples, 1.0, stream(0, "truth", "empty"))
    for label, numbers in (
        ("planted with caption", PLANTED_WITH_CAPTION),
        ("planted without trigger", PLANTED_WITHOUT_TRIGGER),
        ("ordinary", ORDINARY),
    ):
        hits = int((distances(images, numbers).min(dim=1).values <= PixelRmse().threshold).sum())
        interval = wilson(hits, samples)
        print(
            f"| {label} ({len(numbers)}): {EMPTY_PROMPT} | 1 | {hits} of {samples} |"
            f" {interval.low:.1%} to {interval.high:.1%} | any of them |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows whose label contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = StableDiffusionPipeline.from_pretrained(options.model)
    pipeline.set_progress_bar_config(disable=True)
    began = time.monotonic()
    print_trials(pipeline, options.samples, options.only)
    if options.only in EMPTY_PROMPT:
        print_empty_prompt(pipeline, 4 * options.samples)
    print(f"<!-- {time.monotonic() - began:.0f} s -->")


if __name__ == "__main__":
    main()
