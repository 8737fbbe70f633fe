"""The literal table of network classes and the configuration that each of them has."""

from collections.abc import Mapping
from typing import Final

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.as_loaded import network_as_loaded
from invmm_gate.models.read.conditional_configs import SD3Config, UNetConditionConfig
from invmm_gate.models.read.configs import KLConfig, UNetConfig, VQConfig, class_name, stated, validated
from invmm_gate.models.read.text_configs import CLIPTextConfig, LDMBertConfig, T5Config

EncoderConfig = CLIPTextConfig | T5Config | LDMBertConfig
NetworkConfig = UNetConfig | UNetConditionConfig | SD3Config | VQConfig | KLConfig | EncoderConfig

DIFFUSERS: Final[dict[str, type[UNetConfig | UNetConditionConfig | SD3Config | VQConfig | KLConfig]]] = {
    "UNet2DModel": UNetConfig,
    "UNet2DConditionModel": UNetConditionConfig,
    "SD3Transformer2DModel": SD3Config,
    "VQModel": VQConfig,
    "AutoencoderKL": KLConfig,
}
ENCODERS: Final[dict[str, type[EncoderConfig]]] = {
    "CLIPTextModel": CLIPTextConfig,
    "CLIPTextModelWithProjection": CLIPTextConfig,
    "T5EncoderModel": T5Config,
    "LDMBertModel": LDMBertConfig,
}

EMA_KEYS: Final = frozenset(
    {"decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"}
)
"""What diffusers' `EMAModel.save_pretrained` adds to a network's configuration."""


def network_config(
    content: Mapping[str, object], *, name: str, allowed: tuple[str, ...], pipeline: str = ""
) -> tuple[str, NetworkConfig]:
    """The class and the configuration that file `name` holds, of one of the `allowed` diffusers classes.

    `pipeline` is the class that loads the network, if one does.
    """
    kind = class_name(content, name=name, allowed=allowed)
    content = network_as_loaded(pipeline, kind, stated(content, name), name)
    if content.get("class_embed_type") is not None or content.get("num_class_embeds") is not None:
        raise ModelError(
            f"{name!r} describes a class-conditional network",
            expected="a network without classes",
            do="this gate cannot choose a class for a probe",
        )
    return kind, validated(DIFFUSERS[kind], {key: content[key] for key in content.keys() - EMA_KEYS}, name)


def encoder_config(content: Mapping[str, object], *, name: str, kind: str) -> NetworkConfig:
    """The configuration of a text encoder that file `name` holds; `kind` is the class that the pipeline states."""
    return validated(ENCODERS[kind], content, name)


def has_ema_keys(content: Mapping[str, object]) -> bool:
    """Whether a network's configuration says that its weights are an exponential moving average."""
    return {"decay", "optimization_step"} <= content.keys() & EMA_KEYS
