"""Configurations of autoencoders, with the names and defaults of diffusers."""

from typing import Annotated, Literal

from pydantic import Field

from invmm_gate.models.read.config_fields import LEVELS, Activation, Blocks, Channels, Layers, Positive, Size
from invmm_gate.models.read.diffusers_config import StrictConfig

Encoder = Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]
Decoder = Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]


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


AutoencoderConfigs = VQConfig | KLConfig | Flux2AutoencoderConfig
