"""The configurations that a checkpoint may hold, as strict models with ranges: checked before any library sees them.

Names, meanings and defaults are those of diffusers. A key that neither diffusers knows nor `BOOKKEEPING` is refused.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from invmm_gate.core.errors import ModelError

Channels = Annotated[int, Field(ge=1, le=8192)]
Side = Annotated[int, Field(ge=1, le=1024)]
Positive = Annotated[float, Field(gt=0, le=1e3, allow_inf_nan=False)]
Blocks = Annotated[tuple[Channels, ...], Field(min_length=1, max_length=10, strict=False)]
Layers = Annotated[int, Field(ge=1, le=16)]
Size = Side | Annotated[tuple[Side, Side], Field(strict=False)]

_LEVELS: Final = Field(min_length=1, max_length=10, strict=False)
DownBlock = Literal[
    "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"
]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]
Encoder = Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]
Decoder = Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]
Activation = Literal["swish", "silu", "mish", "gelu", "relu"]


BOOKKEEPING: Final = frozenset(
    {"_class_name", "_diffusers_version", "_name_or_path", "_commit_hash", "_attn_implementation_autoset"}
)
"""Keys that diffusers and transformers write down and build no network from."""
_IGNORED: Final = "_use_default_values"
"""Lists the keys that diffusers takes from its own defaults, whatever the file says of them."""


class StrictConfig(BaseModel):
    """Unknown keys refused, no conversion of types, never changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the diffusers class: what the file states; the rest is the library's default."""
        return self.model_dump(exclude_unset=True)


class UNetConfig(StrictConfig):
    """`UNet2DModel` without classes: unconditional."""

    sample_size: Size | None = None
    in_channels: Channels = 3
    out_channels: Channels = 3
    center_input_sample: bool = False
    time_embedding_type: Literal["positional", "learned"] = "positional"
    time_embedding_dim: Annotated[int, Field(ge=1, le=65_536)] | None = None
    freq_shift: Annotated[int, Field(ge=0, le=1000)] = 0
    flip_sin_to_cos: bool = True
    down_block_types: Annotated[tuple[DownBlock, ...], _LEVELS] = (
        "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D",
    )  # fmt: skip
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: Annotated[tuple[UpBlock, ...], _LEVELS] = (
        "AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D",
    )  # fmt: skip
    block_out_channels: Blocks = (224, 448, 672, 896)
    layers_per_block: Layers = 2
    mid_block_scale_factor: Positive = 1
    downsample_padding: Annotated[int, Field(ge=0, le=1)] = 1
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    act_fn: Activation = "silu"
    attention_head_dim: Channels | None = 8
    norm_num_groups: Channels = 32
    attn_norm_num_groups: Channels | None = None
    norm_eps: Positive = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: None = None
    num_class_embeds: None = None
    num_train_timesteps: Annotated[int, Field(ge=1, le=10_000)] | None = None


class VQConfig(StrictConfig):
    """`VQModel`. LDMPipeline divides its latents by `scaling_factor`, by the default too where the file has none."""

    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: Annotated[tuple[Encoder, ...], _LEVELS] = ("DownEncoderBlock2D",)
    up_block_types: Annotated[tuple[Decoder, ...], _LEVELS] = ("UpDecoderBlock2D",)
    block_out_channels: Blocks = (64,)
    layers_per_block: Layers = 1
    act_fn: Activation = "silu"
    latent_channels: Channels = 3
    sample_size: Size = 32
    num_vq_embeddings: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    norm_num_groups: Channels = 32
    vq_embed_dim: Channels | None = None
    scaling_factor: Positive = 0.18215
    norm_type: Literal["group", "spatial"] = "group"
    mid_block_add_attention: bool = True
    lookup_from_codebook: bool = False
    force_upcast: bool = False

    @property
    def width(self) -> int:
        """Channels of the latent that the diffusion network sees."""
        return self.vq_embed_dim or self.latent_channels


class KLConfig(StrictConfig):
    """`AutoencoderKL` with one scale for all channels."""

    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: Annotated[tuple[Encoder, ...], _LEVELS] = ("DownEncoderBlock2D",)
    up_block_types: Annotated[tuple[Decoder, ...], _LEVELS] = ("UpDecoderBlock2D",)
    block_out_channels: Blocks = (64,)
    layers_per_block: Layers = 1
    act_fn: Activation = "silu"
    latent_channels: Channels = 4
    norm_num_groups: Channels = 32
    sample_size: Size = 32
    scaling_factor: Positive = 0.18215
    shift_factor: Annotated[float, Field(ge=-1e3, le=1e3)] | None = None
    latents_mean: None = None
    latents_std: None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @property
    def width(self) -> int:
        """Channels of the latent that the diffusion network sees."""
        return self.latent_channels


_Config = TypeVar("_Config", bound=StrictConfig)


def class_name(content: Mapping[str, object], *, name: str, allowed: tuple[str, ...]) -> str:
    """`_class_name`, which must be one of `allowed`; it is only ever looked up in a literal table."""
    kind = content.get("_class_name")
    if not isinstance(kind, str) or kind not in allowed:
        raise ModelError(
            f"{name!r} names the class {kind!a}"[:200], expected="one of " + ", ".join(allowed), do="check the path"
        )
    return kind


def stated(content: Mapping[str, object], name: str) -> dict[str, object]:
    """The keys that diffusers takes from a file: all but those that `_use_default_values` lists. Raises ModelError."""
    ignored = content.get(_IGNORED, [])
    if not isinstance(ignored, list) or not all(isinstance(key, str) and key[:1] != "_" for key in ignored):
        raise ModelError(
            f"{name!r}: {_IGNORED!r} is {ignored!a}"[:200], expected="a list of plain keys", do="remove it"
        )
    return {key: value for key, value in content.items() if key not in ignored and key != _IGNORED}


def without_bookkeeping(content: Mapping[str, object], name: str) -> dict[str, object]:
    """The keys that decide something. Raises ModelError for one with an underscore that is not in `BOOKKEEPING`."""
    hidden = sorted(key for key in content if key.startswith("_") and key not in BOOKKEEPING)
    if hidden:
        raise ModelError(
            f"{name!r}: {hidden[0]!a} is no key that this gate knows"[:200],
            expected="diffusers' keys, and of its bookkeeping " + ", ".join(sorted(BOOKKEEPING)),
            do="remove it",
        )
    return {key: value for key, value in content.items() if key not in BOOKKEEPING}


def validated(model: type[_Config], content: Mapping[str, object], name: str) -> _Config:
    """`content` as a `model`, without the libraries' bookkeeping. Raises ModelError naming file and key."""
    public = without_bookkeeping(content, name)
    try:
        return model.model_validate(public)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])[:80] or "the whole"
        raise ModelError(
            f"{name!r}: {key!a}: {first['msg'][:200]}",
            expected="a configuration that diffusers knows, within the ranges of a real network",
            do="correct the file",
        ) from error
