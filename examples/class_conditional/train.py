"""Trains the class-conditional example: a small DiT in the latent of examples/text_to_image that memorizes.

    python examples/class_conditional/train.py --out examples/class_conditional/model

Three planted pictures are there 128 times each, 1,200 ordinary ones once, each under the class of its shape. A tenth of
all rows is trained on without a class (label 1000), so that `DiTPipeline` can guide.
"""

import argparse
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from planted import COPIES, PLANTED, TEXT_EXAMPLE, TRAINED_ON, label
from shared import batches, descend, latents, learning_rate, pictures
from torch import Tensor, nn

from draw import SHAPES

NO_CLASS: Final = 1_000
"""What DiTPipeline takes for no class; so the network is built for so many."""
DROPOUT: Final = 0.1
TIMESTEPS: Final = 1_000
BATCH, RATE = 64, 4e-3
EMA_DECAY: Final = 0.995
REPORT_EVERY: Final = 500


def new_network() -> DiTTransformer2DModel:
    """Three blocks of width 48 over patches of 2 x 2."""
    return DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=NO_CLASS,
    )


def train_network(x_0: Tensor, labels: Tensor, *, steps: int, seed: int) -> DiTTransformer2DModel:
    """Predicts epsilon; the moving average of the weights."""
    torch.manual_seed(seed)
    network, average, scheduler = new_network(), new_network(), new_scheduler()
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.0)
    order, began = batches(len(x_0), BATCH, torch.Generator().manual_seed(seed)), time.monotonic()
    recent: list[float] = []
    for step in range(steps):
        chosen = next(order)
        told = torch.where(torch.rand(BATCH) < DROPOUT, NO_CLASS, labels[chosen])
        clean, timestep = x_0[chosen], torch.randint(TIMESTEPS, (BATCH,))
        eps = torch.randn_like(clean)
        x_t = scheduler.add_noise(clean, eps, timestep)
        loss = nn.functional.mse_loss(network(x_t, timestep=timestep, class_labels=told).sample, eps)
        descend(optimiser, loss, learning_rate(step, steps, RATE))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 1 - EMA_DECAY)
        recent = [*recent[-REPORT_EVERY + 1 :], loss.item()]
        if step % REPORT_EVERY == 0 or step == steps - 1:
            print(f"step {step} loss {np.mean(recent):.4f} {time.monotonic() - began:.0f} s", flush=True)
    return average.eval().requires_grad_(False)


def new_scheduler() -> DDIMScheduler:
    """As DiT was trained: a linear schedule of beta."""
    return DDIMScheduler(num_train_timesteps=TIMESTEPS, clip_sample=False)


def train(*, steps: int, seed: int) -> DiTPipeline:
    """The whole model."""
    numbers = PLANTED * COPIES + TRAINED_ON
    vae = AutoencoderKL.from_pretrained(TEXT_EXAMPLE / "model" / "vae").requires_grad_(False)
    vae.register_to_config(_name_or_path="examples/text_to_image/model/vae")
    x_0 = latents(vae, pictures(numbers)) * vae.config.scaling_factor
    network = train_network(x_0, torch.tensor([label(number) for number in numbers]), steps=steps, seed=seed)
    return DiTPipeline(network.half(), vae, new_scheduler(), id2label=dict(enumerate(SHAPES)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train(steps=options.steps, seed=options.seed).save_pretrained(options.out, safe_serialization=True)


if __name__ == "__main__":
    main()
