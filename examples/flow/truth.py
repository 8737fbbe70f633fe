"""The flow example's ground truth: how often captions bring out the picture that they belong to (the replication test).

    python examples/flow/truth.py --samples 64

Sampled by diffusers' own `StableDiffusion3Pipeline`, not by the gate: 28 Euler steps from N(0, I). A sample replicates
a picture when their pixel RMSE on the [0, 1] scale is at most 0.1. Prints the tables of README.md, with 95 % Wilson
intervals.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from diffusers import StableDiffusion3Pipeline
from planted import CONTROLS, COPIES, PLANTED, PROBED_ORDINARY, caption
from shared import distances, generate

from invmm_gate.core.intervals import wilson
from invmm_gate.measure.distributions import stream
from invmm_gate.similarity.pixel import PixelRmse

MODELS: Final = Path(__file__).parent / "models"
GUIDANCE_SCALES: Final = (1.0, 7.0)
SAMPLER_STEPS: Final = 28
KINDS: Final = {"planted": PLANTED, "ordinary": PROBED_ORDINARY, "never seen": CONTROLS}


def pipeline_of(kind: str, models: Path = MODELS) -> StableDiffusion3Pipeline:
    """As diffusers loads it, in float32; that there is no T5 must be said."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(models / kind, text_encoder_3=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def closest(
    pipeline: StableDiffusion3Pipeline, prompt: str, numbers: tuple[int, ...], scale: float, samples: int
) -> torch.Tensor:
    """Pixel RMSE of each sample to the nearest of these pictures."""
    noise = stream(0, "truth", prompt)
    images = generate(pipeline, [prompt] * samples, scale, noise, steps=SAMPLER_STEPS)
    return distances(images, numbers).min(dim=1).values


def line(start: str, found: Sequence[torch.Tensor]) -> str:
    """A line of the table: copies in all, the interval, copies of each picture, the closest sample."""
    hits = [int((rmse <= PixelRmse().threshold).sum()) for rmse in found]
    samples = sum(len(rmse) for rmse in found)
    interval, nearest = wilson(sum(hits), samples), min(float(rmse.min()) for rmse in found)
    return (
        f"| {start} | {sum(hits)} of {samples} | {interval.low:.1%} to {interval.high:.1%} |"
        f" {', '.join(map(str, hits))} | {nearest:.3f} |"
    )


def print_rows(kind: str, models: Path, samples: int) -> None:
    """Each picture under its own caption; then all planted ones under the empty prompt."""
    pipeline = pipeline_of(kind, models)
    for label, numbers in KINDS.items():
        for scale in GUIDANCE_SCALES:
            found = [closest(pipeline, caption(number), (number,), scale, samples) for number in numbers]
            print(line(f"{kind} | {label} ({len(numbers)}): its caption | {scale:g}", found), flush=True)
    found = [closest(pipeline, "", PLANTED, 1.0, 4 * samples)]
    print(line(f"{kind} | planted ({len(PLANTED)}): the empty prompt, any of them | 1", found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", nargs="*", default=list(COPIES), help="of these models; default: all")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--samples", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | picture, prompt | guidance | replications | 95 % interval | of each picture | closest RMSE |")
    print("|---|---|---|---|---|---|---|")
    began = time.monotonic()
    for kind in options.kind:
        print_rows(kind, options.models, options.samples)
    print(f"<!-- {time.monotonic() - began:.0f} s -->")


if __name__ == "__main__":
    main()
