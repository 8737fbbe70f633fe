"""Configurations of transformers that a prompt conditions, with the names and defaults of diffusers."""

import math
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from invmm_gate.models.read.config_fields import SHORT, Channels, Classes, Heads, Positive, Side, Width
from invmm_gate.models.read.diffusers_config import StrictConfig

Positions = Annotated[int, Field(ge=1, le=65_536)]
TOLD_SIZE: Final = 128
"""The `sample_size` at which PixArtAlphaPipeline tells its network the size of the image."""


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
    dual_attention_layers: Annotated[tuple[Annotated[int, Field(ge=0, le=63)], ...], SHORT] = ()
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


class PixArtConfig(StrictConfig):
    """`PixArtTransformer2DModel` of PixArt-Alpha and PixArt-Sigma."""

    num_attention_heads: Heads = 16
    attention_head_dim: Channels = 72
    in_channels: Channels = 4
    out_channels: Channels | None = 8
    num_layers: Annotated[int, Field(ge=1, le=64)] = 28
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    norm_num_groups: Channels = 32
    cross_attention_dim: Width = 1152
    attention_bias: bool = True
    sample_size: Literal[32, 64, 128, 256] = 128
    patch_size: Annotated[int, Field(ge=1, le=16)] = 2
    activation_fn: Literal["gelu", "gelu-approximate", "geglu", "geglu-approximate"] = "gelu-approximate"
    num_embeds_ada_norm: Classes = 1000
    upcast_attention: bool = False
    norm_type: Literal["ada_norm_single"] = "ada_norm_single"
    norm_elementwise_affine: bool = False
    norm_eps: Positive = 1e-6
    interpolation_scale: Annotated[int, Field(ge=1, le=64)] | None = None
    use_additional_conditions: bool | None = None
    caption_channels: Width | None = None
    attention_type: Literal["default"] = "default"

    @property
    def told_the_size(self) -> bool:
        """Whether it takes the size of the image and its ratio as inputs."""
        stated = self.use_additional_conditions
        return self.sample_size == TOLD_SIZE if stated is None else stated

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return self.in_channels

    @property
    def width(self) -> int:
        """Channels of the transformer's tokens."""
        return self.num_attention_heads * self.attention_head_dim


class OldPixArtConfig(PixArtConfig):
    """The same as `Transformer2DModel`, as it was published: see `OldDiTConfig`."""

    norm_type: Literal["ada_norm_single"]
    num_vector_embeds: None = None
    use_linear_projection: bool = False
    only_cross_attention: bool = False
    double_self_attention: bool = False

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `PixArtTransformer2DModel`."""
        return {key: value for key, value in super().arguments().items() if key in PixArtConfig.model_fields}


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


class ChromaConfig(StrictConfig):
    """`ChromaTransformer2DModel`: FLUX.1 without a pooled vector, its modulation approximated by a small network."""

    patch_size: Literal[1] = 1
    in_channels: Annotated[int, Field(ge=4, le=8192, multiple_of=4)] = 64
    out_channels: Channels | None = None
    num_layers: Annotated[int, Field(ge=0, le=64)] = 19
    num_single_layers: Annotated[int, Field(ge=0, le=128)] = 38
    attention_head_dim: Channels = 128
    num_attention_heads: Heads = 24
    joint_attention_dim: Width = 4096
    axes_dims_rope: Annotated[tuple[Channels, Channels, Channels], Field(strict=False)] = (16, 56, 56)
    approximator_num_channels: Annotated[int, Field(ge=8, le=8192, multiple_of=8)] = 64
    approximator_hidden_dim: Width = 5120
    approximator_layers: Annotated[int, Field(ge=0, le=64)] = 5

    @property
    def sample_size(self) -> int:
        """Side of the latents of the size at which ChromaPipeline draws when nobody names one."""
        return 128

    @property
    def latent_channels(self) -> int:
        """Channels of the latent, of which a token has 2 x 2 values each."""
        return self.in_channels // 4

    @property
    def width(self) -> int:
        """Channels of the transformer's tokens."""
        return self.num_attention_heads * self.attention_head_dim


class AuraFlowConfig(StrictConfig):
    """`AuraFlowTransformer2DModel`, which has a position for each patch of a square."""

    sample_size: Side = 64
    patch_size: Annotated[int, Field(ge=1, le=16)] = 2
    in_channels: Channels = 4
    num_mmdit_layers: Annotated[int, Field(ge=0, le=64)] = 4
    num_single_dit_layers: Annotated[int, Field(ge=0, le=128)] = 32
    attention_head_dim: Channels = 256
    num_attention_heads: Heads = 12
    joint_attention_dim: Width = 2048
    caption_projection_dim: Width = 3072
    out_channels: Channels = 4
    pos_embed_max_size: Annotated[int, Field(ge=1, le=4_194_304)] = 1024

    @property
    def image_size(self) -> tuple[int, int]:
        """The size in pixels at which AuraFlowPipeline draws when nobody names one."""
        return 1024, 1024

    @property
    def places(self) -> int:
        """Patches along a side for which there are positions."""
        return math.isqrt(self.pos_embed_max_size)

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return self.in_channels

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


