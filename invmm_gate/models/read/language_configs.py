"""Configurations of language models that pipelines take hidden states of, as transformers writes them.

Gemma 2, of which every other layer sees no further back than its window; Qwen2.5-VL, which sees images too.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from invmm_gate.models.read.diffusers_config import StrictConfig
from invmm_gate.models.read.text_configs import (
    LUMINA_LENGTH,
    Depth,
    Dropout,
    Epsilon,
    Heads,
    RopeParameters,
    TextConfig,
    TokenId,
    Vocabulary,
    Width,
)

Theta = Annotated[float, Field(ge=1, le=1e9)]
Cap = Annotated[float, Field(gt=0, le=1e6)]
Section = Annotated[int, Field(ge=0, le=4096)]
Block = Annotated[int, Field(ge=0, le=127)]
Small = Annotated[int, Field(ge=1, le=1024)]


class Gemma2Config(TextConfig):
    """`Gemma2Model`, of which a pipeline asks hidden states."""

    model_type: Literal["gemma2"] = "gemma2"
    vocab_size: Vocabulary = 256000
    hidden_size: Width = 2304
    intermediate_size: Width = 9216
    num_hidden_layers: Depth = 26
    num_attention_heads: Heads = 8
    num_key_value_heads: Heads = 4
    head_dim: Width = 256
    hidden_activation: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    max_position_embeddings: Annotated[int, Field(ge=3, le=10_000_000)] = 8192
    rms_norm_eps: Epsilon = 1e-6
    rope_theta: Theta = 1e4
    rope_parameters: RopeParameters | None = None
    attention_bias: bool = False
    attention_dropout: Dropout = 0.0
    query_pre_attn_scalar: Annotated[int, Field(ge=1, le=65_536)] = 256
    sliding_window: Annotated[int, Field(ge=LUMINA_LENGTH, le=10_000_000)] = 4096
    layer_types: Annotated[list[Literal["sliding_attention", "full_attention"]], Field(max_length=128)] | None = None
    final_logit_softcapping: Cap | None = 30.0
    attn_logit_softcapping: Cap | None = 50.0
    use_bidirectional_attention: Literal[False] | None = None
    cache_implementation: str | None = None
    pad_token_id: TokenId | None = 0
    eos_token_id: TokenId | None = 1
    bos_token_id: TokenId | None = 2

    @model_validator(mode="after")
    def _fits_together(self) -> "Gemma2Config":
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(f"{len(self.layer_types)} layer_types for {self.num_hidden_layers} layers")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(f"{self.num_attention_heads} heads share {self.num_key_value_heads} keys and values")
        return self

    def arguments(self) -> dict[str, Any]:
        """As for the others; the activation is `hidden_activation`, and texts are not written."""
        idle = ("hidden_act", "cache_implementation")
        return {key: value for key, value in super().arguments().items() if key not in idle}

    @property
    def width(self) -> int:
        """Channels of a token's embedding."""
        return self.hidden_size

    @property
    def fewest_weights(self) -> int:
        """Token embedding, and per layer the MLP, queries and outputs."""
        layer = 3 * self.hidden_size * self.intermediate_size
        layer += 2 * self.hidden_size * self.num_attention_heads * self.head_dim
        return self.vocab_size * self.hidden_size + self.num_hidden_layers * layer


class RopeOfSections(StrictConfig):
    """How time, row and column turn the queries and keys; of a text, all three count its tokens."""

    rope_theta: Theta = 1e6
    rope_type: Literal["default", "mrope"] = "default"
    type: Literal["default", "mrope"] = "default"
    mrope_section: Annotated[tuple[Section, Section, Section], Field(strict=False)]


