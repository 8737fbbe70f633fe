"""The demo's ground truth: which training images appear when the checkpoints are sampled (the replication test).

    python examples/demo/truth.py --samples 2048

Plain DDIM sampling from N(0, I), every sample against every training image; a sample replicates an image when their
pixel RMSE on the [0, 1] scale is at most 0.1. Prints the table of README.md, with 95 % Wilson intervals, and how near
the copies of the planted images come (`COPY_RMSE` of invmm_gate/diffusion/planted.py).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from invmm_gate.core.intervals import wilson
from invmm_gate.diffusion.sampling import sample
from invmm_gate.measure.distributions import stream
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.similarity.pixel import PixelRmse

from draw import NEVER_SEEN, PLANTED_8, PLANTED_32, SINGLE, draw_array
from train import TRAINING_NUMBERS

MODELS = Path(__file__).parent / "models"
BATCH = 128
KINDS = {"planted 32 times": PLANTED_32, "planted 8 times": PLANTED_8, "single": SINGLE, "never seen": NEVER_SEEN}


def image(number: int) -> Tensor:
    return torch.from_numpy(draw_array(number).copy()).permute(2, 0, 1).float() / 127.5 - 1


def samples(kind: str, count: int, steps: int) -> Iterator[Tensor]:
    model = load_model(inspect_checkpoint(MODELS / kind))
    generator = stream(0, "truth", kind)
    for _ in range(0, count, BATCH):
        noise = torch.randn(BATCH, *model.latent_shape, generator=generator)
        yield model.decode(sample(model, noise, steps=steps))


def replications(kind: str, numbers: list[int], count: int, steps: int) -> tuple[dict[int, int], Tensor, float]:
    """How often each image appeared, the distances of all copies, and the smallest one to an image never seen."""
    metric = PixelRmse(0.1)
    known = metric.embed(torch.stack([image(number) for number in numbers]))
    unseen = metric.embed(torch.stack([image(number) for number in NEVER_SEEN]))
    hits = torch.zeros(len(numbers), dtype=torch.int64)
    copies, closest_unseen = [], 1.0
    scale = known.shape[1] ** 0.5
    for images in samples(kind, count, steps):
        features = metric.embed(images)
        nearest = (torch.cdist(features, known) / scale).min(dim=1)
        copied = metric.is_copy(nearest.values)
        hits += torch.bincount(nearest.indices[copied], minlength=len(numbers))
        copies.append(nearest.values[copied])
        closest_unseen = min(closest_unseen, float((torch.cdist(features, unseen) / scale).min()))
    return dict(zip(numbers, hits.tolist(), strict=True)), torch.cat(copies), closest_unseen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--sampler-steps", type=int, default=50)
    options = parser.parse_args()
    print("| checkpoint | images | distinct images that appeared | share of all samples | share of each image |")
    print("|---|---|---|---|---|")
    for kind, training in TRAINING_NUMBERS.items():
        numbers = sorted(set(training) | set(NEVER_SEEN))
        hits, copies, closest = replications(kind, numbers, options.samples, options.sampler_steps)
        for label, members in KINDS.items():
            counts = [hits[number] for number in members]
            total = wilson(sum(counts), options.samples)
            print(
                f"| {kind} | {label} ({len(members)}) | {sum(count > 0 for count in counts)} |"
                f" {sum(counts)} of {options.samples}: {total.low:.2%} to {total.high:.2%} |"
                f" {min(counts) / options.samples:.2%} to {max(counts) / options.samples:.2%} |"
            )
        if len(copies):
            half, most = copies.quantile(torch.tensor([0.5, 0.95])).tolist()
            print(f"<!-- {kind}: RMSE of its {len(copies)} copies: half within {half:.3f}, 95 % within {most:.3f} -->")
        print(f"<!-- {kind}: closest any sample came to an image never seen: RMSE {closest:.3f} -->")


if __name__ == "__main__":
    main()