class QwenImageConfig(StrictConfig):
    """`QwenImageTransformer2DModel` of Qwen-Image, which is told no guidance scale and sees no other image."""

    patch_size: Literal[2] = 2
    in_channels: Annotated[int, Field(ge=4, le=8192, multiple_of=4)] = 64
    out_channels: Channels | None = 16
    num_layers: Annotated[int, Field(ge=0, le=128)] = 60
    attention_head_dim: Channels = 128
    num_attention_heads: Heads = 24
    joint_attention_dim: Width = 3584
    guidance_embeds: Literal[False] = False
    axes_dims_rope: Annotated[tuple[Channels, Channels, Channels], Field(strict=False)] = (16, 56, 56)
    zero_cond_t: Literal[False] = False
    use_additional_t_cond: Literal[False] = False
    use_layer3d_rope: Literal[False] = False
    pooled_projection_dim: Width | None = None
    """A key of the published file, which diffusers has ignored since."""

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the diffusers class."""
        return self.model_dump(exclude_unset=True, exclude={"pooled_projection_dim"})

    @property
    def sample_size(self) -> int:
        """Side of the latents of the size at which QwenImagePipeline draws when nobody names one."""
        return 128

    @property
    def latent_channels(self) -> int:
        """Channels of the latent, of which a token has 2 x 2 values each."""
        return self.in_channels // 4

    @property
    def width(self) -> int:
        """Channels of the transformer's tokens."""
        return self.num_attention_heads * self.attention_head_dim


class Lumina2Config(StrictConfig):
    """`Lumina2Transformer2DModel` of Lumina-Image 2.0."""

    sample_size: Side = 128
    patch_size: Annotated[int, Field(ge=1, le=16)] = 2
    in_channels: Channels = 16
    out_channels: Channels | None = None
    hidden_size: Width = 2304
    num_layers: Annotated[int, Field(ge=0, le=128)] = 26
    num_refiner_layers: Annotated[int, Field(ge=0, le=16)] = 2
    num_attention_heads: Heads = 24
    num_kv_heads: Heads = 8
    multiple_of: Annotated[int, Field(ge=1, le=65_536)] = 256
    ffn_dim_multiplier: Positive | None = None
    norm_eps: Positive = 1e-5
    scaling_factor: Positive = 1.0
    axes_dim_rope: Annotated[tuple[Channels, Channels, Channels], Field(strict=False)] = (32, 32, 32)
    axes_lens: Annotated[tuple[Positions, Positions, Positions], Field(strict=False)] = (300, 512, 512)
    cap_feat_dim: Width = 1024

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return self.in_channels

    @property
    def width(self) -> int:
        """Channels of the transformer's tokens."""
        return self.hidden_size


class SanaConfig(StrictConfig):
    """`SanaTransformer2DModel` of Sana and Sana 1.5, which is told no guidance scale."""

    in_channels: Channels = 32
    out_channels: Channels | None = 32
    num_attention_heads: Heads = 70
    attention_head_dim: Channels = 32
    num_layers: Annotated[int, Field(ge=1, le=128)] = 20
    num_cross_attention_heads: Heads = 20
    cross_attention_head_dim: Channels = 112
    cross_attention_dim: Width = 2240
    caption_channels: Width = 2304
    mlp_ratio: Positive = 2.5
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    attention_bias: bool = False
    sample_size: Side = 32
    patch_size: Annotated[int, Field(ge=1, le=16)] = 1
    norm_elementwise_affine: bool = False
    norm_eps: Positive = 1e-6
    interpolation_scale: Positive | None = None
    guidance_embeds: Literal[False] = False
    guidance_embeds_scale: Positive = 0.1
    qk_norm: Literal["rms_norm_across_heads"] | None = None
    timestep_scale: Annotated[float, Field(ge=1, le=1)] = 1.0

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return self.in_channels

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


TransformerConfig = (
    SD3Config
    | PixArtConfig
    | FluxConfig
    | ChromaConfig
    | AuraFlowConfig
    | Flux2Config
    | QwenImageConfig
    | Lumina2Config
    | SanaConfig
    | ZImageConfig
)
"""All of them."""
OfAnySize = FluxConfig | ChromaConfig | AuraFlowConfig | Flux2Config | QwenImageConfig | ZImageConfig
"""Networks whose pipelines draw at one size, whatever they were trained at, unless they are asked for another."""
Unshifted = AuraFlowConfig | PixArtConfig
"""Those whose pipelines add no `shift_factor` to the latents."""