class Qwen25TextConfig(TextConfig):
    """The language model of `Qwen2_5_VLForConditionalGeneration`, with full attention in every layer."""

    model_type: Literal["qwen2_5_vl_text"] = "qwen2_5_vl_text"
    vocab_size: Vocabulary = 152064
    hidden_size: Width = 8192
    intermediate_size: Width = 29568
    num_hidden_layers: Depth = 80
    num_attention_heads: Heads = 64
    num_key_value_heads: Heads | None = 8
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: Annotated[int, Field(ge=3, le=10_000_000)] = 32768
    rms_norm_eps: Epsilon = 1e-5
    rope_theta: Theta = 1e6
    rope_scaling: RopeOfSections | None = None
    rope_parameters: RopeOfSections | None = None
    attention_dropout: Dropout = 0.0
    use_sliding_window: Literal[False] = False
    sliding_window: int | None = None
    max_window_layers: int | None = 80
    layer_types: Annotated[list[Literal["full_attention"]], Field(max_length=128)] | None = None
    pad_token_id: TokenId | None = None
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | None = None
    image_token_id: TokenId | None = None
    video_token_id: TokenId | None = None
    vision_token_id: TokenId | None = None
    vision_start_token_id: TokenId | None = None
    vision_end_token_id: TokenId | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "Qwen25TextConfig":
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(f"{len(self.layer_types)} layer_types for {self.num_hidden_layers} layers")
        if self.num_attention_heads % (self.num_key_value_heads or self.num_attention_heads):
            raise ValueError(f"{self.num_attention_heads} heads share {self.num_key_value_heads} keys and values")
        turns = self.rope_parameters or self.rope_scaling
        if turns is None or 2 * self.num_attention_heads * sum(turns.mrope_section) != self.hidden_size:
            raise ValueError("mrope_section does not add up to half of hidden_size / num_attention_heads")
        return self


class Qwen25VisionConfig(TextConfig):
    """The part of `Qwen2_5_VLForConditionalGeneration` that sees images: loaded along, and never asked."""

    model_type: Literal["qwen2_5_vl", "qwen2_5_vl_vision"] = "qwen2_5_vl_vision"
    depth: Depth = 32
    hidden_size: Width = 3584
    hidden_act: Literal["silu"] = "silu"
    intermediate_size: Width = 3420
    num_heads: Heads = 16
    in_channels: Literal[3] = 3
    in_chans: Literal[3] = 3
    patch_size: Small = 14
    spatial_patch_size: Small = 14
    spatial_merge_size: Small = 2
    temporal_patch_size: Small = 2
    tokens_per_second: Small = 4
    window_size: Small = 112
    out_hidden_size: Width = 3584
    fullatt_block_indexes: Annotated[tuple[Block, ...], Field(max_length=128, strict=False)] = (7, 15, 23, 31)
    rope_parameters: dict[Literal["rope_theta", "rope_type"], Theta | Literal["axial"]] | None = None

    def arguments(self) -> dict[str, Any]:
        """As for the others; two keys are older names, which the library keeps and does not read."""
        return {
            key: value for key, value in super().arguments().items() if key not in ("in_chans", "spatial_patch_size")
        }


_OWN: Final = frozenset({"sliding_window"})
"""What the two places may say otherwise: without a sliding window it has no effect."""


class Qwen25VLConfig(TextConfig):
    """`Qwen2_5_VLForConditionalGeneration`, of which a pipeline asks hidden states of texts."""

    model_type: Literal["qwen2_5_vl"] = "qwen2_5_vl"
    text_config: Qwen25TextConfig
    vision_config: Qwen25VisionConfig
    image_token_id: TokenId | None = None
    video_token_id: TokenId | None = None
    vision_token_id: TokenId | None = None
    vision_start_token_id: TokenId | None = None
    vision_end_token_id: TokenId | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_repetitions(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Transformers reads `text_config`; files repeat its keys beside it, where they must say the same."""
        for part in ("text_config", "vision_config"):
            if not isinstance(content.get(part), dict):
                raise ValueError(f"{part} is no object")
        text: dict[str, Any] = content["text_config"]
        repeated = (content.keys() & Qwen25TextConfig.model_fields.keys()) - cls.model_fields.keys()
        for key in sorted(repeated - _OWN):
            if text.get(key) != content[key]:
                raise ValueError(f"{key} is {content[key]!a} beside text_config, {text.get(key)!a} in it"[:200])
        return {key: value for key, value in content.items() if key not in repeated}

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the transformers configuration."""
        return {"text_config": self.text_config.arguments(), "vision_config": self.vision_config.arguments()}

    @property
    def width(self) -> int:
        """Channels of a token's embedding."""
        return self.text_config.hidden_size

    @property
    def vocab_size(self) -> int:
        """Tokens that it embeds."""
        return self.text_config.vocab_size

    @property
    def fewest_weights(self) -> int:
        """Token embedding, and per layer the MLP, queries and outputs; of the part that sees images, nothing."""
        text = self.text_config
        layer = 3 * text.hidden_size * text.intermediate_size + 2 * text.hidden_size**2
        return text.vocab_size * text.hidden_size + text.num_hidden_layers * layer
