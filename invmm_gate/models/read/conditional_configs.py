"""Configurations of text-conditional denoisers, with the names and defaults of diffusers."""

from typing import Annotated, Final, Literal

from pydantic import Field

from invmm_gate.models.read.configs import Activation, Blocks, Channels, Layers, Positive, Side, Size, StrictConfig

_LEVELS: Final = Field(min_length=1, max_length=10, strict=False)
_SHORT: Final = Field(max_length=64, strict=False)
DownBlock = Literal["DownBlock2D", "CrossAttnDownBlock2D"]
UpBlock = Literal["UpBlock2D", "CrossAttnUpBlock2D"]
Depth = Annotated[int, Field(ge=0, le=32)]
Depths = Annotated[tuple[Depth | Annotated[tuple[Depth, ...], _SHORT], ...], _LEVELS]
Width = Annotated[int, Field(ge=1, le=65_536)]
Heads = Annotated[int, Field(ge=1, le=1024)]
Kernel = Annotated[int, Field(ge=1, le=7)]


class UNetConditionConfig(StrictConfig):
    """`UNet2DConditionModel` of LDM and Stable Diffusion 1, 2, XL; guidance-distilled with `time_cond_proj_dim`."""

    sample_size: Size | None = None
    in_channels: Channels = 4
    out_channels: Channels = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[int, Field(ge=0, le=1000)] = 0
    down_block_types: Annotated[tuple[DownBlock, ...], _LEVELS] = (
        "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D",
    )  # fmt: skip
    mid_block_type: Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"] | None = "UNetMidBlock2DCrossAttn"
    up_block_types: Annotated[tuple[UpBlock, ...], _LEVELS] = (
        "UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
    )  # fmt: skip
    only_cross_attention: bool | Annotated[tuple[bool, ...], _LEVELS] = False
    block_out_channels: Blocks = (320, 640, 1280, 1280)
    layers_per_block: Layers | Annotated[tuple[Layers, ...], _LEVELS] = 2
    downsample_padding: Annotated[int, Field(ge=0, le=1)] = 1
    mid_block_scale_factor: Positive = 1
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    act_fn: Activation = "silu"
    norm_num_groups: Channels | None = 32
    norm_eps: Positive = 1e-5
    cross_attention_dim: Width | Annotated[tuple[Width, ...], _LEVELS] = 1280
    transformer_layers_per_block: Depth | Depths = 1
    reverse_transformer_layers_per_block: Depths | None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    attention_head_dim: Channels | Annotated[tuple[Channels, ...], _LEVELS] = 8
    num_attention_heads: None = None
    dual_cross_attention: Literal[False] = False
    use_linear_projection: bool = False
    class_embed_type: None = None
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: Width | None = None
    num_class_embeds: None = None
    upcast_attention: bool | None = False
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: Positive = 1.0
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Width | None = None
    time_embedding_act_fn: Activation | None = None
    timestep_post_act: Activation | None = None
    time_cond_proj_dim: Width | None = None
    conv_in_kernel: Kernel = 3
    conv_out_kernel: Kernel = 3
    projection_class_embeddings_input_dim: Width | None = None
    attention_type: Literal["default"] = "default"
    class_embeddings_concat: Literal[False] = False
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
    def width(self) -> int:
        """Channels of the transformer's tokens."""
        return self.num_attention_heads * self.attention_head_dim
