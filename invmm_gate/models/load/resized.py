"""A model at another image size than its own: the same weights, which its network can run at many sizes."""

from dataclasses import replace
from typing import Final

from invmm_gate.core.protocols import DiffusionModel
from invmm_gate.core.records import ModelManifest
from invmm_gate.models.adapters.latent import LatentModel
from invmm_gate.models.adapters.pixel import PixelModel
from invmm_gate.models.adapters.text_to_image import TextToImageModel
from invmm_gate.models.read.conditional_configs import SD3Config
from invmm_gate.models.read.inspect import layout_of
from invmm_gate.models.read.parts_fit import Denoiser, autoencoder_of, denoiser_of, downscaling

_FACTORS: Final = (0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0)
"""Of one side to the stated one: the sizes that a wrong `sample_size` most often stands for."""
_LEAST_SIDE: Final = 8
"""Pixels: no probe image is smaller."""
_LARGEST_LATENT: Final = 128
"""Latent side up to which a size is looked at: beyond, one row takes four times the memory of a run's own."""


def other_sizes(manifest: ModelManifest, model: DiffusionModel) -> tuple[tuple[int, int], ...]:
    """(height, width) of the sizes near the model's own that its network can run at; squares for an oblong one."""
    layout = layout_of(manifest)[1]
    denoiser, autoencoder = denoiser_of(layout), autoencoder_of(layout)
    factor = 1 if autoencoder is None else downscaling(autoencoder)
    cell, largest = _latent_sides(denoiser)
    step = factor * cell
    height, width = model.image_size
    wanted = [(height * scale, width * scale) for scale in _FACTORS] + [(side, side) for side in (height, width)]
    sizes = dict.fromkeys((_multiple(high, step), _multiple(wide, step)) for high, wide in wanted)
    return tuple(
        size
        for size in sizes
        if size != model.image_size and min(size) >= _LEAST_SIDE and max(size) // factor <= largest
    )


def _latent_sides(denoiser: Denoiser) -> tuple[int, int]:
    """What divides a latent's side, and the largest one that is looked at."""
    if isinstance(denoiser, SD3Config):  # it has no position embeddings beyond
        return denoiser.patch_size, min(_LARGEST_LATENT, denoiser.patch_size * denoiser.pos_embed_max_size)
    return 1 << len(denoiser.block_out_channels) - 1, _LARGEST_LATENT


def resized(model: DiffusionModel, image_size: tuple[int, int]) -> DiffusionModel:
    """The same weights at another (height, width)."""
    if not isinstance(model, PixelModel | LatentModel | TextToImageModel):
        raise TypeError(f"{type(model).__name__} is no checkpoint's model")
    channels, height, _ = model.latent_shape
    factor = model.image_size[0] // height
    shape = (channels, image_size[0] // factor, image_size[1] // factor)
    if isinstance(model, PixelModel):
        return replace(model, latent_shape=shape)
    return replace(model, latent_shape=shape, image_size=image_size)


def _multiple(side: float, step: int) -> int:
    return step * round(side / step)
