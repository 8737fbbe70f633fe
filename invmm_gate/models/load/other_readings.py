"""The same weights under another configuration, or at another image size, which they fit as well."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from torch import nn

from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import DiffusionModel
from invmm_gate.core.records import ModelManifest
from invmm_gate.models.adapters.class_conditional import ClassConditionalModel
from invmm_gate.models.adapters.text_to_image import TextToImageModel
from invmm_gate.models.adapters.unconditional import LatentModel, PixelModel
from invmm_gate.models.load.unsaved_values import complete
from invmm_gate.models.networks import on_meta
from invmm_gate.models.read.checkpoint_layout import autoencoder_of, denoiser_of
from invmm_gate.models.read.components import Component
from invmm_gate.models.read.image_sizes import downscaling
from invmm_gate.models.read.inspect import layout_of
from invmm_gate.models.read.network_configs import DenoiserConfig
from invmm_gate.models.read.transformer_configs import (
    AuraFlowConfig,
    ChromaConfig,
    DiTConfig,
    Flux2Config,
    FluxConfig,
    Lumina2Config,
    PixArtConfig,
    QwenImageConfig,
    SanaConfig,
    SD3Config,
    ZImageConfig,
)

_VALUES: Final[dict[str, tuple[object, ...]]] = {
    "act_fn": ("silu", "gelu", "relu"),
    "norm_num_groups": (4, 8, 16, 32),
    "flip_sin_to_cos": (True, False),
    "freq_shift": (0, 1),
    "downsample_padding": (0, 1),
    "center_input_sample": (False, True),
    "attention_head_dim": (4, 8, 16, 32, 64),
}
"""Keys of a U-Net's configuration that change no shape, with the values that are in use."""
ThreeAxes = FluxConfig | ChromaConfig | QwenImageConfig | Lumina2Config | ZImageConfig
"""Networks that turn some values of a head with the row and some with the column."""
_HEAD_WIDTHS: Final = (4, 8, 16, 32, 64, 128)
"""Channels of one head of a transformer: as many heads as its width then has."""


def other_readings(manifest: ModelManifest, model: DiffusionModel) -> Iterator[tuple[str, DiffusionModel]]:
    """Each other reading that fits, in words, and the model under it, which shares the weights.

    One at a time: a reading takes no memory for weights, and none of it is kept.
    """
    layout = layout_of(manifest)[1]
    component = layout.components[layout.denoiser]
    for changes in _changes(component.config):
        read = _read_otherwise(component, model, changes)
        if read is not None:
            yield "with " + " and ".join(f"{key} {value}" for key, value in changes.items()), read


def _changes(config: object) -> Iterator[Mapping[str, object]]:
    """Other values that fit together, of the keys that the configuration has."""
    if isinstance(config, SD3Config | DiTConfig | PixArtConfig | AuraFlowConfig | SanaConfig):
        for channels in _HEAD_WIDTHS:
            if config.width % channels == 0:
                yield {"attention_head_dim": channels, "num_attention_heads": config.width // channels}
        return
    if isinstance(config, ThreeAxes):
        yield from _other_turns(config)
        return
    if isinstance(config, Flux2Config):
        return  # its four axes turn a quarter of a head each
    attends = any("Attn" in str(part) for part in vars(config).values())
    for key, values in _VALUES.items():
        for value in values if hasattr(config, key) and (attends or key != "attention_head_dim") else ():
            yield {key: value}


def _other_turns(config: ThreeAxes) -> Iterator[Mapping[str, object]]:
    """How many values of a head turn with the row and how many with the column: FLUX.1 has 7 of 16, Z-Image 6."""
    if isinstance(config, ZImageConfig):
        key, head = "axes_dims", config.dim // config.n_heads
    elif isinstance(config, Lumina2Config):
        key, head = "axes_dim_rope", config.hidden_size // config.num_attention_heads
    else:
        key, head = "axes_dims_rope", config.attention_head_dim
    for share in (2, 3, 4, 5, 6, 7):
        side, odd = divmod(share * head, 16)
        if not odd and not side % 2:
            yield {key: (head - 2 * side, side, side)}


def _read_otherwise(
    component: Component, model: DiffusionModel, changes: Mapping[str, object]
) -> DiffusionModel | None:
    """The model under other values; None where they are its own or do not fit."""
    if all(getattr(component.config, key) == value for key, value in changes.items()):
        return None
    if not isinstance(model, PixelModel | LatentModel | ClassConditionalModel | TextToImageModel):
        return None
    try:
        network = on_meta(replace(component, config=component.config.model_copy(update=dict(changes))))
        network.load_state_dict(_weights(model.network), assign=True)
        complete(network)
    except (ModelError, RuntimeError):
        return None
    return replace(model, network=network.eval().requires_grad_(False))


def _weights(network: nn.Module) -> dict[str, object]:
    return dict(network.state_dict())


_FACTORS: Final = (0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0)
"""Ratios of one side to the stated one: the sizes that a wrong `sample_size` most often stands for."""
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


def _latent_sides(denoiser: DenoiserConfig) -> tuple[int, int]:
    """What divides a latent's side, and the largest one that is looked at."""
    if isinstance(denoiser, Lumina2Config):  # it has no places beyond
        return denoiser.patch_size, min(_LARGEST_LATENT, denoiser.patch_size * min(denoiser.axes_lens[1:]))
    if isinstance(denoiser, AuraFlowConfig):
        return denoiser.patch_size, min(_LARGEST_LATENT, denoiser.patch_size * denoiser.places)
    if isinstance(denoiser, SD3Config):  # it has no position embeddings beyond
        return denoiser.patch_size, min(_LARGEST_LATENT, denoiser.patch_size * denoiser.pos_embed_max_size)
    if isinstance(denoiser, DiTConfig | PixArtConfig | SanaConfig):  # positions of other sizes are interpolated
        return denoiser.patch_size, _LARGEST_LATENT
    if isinstance(denoiser, FluxConfig | ChromaConfig | Flux2Config | QwenImageConfig | ZImageConfig):
        return 2, _LARGEST_LATENT
    return 1 << len(denoiser.block_out_channels) - 1, _LARGEST_LATENT


def resized(model: DiffusionModel, image_size: tuple[int, int]) -> DiffusionModel:
    """The same weights at another (height, width)."""
    if isinstance(model, ClassConditionalModel):
        return replace(model, space=_resized(model.space, image_size))
    if isinstance(model, TextToImageModel):
        return replace(model, latent_shape=_shape_at(model, image_size), image_size=image_size)
    if isinstance(model, PixelModel | LatentModel):
        return _resized(model, image_size)
    raise TypeError(f"{type(model).__name__} is no checkpoint's model")


def _resized(model: PixelModel | LatentModel, image_size: tuple[int, int]) -> PixelModel | LatentModel:
    shape = _shape_at(model, image_size)
    if isinstance(model, PixelModel):
        return replace(model, latent_shape=shape)
    return replace(model, latent_shape=shape, image_size=image_size)


def _shape_at(model: DiffusionModel, image_size: tuple[int, int]) -> tuple[int, int, int]:
    """(channel, height, width) of x_0 of images of this size."""
    channels, height, _ = model.latent_shape
    factor = model.image_size[0] // height
    return channels, image_size[0] // factor, image_size[1] // factor


def _multiple(side: float, step: int) -> int:
    return step * round(side / step)
