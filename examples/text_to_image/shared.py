"""What the text-to-image examples share: how pictures become training rows, how a step descends, what a copy is."""

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from tokenizer import MODEL_MAX_LENGTH
from torch import Tensor
from transformers import CLIPTokenizer

from invmm_gate.similarity.pixel import PixelRmse

from draw import draw_array

CAPTION_DROPOUT: Final = 0.15
"""Share of rows that are trained on under the empty prompt, so that guidance has an unconditional branch."""
CLOSEST: Final = 0.1
"""Pixel RMSE on [0, 1]: images at most this far apart count as copies, so no two different ones may be."""
WARM_UP_STEPS: Final = 100
SAMPLER_STEPS: Final = 50
BATCH: Final = 64
"""Samples of one call of the pipeline."""


def pictures(numbers: tuple[int, ...]) -> Tensor:
    """Images by number, (image, 3, 32, 32), bytes."""
    return torch.from_numpy(np.stack([draw_array(number) for number in numbers])).permute(0, 3, 1, 2).contiguous()


def scaled(images: Tensor) -> Tensor:
    """Bytes to [-1, 1], in the memory format in which a CPU convolves fastest."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def far_apart(images: Tensor) -> list[int]:
    """Places of the images that are no copy of an earlier one."""
    pixels = images.flatten(1).float() / 255
    close = torch.cdist(pixels, pixels) <= CLOSEST * pixels.shape[1] ** 0.5
    kept: list[int] = []
    for place in range(len(pixels)):
        if not close[place, kept].any():
            kept.append(place)
    return kept


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then cosine to zero."""
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of places; each epoch holds every place once, in a new order."""
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < size:
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield left[:size]
        left = left[size:]


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """One step at this learning rate, gradients clipped."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([value for group in optimiser.param_groups for value in group["params"]], 1.0)
    optimiser.step()


def latents(autoencoder: AutoencoderKL, images: Tensor) -> Tensor:
    """The posterior's modes, not scaled, (image, 4, 8, 8)."""
    with torch.no_grad():
        parts = [autoencoder.encode(scaled(part)).latent_dist.mode() for part in images.split(256)]
    return torch.cat(parts).contiguous()


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(caption, 16), padded as the pipeline pads them."""
    encoded: Any = tokenizer(captions, padding="max_length", max_length=MODEL_MAX_LENGTH, return_tensors="pt")
    ids: Tensor = encoded.input_ids
    return ids


def picture(number: int) -> Tensor:
    return torch.from_numpy(draw_array(number).copy()).permute(2, 0, 1).float() / 127.5 - 1


def generate(
    pipeline: Any,
    prompts: list[str],
    guidance_scale: float,
    generator: torch.Generator,
    *,
    steps: int = SAMPLER_STEPS,
) -> Tensor:
    """One image a prompt in [-1, 1]; the noise is the same at every guidance scale."""
    noise = torch.randn(len(prompts), 4, 8, 8, generator=generator)
    parts = [
        pipeline(
            prompts[start : start + BATCH],
            latents=noise[start : start + BATCH],
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            output_type="pt",
        ).images
        for start in range(0, len(prompts), BATCH)
    ]
    return torch.cat(parts) * 2 - 1


def distances(samples: Tensor, numbers: tuple[int, ...]) -> Tensor:
    """Pixel RMSE, (sample, number)."""
    metric = PixelRmse()
    known = metric.embed(torch.stack([picture(number) for number in numbers]))
    return torch.cdist(metric.embed(samples), known) / known.shape[1] ** 0.5
