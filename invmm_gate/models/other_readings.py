"""The same weights under another configuration: each value that fits the shapes is one that a slip may have written."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from torch import nn

from invmm_gate.errors import ModelError
from invmm_gate.models.components import Component
from invmm_gate.models.conditional_configs import UNetConditionConfig
from invmm_gate.models.configs import UNetConfig
from invmm_gate.models.inspect import layout_of
from invmm_gate.models.latent import LatentModel
from invmm_gate.models.networks import on_meta
from invmm_gate.models.pixel import PixelModel
from invmm_gate.models.text_to_image import TextToImageModel
from invmm_gate.protocols import DiffusionModel
from invmm_gate.records import ModelManifest

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


def other_readings(manifest: ModelManifest, model: DiffusionModel) -> Iterator[tuple[str, DiffusionModel]]:
    """Each other reading that fits, in words, and the model under it, which shares the weights; none for transformers.

    One at a time: a reading takes no memory for weights, and none of it is kept.
    """
    layout = layout_of(manifest)[1]
    component = layout.components[layout.denoiser]
    if not isinstance(component.config, UNetConfig | UNetConditionConfig):
        return
    attends = any("Attn" in str(part) for part in dict(component.config).values())
    for key, values in _VALUES.items():
        for value in values if attends or key != "attention_head_dim" else ():
            read = _read_otherwise(component, model, key, value)
            if read is not None:
                yield f"with {key} {value}", read


def _read_otherwise(component: Component, model: DiffusionModel, key: str, value: object) -> DiffusionModel | None:
    """The model under one other value; None where that is its own value or does not fit."""
    if getattr(component.config, key, value) == value:
        return None
    if not isinstance(model, PixelModel | LatentModel | TextToImageModel):
        return None
    try:
        network = on_meta(replace(component, config=component.config.model_copy(update={key: value})))
        network.load_state_dict(_weights(model.network), assign=True)
    except (ModelError, RuntimeError):
        return None
    return replace(model, network=network.eval().requires_grad_(False))


def _weights(network: nn.Module) -> dict[str, object]:
    return dict(network.state_dict())
