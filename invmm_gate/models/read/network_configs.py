"""Configurations of networks, with the names and defaults of diffusers, and the literal table of their classes."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.diffusers_config import StrictConfig, class_name, network_as_loaded, stated, validated
from invmm_gate.models.read.text_configs import CLIPTextConfig, LDMBertConfig, Qwen3Config, T5Config

Channels = Annotated[int, Field(ge=1, le=8192)]
Side = Annotated[int, Field(ge=1, le=1024)]
Size = Side | Annotated[tuple[Side, Side], Field(strict=False)]
Positive = Annotated[float, Field(gt=0, le=1e3, allow_inf_nan=False)]
Layers = Annotated[int, Field(ge=1, le=16)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Heads = Annotated[int, Field(ge=1, le=1024)]
Kernel = Annotated[int, Field(ge=1, le=7)]
Depth = Annotated[int, Field(ge=0, le=32)]
Positions = Annotated[int, Field(ge=1, le=65_536)]
Classes = Annotated[int, Field(ge=1, le=1_000_000)]
_LEVELS: Final = Field(min_length=1, max_length=10, strict=False)
_SHORT: Final = Field(max_length=64, strict=False)
Blocks = Annotated[tuple[Channels, ...], _LEVELS]
Depths = Annotated[tuple[Depth | Annotated[tuple[Depth, ...], _SHORT], ...], _LEVELS]
DownBlock = Literal[
    "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"
]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]
CrossDownBlock = Literal["DownBlock2D", "CrossAttnDownBlock2D"]
CrossUpBlock = Literal["UpBlock2D", "CrossAttnUpBlock2D"]
Encoder = Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]
Decoder = Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]
Activation = Literal["swish", "silu", "mish", "gelu", "relu"]


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
    down_block_types: Annotated[tuple[DownBlock, ...], _LEVELS] = (
        "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D",
    )  # fmt: skip
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: Annotated[tuple[UpBlock, ...], _LEVELS] = (
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


class AutoencoderConfig(StrictConfig):
    """What both kinds of autoencoder have."""

    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: Annotated[tuple[Encoder, ...], _LEVELS] = ("DownEncoderBlock2D",)
    up_block_types: Annotated[tuple[Decoder, ...], _LEVELS] = ("UpDecoderBlock2D",)
    block_out_channels: Blocks = (64,)
    layers_per_block: Layers = 1
    act_fn: Activation = "silu"
    sample_size: Size = 32
    norm_num_groups: Channels = 32
    scaling_factor: Positive = 0.18215
    mid_block_add_attention: bool = True


class VQConfig(AutoencoderConfig):
    """`VQModel`. LDMPipeline divides its latents by `scaling_factor`, by the default too where the file has none."""

    latent_channels: Channels = 3
    num_vq_embeddings: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    vq_embed_dim: Channels | None = None
    norm_type: Literal["group", "spatial"] = "group"
    lookup_from_codebook: bool = False
    force_upcast: bool = False

    @property
    def width(self) -> int:
        """Channels of the latent that the diffusion network sees."""
        return self.vq_embed_dim or self.latent_channels


class KLConfig(AutoencoderConfig):
    """`AutoencoderKL` with one scale for all channels."""

    latent_channels: Channels = 4
    shift_factor: Annotated[float, Field(ge=-1e3, le=1e3)] | None = None
    latents_mean: None = None
    latents_std: None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    @property
    def width(self) -> int:
        """Channels of the latent that the diffusion network sees."""
        return self.latent_channels


class Flux2AutoencoderConfig(StrictConfig):
    """`AutoencoderKLFlux2`, whose batch norm has the statistics of the latents; they scale and shift nothing else."""

    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: Annotated[tuple[Encoder, ...], _LEVELS] = ("DownEncoderBlock2D",) * 4
    up_block_types: Annotated[tuple[Decoder, ...], _LEVELS] = ("UpDecoderBlock2D",) * 4
    block_out_channels: Blocks = (128, 256, 512, 512)
    decoder_block_out_channels: Blocks | None = None
    layers_per_block: Layers = 2
    act_fn: Activation = "silu"
    latent_channels: Channels = 32
    norm_num_groups: Channels = 32
    sample_size: Size = 1024
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    batch_norm_eps: Positive = 1e-4
    batch_norm_momentum: Annotated[float, Field(ge=0, le=1)] | None = 0.1
    patch_size: Annotated[tuple[Literal[2], Literal[2]], Field(strict=False)] = (2, 2)
    force_upcast: bool = False

    @property
    def width(self) -> int:
        """Channels of its latent."""
        return self.latent_channels


class UNetConditionConfig(_UNet):
    """`UNet2DConditionModel` of LDM and Stable Diffusion 1, 2, XL; guidance-distilled with `time_cond_proj_dim`."""

    in_channels: Channels = 4
    out_channels: Channels = 4
    down_block_types: Annotated[tuple[CrossDownBlock, ...], _LEVELS] = (
        "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D",
    )  # fmt: skip
    mid_block_type: Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"] | None = "UNetMidBlock2DCrossAttn"
    up_block_types: Annotated[tuple[CrossUpBlock, ...], _LEVELS] = (
        "UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
    )  # fmt: skip
    only_cross_attention: bool | Annotated[tuple[bool, ...], _LEVELS] = False
    block_out_channels: Blocks = (320, 640, 1280, 1280)
    layers_per_block: Layers | Annotated[tuple[Layers, ...], _LEVELS] = 2
    norm_num_groups: Channels | None = 32
    cross_attention_dim: Width | Annotated[tuple[Width, ...], _LEVELS] = 1280
    transformer_layers_per_block: Depth | Depths = 1
    reverse_transformer_layers_per_block: Depths | None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    attention_head_dim: Channels | Annotated[tuple[Channels, ...], _LEVELS] = 8
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


class SD3Config(StrictConfig):
    """`SD3Transformer2DModel` of Stable Diffusion 3 and 3.5."""

    sample_size: Side = 128
    patch_size: Annotated[int, Field(ge=1, le=16)] = 2
    in_channels: Channels = 16
    num_layers: Annotated[int, Field(ge=1, le=64)] = 18
    attention_head_dim: Channels = 64
    num_attention_heads: Heads = 18
    joint_attention_dim: Width = 4096
    caption_projection_dim: Width = 1152
    pooled_projection_dim: Width = 2048
    out_channels: Channels = 16
    pos_embed_max_size: Side = 96
    dual_attention_layers: Annotated[tuple[Annotated[int, Field(ge=0, le=63)], ...], _SHORT] = ()
    qk_norm: Literal["rms_norm", "layer_norm"] | None = None

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return self.in_channels

    @property
    def width(self) -> int:
        """Channels of the transformer's tokens."""
        return self.num_attention_heads * self.attention_head_dim


