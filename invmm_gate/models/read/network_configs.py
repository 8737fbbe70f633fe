"""Configurations of networks, with the names and defaults of diffusers, and the literal table of their classes."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.autoencoder_configs import (
    AutoencoderConfigs,
    DCConfig,
    Flux2AutoencoderConfig,
    KLConfig,
    QwenImageAutoencoderConfig,
    VQConfig,
)
from invmm_gate.models.read.config_fields import (
    LEVELS,
    SHORT,
    Activation,
    Blocks,
    Channels,
    Classes,
    Heads,
    Layers,
    Positive,
    Size,
    Width,
)
from invmm_gate.models.read.diffusers_config import StrictConfig, class_name, network_as_loaded, stated, validated
from invmm_gate.models.read.language_configs import Gemma2Config, Qwen25VLConfig
from invmm_gate.models.read.text_configs import (
    PIXART_LENGTHS,
    CLIPTextConfig,
    LDMBertConfig,
    Qwen3Config,
    T5Config,
    UMT5Config,
)
from invmm_gate.models.read.transformer_configs import (
    AuraFlowConfig,
    ChromaConfig,
    DiTConfig,
    Flux2Config,
    FluxConfig,
    Lumina2Config,
    OldDiTConfig,
    OldPixArtConfig,
    PixArtConfig,
    QwenImageConfig,
    SanaConfig,
    SD3Config,
    TransformerConfig,
    ZImageConfig,
)

Kernel = Annotated[int, Field(ge=1, le=7)]
Depth = Annotated[int, Field(ge=0, le=32)]
Depths = Annotated[tuple[Depth | Annotated[tuple[Depth, ...], SHORT], ...], LEVELS]
DownBlock = Literal[
    "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"
]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]
CrossDownBlock = Literal["DownBlock2D", "CrossAttnDownBlock2D"]
CrossUpBlock = Literal["UpBlock2D", "CrossAttnUpBlock2D"]


class _UNet(StrictConfig):
    """What both kinds of UNet have."""

    sample_size: Size | None = None
    center_input_sample: bool = False
    time_embedding_dim: Width | None = None
    freq_shift: Annotated[int, Field(ge=0, le=1000)] = 0
    flip_sin_to_cos: bool = True
    mid_block_scale_factor: Positive = 1
    downsample_padding: Annotated[int, Field(ge=0, le=1)] = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    act_fn: Activation = "silu"
    norm_eps: Positive = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    class_embed_type: None = None

    @property
    def latent_channels(self) -> int:
        """Channels of what the network denoises, pixels or latents."""
        return int(getattr(self, "in_channels"))  # noqa: B009 (each kind of UNet has its own default)


class UNetConfig(_UNet):
    """`UNet2DModel`: unconditional, or told one of `num_class_embeds` classes by its number."""

    num_class_embeds: Classes | None = None
    in_channels: Channels = 3
    out_channels: Channels = 3
    time_embedding_type: Literal["positional", "learned"] = "positional"
    down_block_types: Annotated[tuple[DownBlock, ...], LEVELS] = (
        "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D",
    )  # fmt: skip
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: Annotated[tuple[UpBlock, ...], LEVELS] = (
        "AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D",
    )  # fmt: skip
    block_out_channels: Blocks = (224, 448, 672, 896)
    layers_per_block: Layers = 2
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    attention_head_dim: Channels | None = 8
    norm_num_groups: Channels = 32
    attn_norm_num_groups: Channels | None = None
    add_attention: bool = True
    num_train_timesteps: Annotated[int, Field(ge=1, le=10_000)] | None = None


class UNetConditionConfig(_UNet):
    """`UNet2DConditionModel` of LDM and Stable Diffusion 1, 2, XL; guidance-distilled with `time_cond_proj_dim`."""

    in_channels: Channels = 4
    out_channels: Channels = 4
    down_block_types: Annotated[tuple[CrossDownBlock, ...], LEVELS] = (
        "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D",
    )  # fmt: skip
    mid_block_type: Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"] | None = "UNetMidBlock2DCrossAttn"
    up_block_types: Annotated[tuple[CrossUpBlock, ...], LEVELS] = (
        "UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
    )  # fmt: skip
    only_cross_attention: bool | Annotated[tuple[bool, ...], LEVELS] = False
    block_out_channels: Blocks = (320, 640, 1280, 1280)
    layers_per_block: Layers | Annotated[tuple[Layers, ...], LEVELS] = 2
    norm_num_groups: Channels | None = 32
    cross_attention_dim: Width | Annotated[tuple[Width, ...], LEVELS] = 1280
    transformer_layers_per_block: Depth | Depths = 1
    reverse_transformer_layers_per_block: Depths | None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    attention_head_dim: Channels | Annotated[tuple[Channels, ...], LEVELS] = 8
    num_attention_heads: None = None
    dual_cross_attention: Literal[False] = False
    use_linear_projection: bool = False
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: Width | None = None
    upcast_attention: bool | None = False
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: Positive = 1.0
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_act_fn: Activation | None = None
    timestep_post_act: Activation | None = None
    time_cond_proj_dim: Width | None = None
    conv_in_kernel: Kernel = 3
    conv_out_kernel: Kernel = 3
    projection_class_embeddings_input_dim: Width | None = None
    attention_type: Literal["default"] = "default"
    class_embeddings_concat: Literal[False] = False
    num_class_embeds: None = None
    mid_block_only_cross_attention: bool | None = None
    cross_attention_norm: None = None
    addition_embed_type_num_heads: Heads = 64

    @property
    def context(self) -> frozenset[int]:
        """Widths of the text embeddings that the cross-attention takes."""
        width = self.cross_attention_dim
        return frozenset((width,) if isinstance(width, int) else width)


EncoderConfig = CLIPTextConfig | T5Config | LDMBertConfig | Qwen3Config | Qwen25VLConfig | Gemma2Config
DenoiserConfig = UNetConfig | UNetConditionConfig | DiTConfig | TransformerConfig
NetworkConfig = DenoiserConfig | AutoencoderConfigs | EncoderConfig

DIFFUSERS: Final[dict[str, type[DenoiserConfig | AutoencoderConfigs]]] = {
    "UNet2DModel": UNetConfig,
    "UNet2DConditionModel": UNetConditionConfig,
    "SD3Transformer2DModel": SD3Config,
    "DiTTransformer2DModel": DiTConfig,
    "PixArtTransformer2DModel": PixArtConfig,
    "Transformer2DModel": OldDiTConfig,
    "FluxTransformer2DModel": FluxConfig,
    "ChromaTransformer2DModel": ChromaConfig,
    "AuraFlowTransformer2DModel": AuraFlowConfig,
    "Flux2Transformer2DModel": Flux2Config,
    "AutoencoderKLFlux2": Flux2AutoencoderConfig,
    "QwenImageTransformer2DModel": QwenImageConfig,
    "AutoencoderKLQwenImage": QwenImageAutoencoderConfig,
    "ZImageTransformer2DModel": ZImageConfig,
    "Lumina2Transformer2DModel": Lumina2Config,
    "SanaTransformer2DModel": SanaConfig,
    "AutoencoderDC": DCConfig,
    "VQModel": VQConfig,
    "AutoencoderKL": KLConfig,
}
_OLD: Final = "Transformer2DModel"
_OLD_PIXART: Final = dict.fromkeys(PIXART_LENGTHS, (OldPixArtConfig, "PixArtTransformer2DModel"))
_LOADED_AS: Final[dict[str, tuple[type[DenoiserConfig], str]]] = {
    **_OLD_PIXART, "DiTPipeline": (OldDiTConfig, "DiTTransformer2DModel"),
}  # fmt: skip
"""Pipeline -> what a `Transformer2DModel` is there: its configuration, and the class that diffusers makes of it."""
ENCODERS: Final[dict[str, type[EncoderConfig]]] = {
    "CLIPTextModel": CLIPTextConfig,
    "CLIPTextModelWithProjection": CLIPTextConfig,
    "T5EncoderModel": T5Config,
    "UMT5EncoderModel": UMT5Config,
    "LDMBertModel": LDMBertConfig,
    "Qwen3Model": Qwen3Config,
    "Qwen3ForCausalLM": Qwen3Config,
    "Qwen2_5_VLForConditionalGeneration": Qwen25VLConfig,
    "Gemma2Model": Gemma2Config,
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
    _refuse_other_classes(content, name=name, kind=kind, pipeline=pipeline)
    known = _LOADED_AS[pipeline][0] if kind == _OLD and pipeline in _LOADED_AS else DIFFUSERS[kind]
    return kind, validated(known, {key: content[key] for key in content.keys() - EMA_KEYS}, name)


def loaded_as(pipeline: str, kind: str) -> str:
    """The class that diffusers makes of a network whose file, or whose pipeline, names the class `kind`."""
    return _LOADED_AS[pipeline][1] if kind == _OLD and pipeline in _LOADED_AS else kind


def _refuse_other_classes(content: Mapping[str, object], *, name: str, kind: str, pipeline: str) -> None:
    """Classes are numbered embeddings of a `UNet2DModel` on pixels, or of a DiT, and nothing else."""
    if content.get("class_embed_type") is not None:
        raise ModelError(
            f"{name!r}: 'class_embed_type' is {content['class_embed_type']!a}"[:200],
            expected="null, with num_class_embeds classes: of no other kind is it known which classes there are",
            do="nothing of this checkpoint can be measured",
        )
    if content.get("num_class_embeds") is not None and (kind != "UNet2DModel" or pipeline == "LDMPipeline"):
        raise ModelError(
            f"{name!r} describes a class-conditional {kind} in {pipeline or 'no pipeline'}",
            expected="a UNet2DModel on pixels, or a DiTPipeline",
            do="nothing of this checkpoint can be measured",
        )


def classes_of(config: object) -> int:
    """How many classes a network is told, numbered from 0; 0 where it is told none."""
    if isinstance(config, DiTConfig):
        return config.num_embeds_ada_norm
    return (config.num_class_embeds or 0) if isinstance(config, UNetConfig) else 0


def encoder_config(content: Mapping[str, object], *, name: str, kind: str) -> NetworkConfig:
    """The configuration of a text encoder that file `name` holds; `kind` is the class that the pipeline states."""
    return validated(ENCODERS[kind], content, name)


def has_ema_keys(content: Mapping[str, object]) -> bool:
    """Whether a network's configuration says that its weights are an exponential moving average."""
    return {"decay", "optimization_step"} <= content.keys() & EMA_KEYS
