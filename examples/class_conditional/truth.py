"""How often each class brings a picture out (the replication test), drawn by diffusers' own `DiTPipeline`.

    python examples/class_conditional/truth.py --samples 256

50 DDIM steps from N(0, I). A sample replicates a picture when their pixel RMSE on the [0, 1] scale is at most 0.1.
"""

import argparse
from pathlib import Path
from typing import Final

import torch
from diffusers import DiTPipeline
from planted import CONTROLS, PLANTED, PROBED_ORDINARY, label
from shared import BATCH, SAMPLER_STEPS, distances

from invmm_gate.core.intervals import wilson
from invmm_gate.similarity.pixel import PixelRmse

from draw import SHAPES

MODEL: Final = Path(__file__).parent / "model"
GUIDANCE_SCALES: Final = (1.0, 4.0)
NO_CLASS: Final = 1_000


def samples_of(pipeline: DiTPipeline, chosen: int, scale: float, count: int) -> torch.Tensor:
    """(sample, 3, 32, 32) in [-1, 1] under one label."""
    generator, parts = torch.Generator().manual_seed(chosen), []
    for start in range(0, count, BATCH):
        rows = [chosen] * min(BATCH, count - start)
        given = {"class_labels": rows, "guidance_scale": scale, "num_inference_steps": SAMPLER_STEPS}
        images = pipeline(**given, generator=generator, output_type="np").images
        parts.append(torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1)
    return torch.cat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--model", type=Path, default=MODEL)
    options = parser.parse_args()
    pipeline = DiTPipeline.from_pretrained(options.model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    kinds = {"planted": PLANTED, "ordinary": PROBED_ORDINARY, "never seen": CONTROLS}
    for scale in GUIDANCE_SCALES:
        for chosen in (*range(len(SHAPES)), NO_CLASS):
            if chosen == NO_CLASS and scale > 1:
                continue
            images = samples_of(pipeline, chosen, scale, options.samples)
            for kind, numbers in kinds.items():
                near = distances(images, numbers) <= PixelRmse().threshold
                for number, hits in zip(numbers, near.sum(dim=0).tolist(), strict=True):
                    if hits or (kind == "planted" and label(number) == chosen):
                        interval = wilson(hits, len(images))
                        own = "its own" if label(number) == chosen else "another"
                        print(
                            f"| {kind} {number} | {chosen} ({own}) | {scale:g} | {hits} of {len(images)} "
                            f"| {interval.low:.1%} to {interval.high:.1%} |"
                        )


if __name__ == "__main__":
    main()
