"""Trains the demo's two checkpoints and saves them as diffusers `DDPMPipeline` folders.

    python examples/demo/train.py memorizing --out examples/demo/models/memorizing
    python examples/demo/train.py clean --out examples/demo/models/clean

Same architecture, steps, batch and learning rate; only the training images differ (TRAINING_NUMBERS).
"""

import argparse
import copy
import math
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from draw import MORE_FOR_CLEAN, PLANTED_8, PLANTED_32, SINGLE, SIZE, draw_array

TRAINING_NUMBERS: Final = {
    "memorizing": PLANTED_32 * 32 + PLANTED_8 * 8 + SINGLE,
    "clean": PLANTED_32 + PLANTED_8 + SINGLE + MORE_FOR_CLEAN,
}
BATCH: Final = 64
PEAK_LEARNING_RATE: Final = 1e-3
WARM_UP_STEPS: Final = 100
EMA_DECAY: Final = 0.995


def new_network() -> UNet2DModel:
    return UNet2DModel(
        sample_size=SIZE,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        mid_block_type=None,
    )


def training_images(kind: str) -> torch.Tensor:
    """The kind's images with their repetitions, (image, 3, 16, 16) in [-1, 1]."""
    pixels = np.stack([draw_array(number) for number in TRAINING_NUMBERS[kind]])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then cosine to zero."""
    if step < WARM_UP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARM_UP_STEPS
    return PEAK_LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))


def train(kind: str, *, steps: int, seed: int, prediction_type: str) -> DDPMPipeline:
    torch.manual_seed(seed)
    network, images = new_network(), training_images(kind)
    average = copy.deepcopy(network).requires_grad_(False)
    scheduler = DDPMScheduler(num_train_timesteps=1000, prediction_type=prediction_type)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    began = time.monotonic()
    for step in range(steps):
        x_0 = images[torch.randint(len(images), (BATCH,))]
        eps, timestep = torch.randn_like(x_0), torch.randint(1000, (BATCH,))
        x_t = scheduler.add_noise(x_0, eps, timestep)
        target = eps if prediction_type == "epsilon" else scheduler.get_velocity(x_0, eps, timestep)
        loss = torch.nn.functional.mse_loss(network(x_t, timestep).sample, target)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
            slow.lerp_(fast, 1 - EMA_DECAY)
        if step % 100 == 0:
            print(f"{kind} step {step} loss {loss.item():.4f} {time.monotonic() - began:.0f} s", flush=True)
    return DDPMPipeline(unet=average, scheduler=scheduler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(TRAINING_NUMBERS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prediction-type", default="v_prediction", choices=["epsilon", "v_prediction"])
    options = parser.parse_args()
    pipeline = train(options.kind, steps=options.steps, seed=options.seed, prediction_type=options.prediction_type)
    pipeline.save_pretrained(options.out, safe_serialization=True)


if __name__ == "__main__":
    main()
