"""Configurations of autoencoders, with the names and defaults of diffusers."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from invmm_gate.models.read.config_fields import LEVELS, SHORT, Activation, Blocks, Channels, Layers, Positive, Size
from invmm_gate.models.read.diffusers_config import StrictConfig

Encoder = Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]
Decoder = Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]
DCBlock = Literal["ResBlock", "EfficientViTBlock"]
Norm = Literal["rms_norm"]
Scales = Annotated[tuple[Annotated[int, Field(ge=1, le=31)], ...], Field(max_length=4, strict=False)]
Factor = Annotated[int, Field(ge=1, le=64)]
Mean = Annotated[float, Field(ge=-1e3, le=1e3)]


class AutoencoderConfig(StrictConfig):
    """What both kinds of autoencoder have."""

    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: Annotated[tuple[Encoder, ...], LEVELS] = ("DownEncoderBlock2D",)
    up_block_types: Annotated[tuple[Decoder, ...], LEVELS] = ("UpDecoderBlock2D",)
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
    down_block_types: Annotated[tuple[Encoder, ...], LEVELS] = ("DownEncoderBlock2D",) * 4
    up_block_types: Annotated[tuple[Decoder, ...], LEVELS] = ("UpDecoderBlock2D",) * 4
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


class QwenImageAutoencoderConfig(StrictConfig):
    """`AutoencoderKLQwenImage`, an autoencoder of videos, with the statistics of each channel of its latents."""

    base_dim: Annotated[int, Field(ge=2, le=8192, multiple_of=2)] = 96
    z_dim: Channels = 16
    dim_mult: Annotated[tuple[Factor, ...], LEVELS] = (1, 2, 4, 4)
    num_res_blocks: Layers = 2
    attn_scales: Annotated[tuple[float, ...], Field(max_length=0, strict=False)] = ()
    temperal_downsample: Annotated[tuple[bool, ...], LEVELS] = (False, True, True)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    input_channels: Literal[3] = 3
    latents_mean: Annotated[tuple[Mean, ...], SHORT] = (
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    )  # fmt: skip
    latents_std: Annotated[tuple[Positive, ...], SHORT] = (
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    )  # fmt: skip

    @model_validator(mode="after")
    def _fits_together(self) -> "QwenImageAutoencoderConfig":
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(f"{len(self.temperal_downsample)} temperal_downsample for {len(self.dim_mult)} dim_mult")
        if not self.z_dim == len(self.latents_mean) == len(self.latents_std):
            raise ValueError(f"latents_mean or latents_std has another length than z_dim, {self.z_dim}")
        return self

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the diffusers class, which wants lists."""
        stated = super().arguments()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in stated.items()}

    @property
    def width(self) -> int:
        """Channels of its latent."""
        return self.z_dim

    @property
    def fewest_weights(self) -> int:
        """The 3x3x3 convolutions of its encoder, each at least from its width to its width."""
        return sum(27 * (self.base_dim * factor) ** 2 * self.num_res_blocks for factor in self.dim_mult)


class DCConfig(StrictConfig):
    """`AutoencoderDC`, which gives each image one latent and no distribution of them."""

    in_channels: Literal[3] = 3
    latent_channels: Channels = 32
    attention_head_dim: Channels = 32
    encoder_block_types: DCBlock | Annotated[tuple[DCBlock, ...], LEVELS] = "ResBlock"
    decoder_block_types: DCBlock | Annotated[tuple[DCBlock, ...], LEVELS] = "ResBlock"
    encoder_block_out_channels: Blocks = (128, 256, 512, 512, 1024, 1024)
    decoder_block_out_channels: Blocks = (128, 256, 512, 512, 1024, 1024)
    encoder_layers_per_block: Annotated[tuple[Layers, ...], LEVELS] = (2, 2, 2, 3, 3, 3)
    decoder_layers_per_block: Annotated[tuple[Layers, ...], LEVELS] = (3, 3, 3, 3, 3, 3)
    encoder_qkv_multiscales: Annotated[tuple[Scales, ...], LEVELS] = ((), (), (), (5,), (5,), (5,))
    decoder_qkv_multiscales: Annotated[tuple[Scales, ...], LEVELS] = ((), (), (), (5,), (5,), (5,))
    upsample_block_type: Literal["pixel_shuffle", "interpolate"] = "pixel_shuffle"
    downsample_block_type: Literal["pixel_unshuffle", "conv", "Conv"] = "pixel_unshuffle"
    decoder_norm_types: Norm | Annotated[tuple[Norm, ...], LEVELS] = "rms_norm"
    decoder_act_fns: Activation | Annotated[tuple[Activation, ...], LEVELS] = "silu"
    encoder_out_shortcut: bool = True
    decoder_in_shortcut: bool = True
    decoder_conv_act_fn: Activation = "relu"
    scaling_factor: Positive = 1.0

    @model_validator(mode="after")
    def _fits_together(self) -> "DCConfig":
        for side in ("encoder", "decoder"):
            self._check_levels(side)
            widths: tuple[int, ...] = getattr(self, f"{side}_block_out_channels")
            if any(4 * wide % deep or 4 * deep % wide for wide, deep in pairwise(widths)) or any(
                width % 4 for width in widths
            ):
                raise ValueError(f"{side}_block_out_channels {widths} have no shortcut from level to level")
            if widths[-1] % self.latent_channels:
                raise ValueError(f"{widths[-1]} channels of the {side} are no multiple of the {self.latent_channels}")
        return self

    def _check_levels(self, side: str) -> None:
        """What is stated for each level is stated for as many of them as the encoder halves a side at."""
        levels = len(self.encoder_block_out_channels)
        for key, stated in vars(self).items():
            if key.startswith(side) and isinstance(stated, tuple) and len(stated) != levels:
                raise ValueError(f"{len(stated)} {key} for {levels} encoder_block_out_channels")

    @property
    def width(self) -> int:
        """Channels of its latent."""
        return self.latent_channels

    @property
    def fewest_weights(self) -> int:
        """A block has at least twelve weights for each pair of its channels."""
        levels = zip(self.encoder_block_out_channels, self.encoder_layers_per_block, strict=True)
        return sum(12 * width**2 * layers for width, layers in levels)


AutoencoderConfigs = VQConfig | KLConfig | Flux2AutoencoderConfig | QwenImageAutoencoderConfig | DCConfig