class DiTConfig(StrictConfig):
    """`DiTTransformer2DModel`, which is told a class by its number."""

    num_attention_heads: Heads = 16
    attention_head_dim: Channels = 72
    in_channels: Channels = 4
    out_channels: Channels | None = None
    num_layers: Annotated[int, Field(ge=1, le=64)] = 28
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    norm_num_groups: Channels = 32
    attention_bias: bool = True
    sample_size: Side = 32
    patch_size: Annotated[int, Field(ge=1, le=16)] = 2
    activation_fn: Literal["gelu", "gelu-approximate", "geglu", "geglu-approximate"] = "gelu-approximate"
    num_embeds_ada_norm: Classes = 1000
    upcast_attention: bool = False
    norm_type: Literal["ada_norm_zero"] = "ada_norm_zero"
    norm_elementwise_affine: bool = False
    norm_eps: Positive = 1e-5

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return self.in_channels

    @property
    def width(self) -> int:
        """Channels of the transformer's tokens."""
        return self.num_attention_heads * self.attention_head_dim


class OldDiTConfig(DiTConfig):
    """The same as `Transformer2DModel`, as it was published: diffusers loads that as a `DiTTransformer2DModel`.

    The class to load is told by `norm_type`, which such a file must state; what only the old class knew is ignored.
    """

    norm_type: Literal["ada_norm_zero"]
    cross_attention_dim: None = None
    num_vector_embeds: None = None
    use_linear_projection: bool = False
    only_cross_attention: bool = False
    double_self_attention: bool = False
    attention_type: Literal["default"] = "default"
    caption_channels: None = None
    interpolation_scale: None = None
    use_additional_conditions: None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `DiTTransformer2DModel`."""
        return {key: value for key, value in super().arguments().items() if key in DiTConfig.model_fields}


class FluxConfig(StrictConfig):
    """`FluxTransformer2DModel` of FLUX.1."""

    patch_size: Literal[1] = 1
    in_channels: Annotated[int, Field(ge=4, le=8192, multiple_of=4)] = 64
    out_channels: Channels | None = None
    num_layers: Annotated[int, Field(ge=0, le=64)] = 19
    num_single_layers: Annotated[int, Field(ge=0, le=128)] = 38
    attention_head_dim: Channels = 128
    num_attention_heads: Heads = 24
    joint_attention_dim: Width = 4096
    pooled_projection_dim: Width = 768
    guidance_embeds: bool = False
    axes_dims_rope: Annotated[tuple[Channels, Channels, Channels], Field(strict=False)] = (16, 56, 56)

    @property
    def sample_size(self) -> int:
        """Side of the latents of the size at which FluxPipeline draws when nobody names one."""
        return 128

    @property
    def latent_channels(self) -> int:
        """Channels of the latent, of which a token has 2 x 2 values each."""
        return self.in_channels // 4

    @property
    def width(self) -> int:
        """Channels of the transformer's tokens."""
        return self.num_attention_heads * self.attention_head_dim


