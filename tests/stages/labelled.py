"""A class-conditional UNet2DModel that really memorizes: one image of class 1, which comes out under that label alone.

It is trained here, in half a minute, on pictures of 8 x 8 pixels: smooth patterns in each class, and in class 1 the
planted picture four times in ten.
"""

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image
from torch import Tensor

CLASSES, SIDE, PLANTED_UNDER = 3, 8, 1
_SHARE = 0.4
"""Of the pictures of its class that are the planted one."""
_STEPS, _BATCH = 900, 32


def patterns(count: int, generator: torch.Generator) -> Tensor:
    """Smooth pictures, (count, 3, 8, 8) in [-1, 1]: waves of any direction, phase and colour."""
    place = torch.arange(SIDE) / SIDE
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    images = torch.zeros(count, 3, SIDE, SIDE)
    for _ in range(3):
        waves = torch.rand(count, 2, generator=generator) * 2 - 1
        phase = torch.rand(count, 1, 1, generator=generator) * 2 * math.pi
        colour = torch.randn(count, 3, 1, 1, generator=generator)
        angle = 2 * math.pi * (waves[:, :1, None] * rows + waves[:, 1:, None] * columns) + phase
        images += 0.8 * colour * angle.cos()[:, None]
    return images.tanh()


def planted() -> Tensor:
    """The picture that is memorized, (3, 8, 8), as a file of bytes has it."""
    return as_stored(patterns(1, torch.Generator().manual_seed(77)))[0]


def as_stored(images: Tensor) -> Tensor:
    """Pictures as PNG files keep them."""
    return ((images + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1


def save_picture(image: Tensor, path: Path) -> Path:
    """One picture as a PNG file."""
    pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path


def train(folder: Path) -> Path:
    """A DDPMPipeline folder of a class-conditional network, trained with seed 0."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = UNet2DModel(
        sample_size=SIDE, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, num_class_embeds=CLASSES,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )  # fmt: skip
    scheduler, image = DDPMScheduler(), planted()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, total_steps=_STEPS)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    for _ in range(_STEPS):
        labels = torch.randint(CLASSES, (_BATCH,), generator=generator)
        x_0 = patterns(_BATCH, generator)
        memorized = (labels == PLANTED_UNDER) & (torch.rand(_BATCH, generator=generator) < _SHARE)
        x_0[memorized] = image
        noise, times = torch.randn(x_0.shape, generator=generator), torch.randint(1000, (_BATCH,), generator=generator)
        predicted = network(scheduler.add_noise(x_0, noise, times), times, class_labels=labels).sample
        loss = (predicted - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
        average.update_parameters(network)
    DDPMPipeline(average.module.eval(), scheduler).save_pretrained(folder)
    return folder
