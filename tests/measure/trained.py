"""The examples' trained checkpoints with their pictures, and copies of them with one fault."""

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invmm_gate.diffusion.schedule import VariancePreserving
from invmm_gate.measure.looking import Pictures, pictures_of
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from tests.stages.world import draw

EXAMPLES = Path(__file__).parents[2] / "examples"
PLANTED = (1, 2)
CONTROLS = tuple(range(100_000, 100_004))


@functools.cache
def checkpoint(folder: str) -> Any:
    """An example's checkpoint, loaded once."""
    return load_model(inspect_checkpoint(EXAMPLES / folder))


def memorizing() -> Any:
    return checkpoint("demo/models/memorizing")


def clean() -> Any:
    return checkpoint("demo/models/clean")


def drawn(numbers: tuple[int, ...], *, size: int = 16) -> Tensor:
    """The demo's pictures, (picture, 3, size, size) in [-1, 1]."""
    pixels = np.stack([np.asarray(draw(number, size=size)) for number in numbers])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def seen_by(model: Any, images: Tensor, captions: tuple[str, ...] = ()) -> Pictures:
    return pictures_of(model, list(images), captions, rows=8)


def at_size(model: Any, size: int) -> Any:
    """A pixel model whose configuration states another size."""
    return replace(model, latent_shape=(3, size, size))


def with_network(model: Any, change: Callable[[Any], None]) -> Any:
    """The model with a changed copy of its network."""
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        change(network)
    return replace(model, network=network)


def with_betas(model: Any, betas: Tensor) -> Any:
    """The model under another schedule."""
    return replace(model, schedule=VariancePreserving(torch.cumprod(1 - betas.double(), dim=0)))


def exchanged_channels(network: Any) -> None:
    network.conv_in.weight.copy_(network.conv_in.weight.flip(1))
    network.conv_out.weight.copy_(network.conv_out.weight.flip(0))
    network.conv_out.bias.copy_(network.conv_out.bias.flip(0))


def recoloured(channels: tuple[int, ...], signs: tuple[int, ...]) -> Callable[[Any], None]:
    """Every copy stays, recoloured: exact, no training."""

    def change(network: Any) -> None:
        index, factor = list(channels), torch.tensor(signs).float()
        network.conv_in.weight.copy_(network.conv_in.weight[:, index] * factor.view(1, 3, 1, 1))
        network.conv_out.weight.copy_(network.conv_out.weight[index] * factor.view(3, 1, 1, 1))
        network.conv_out.bias.copy_(network.conv_out.bias[index] * factor)

    return change


def both(first: Callable[[Any], None], second: Callable[[Any], None]) -> Callable[[Any], None]:
    """One change of a network after the other."""

    def change(network: Any) -> None:
        first(network)
        second(network)

    return change


def negated(network: Any) -> None:
    for weights in (network.conv_in.weight, network.conv_out.weight, network.conv_out.bias):
        weights.neg_()


def noisy(network: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for weights in network.parameters():
        if weights.dim() > 1:
            weights.add_(torch.randn(weights.shape, generator=generator) * weights.std())


def turned(network: Any) -> None:
    """All kernels turned by 180 degrees, and the padding of strided ones on the other side: an exact turn."""
    for weights in network.parameters():
        if weights.dim() == 4:
            weights.copy_(weights.flip(2, 3))
    for block in network.down_blocks:
        for downsampler in block.downsamplers or ():
            downsampler.padding = 0
            downsampler.conv.padding = (0, 0)