class Flux2Config(StrictConfig):
    """`Flux2Transformer2DModel` of FLUX.2-klein, which is told no guidance scale."""

    patch_size: Literal[1] = 1
    in_channels: Annotated[int, Field(ge=4, le=8192, multiple_of=4)] = 128
    out_channels: Channels | None = None
    num_layers: Annotated[int, Field(ge=0, le=64)] = 8
    num_single_layers: Annotated[int, Field(ge=0, le=128)] = 48
    attention_head_dim: Channels = 128
    num_attention_heads: Heads = 48
    joint_attention_dim: Width = 15360
    timestep_guidance_channels: Width = 256
    mlp_ratio: Positive = 3.0
    axes_dims_rope: Annotated[tuple[Channels, Channels, Channels, Channels], Field(strict=False)] = (32, 32, 32, 32)
    rope_theta: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    eps: Positive = 1e-6
    guidance_embeds: bool = True

    @property
    def sample_size(self) -> int:
        """Side of the autoencoder's latents of the size at which Flux2KleinPipeline draws when nobody names one."""
        return 128

    @property
    def latent_channels(self) -> int:
        """Channels of the autoencoder's latent, of which a token has 2 x 2 values each."""
        return self.in_channels // 4

    @property
    def width(self) -> int:
        """Channels of the transformer's tokens."""
        return self.num_attention_heads * self.attention_head_dim


class ZImageConfig(StrictConfig):
    """`ZImageTransformer2DModel` of Z-Image and Z-Image-Turbo; it predicts as many channels as it is given."""

    all_patch_size: Annotated[tuple[Literal[2]], Field(strict=False)] = (2,)
    all_f_patch_size: Annotated[tuple[Literal[1]], Field(strict=False)] = (1,)
    in_channels: Channels = 16
    dim: Width = 3840
    n_layers: Annotated[int, Field(ge=0, le=128)] = 30
    n_refiner_layers: Annotated[int, Field(ge=0, le=16)] = 2
    n_heads: Heads = 30
    n_kv_heads: Heads = 30
    norm_eps: Positive = 1e-5
    qk_norm: bool = True
    cap_feat_dim: Width = 2560
    siglip_feat_dim: None = None
    rope_theta: Positive = 256.0
    t_scale: Positive = 1000.0
    axes_dims: Annotated[tuple[Channels, Channels, Channels], Field(strict=False)] = (32, 48, 48)
    axes_lens: Annotated[tuple[Positions, Positions, Positions], Field(strict=False)] = (1024, 512, 512)

    @property
    def image_size(self) -> tuple[int, int]:
        """The size in pixels at which ZImagePipeline draws when nobody names one."""
        return 1024, 1024

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return self.in_channels

    @property
    def out_channels(self) -> int:
        """As many as it is given."""
        return self.in_channels

    @property
    def width(self) -> int:
        """Channels of the transformer's tokens."""
        return self.dim


EncoderConfig = CLIPTextConfig | T5Config | LDMBertConfig | Qwen3Config
TransformerConfig = SD3Config | FluxConfig | Flux2Config | ZImageConfig
DenoiserConfig = UNetConfig | UNetConditionConfig | DiTConfig | TransformerConfig
AutoencoderConfigs = VQConfig | KLConfig | Flux2AutoencoderConfig
NetworkConfig = DenoiserConfig | AutoencoderConfigs | EncoderConfig

DIFFUSERS: Final[dict[str, type[DenoiserConfig | AutoencoderConfigs]]] = {
    "UNet2DModel": UNetConfig,
    "UNet2DConditionModel": UNetConditionConfig,
    "SD3Transformer2DModel": SD3Config,
    "DiTTransformer2DModel": DiTConfig,
    "Transformer2DModel": OldDiTConfig,
    "FluxTransformer2DModel": FluxConfig,
    "Flux2Transformer2DModel": Flux2Config,
    "AutoencoderKLFlux2": Flux2AutoencoderConfig,
    "ZImageTransformer2DModel": ZImageConfig,
    "VQModel": VQConfig,
    "AutoencoderKL": KLConfig,
}
LOADED_AS: Final = {"Transformer2DModel": "DiTTransformer2DModel"}
"""Class that a file names -> the class that diffusers makes of it."""
ENCODERS: Final[dict[str, type[EncoderConfig]]] = {
    "CLIPTextModel": CLIPTextConfig,
    "CLIPTextModelWithProjection": CLIPTextConfig,
    "T5EncoderModel": T5Config,
    "LDMBertModel": LDMBertConfig,
    "Qwen3Model": Qwen3Config,
    "Qwen3ForCausalLM": Qwen3Config,
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
    return kind, validated(DIFFUSERS[kind], {key: content[key] for key in content.keys() - EMA_KEYS}, name)


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
