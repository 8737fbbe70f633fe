"""Configurations of text encoders, as transformers writes them.

Transformers puts bookkeeping of its own into every configuration, and more or less of it with each version. Keys of
`HARMLESS` are known to have no effect on an encoder's output; they are accepted and never passed on.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from invmm_gate.models.read.diffusers_config import StrictConfig

BERT_LENGTH: Final = 77
"""Tokens in LDMTextToImagePipeline, whatever the tokenizer says."""

CHAT_LENGTH: Final = 512
"""Tokens of the chat in ZImagePipeline and Flux2KleinPipeline, what the template adds included."""
KLEIN_LAYERS: Final = (9, 18, 27)
"""Hidden layers of the language model that Flux2KleinPipeline puts side by side."""

PIXART_LENGTHS: Final = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
"""Tokens in each of them, unless it is called with another max_sequence_length."""
AURA_LENGTH: Final = 256
"""Tokens in AuraFlowPipeline."""
LUMINA_LENGTH: Final = 256
"""Tokens in Lumina2Pipeline, what it puts before a prompt included."""

Width = Annotated[int, Field(ge=1, le=65_536)]
Depth = Annotated[int, Field(ge=1, le=128)]
Heads = Annotated[int, Field(ge=1, le=1024)]
Vocabulary = Annotated[int, Field(ge=1, le=1_000_000)]
TokenId = Annotated[int, Field(ge=-1, le=1_000_000)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Epsilon = Annotated[float, Field(gt=0, le=1)]

HARMLESS: Final = frozenset({
    "architectures", "torch_dtype", "dtype", "transformers_version", "initializer_factor", "initializer_range",
    "gradient_checkpointing", "use_cache", "output_past", "n_positions", "logit_scale_init_value", "dropout",
    "output_attentions", "output_hidden_states", "output_scores", "return_dict", "return_dict_in_generate",
    "torchscript", "use_bfloat16", "tf_legacy_loss", "finetuning_task", "id2label", "label2id", "problem_type",
    "prefix", "tokenizer_class", "task_specific_params", "bad_words_ids", "begin_suppress_tokens",
    "chunk_size_feed_forward", "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty",
    "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
    "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_length", "min_length",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "remove_invalid_values",
    "repetition_penalty", "sep_token_id", "suppress_tokens", "temperature", "tie_encoder_decoder",
    "tie_word_embeddings", "top_k", "top_p", "typical_p", "is_encoder_decoder", "num_decoder_layers",
    "classifier_dropout", "scale_decoder_outputs", "scalable_attention",
})  # fmt: skip

DTYPES: Final = (None, "float32", "float16", "bfloat16")
"""What transformers may load an encoder in; in a narrower type it would be another one than the gate measures."""


class TextConfig(StrictConfig):
    """What every text encoder's configuration has; keys that would make it another network must be off."""

    pruned_heads: dict[str, Any] | None = Field(default=None, max_length=0)
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False

    @model_validator(mode="before")
    @classmethod
    def _without_bookkeeping(cls, content: dict[str, Any]) -> dict[str, Any]:
        for key in ("torch_dtype", "dtype"):
            if content.get(key) not in DTYPES:
                raise ValueError(f"{key} is {content[key]!a}, not one of float32, float16, bfloat16"[:200])
        return {key: value for key, value in content.items() if key not in HARMLESS}

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the transformers configuration: what decides the network's output."""
        stated = self.model_dump(exclude_unset=True, exclude={"model_type", "dense_act_fn", "is_gated_act"})
        return {key: value for key, value in stated.items() if key not in TextConfig.model_fields}


class CLIPTextConfig(TextConfig):
    """`CLIPTextModel` and `CLIPTextModelWithProjection`."""

    model_type: Literal["clip_text_model"] = "clip_text_model"
    vocab_size: Vocabulary = 49408
    hidden_size: Width = 512
    intermediate_size: Width = 2048
    projection_dim: Width | None = 512
    num_hidden_layers: Depth = 12
    num_attention_heads: Heads = 8
    max_position_embeddings: Annotated[int, Field(ge=3, le=4096)] = 77
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5
    attention_dropout: Dropout = 0.0
    pad_token_id: TokenId | None = 1
    bos_token_id: TokenId | None = 49406
    eos_token_id: TokenId | None = 49407

    @property
    def width(self) -> int:
        """Channels of a token's embedding."""
        return self.hidden_size

    @property
    def fewest_weights(self) -> int:
        """Token embedding, and per layer attention and MLP without biases."""
        layer = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        return self.vocab_size * self.hidden_size + self.num_hidden_layers * layer


class T5Config(TextConfig):
    """`T5EncoderModel`."""

    model_type: Literal["t5"] = "t5"
    vocab_size: Vocabulary = 32128
    d_model: Width = 512
    d_kv: Width = 64
    d_ff: Width = 2048
    num_layers: Depth = 6
    num_heads: Heads = 8
    relative_attention_num_buckets: Annotated[int, Field(ge=2, le=4096)] = 32
    relative_attention_max_distance: Annotated[int, Field(ge=2, le=65_536)] = 128
    dropout_rate: Dropout = 0.1
    layer_norm_epsilon: Epsilon = 1e-6
    feed_forward_proj: Literal["relu", "gated-gelu"] = "relu"
    dense_act_fn: Literal["relu", "gelu_new"] | None = None
    is_gated_act: bool | None = None
    pad_token_id: TokenId | None = 0
    eos_token_id: TokenId | None = 1

    @model_validator(mode="after")
    def _derived_keys_agree(self) -> "T5Config":
        gated = self.feed_forward_proj == "gated-gelu"
        if self.is_gated_act not in (None, gated) or self.dense_act_fn not in (None, "gelu_new" if gated else "relu"):
            raise ValueError(f"is_gated_act and dense_act_fn contradict feed_forward_proj {self.feed_forward_proj!r}")
        return self

    @property
    def width(self) -> int:
        """Channels of a token's embedding."""
        return self.d_model

    @property
    def fewest_weights(self) -> int:
        """Token embedding, and per layer attention and MLP."""
        layer = 4 * self.d_model * self.d_kv * self.num_heads + 2 * self.d_model * self.d_ff
        return self.vocab_size * self.d_model + self.num_layers * layer


class UMT5Config(T5Config):
    """`UMT5EncoderModel`: T5 with a bias of places in each layer."""

    model_type: Literal["umt5"] = "umt5"  # type: ignore[assignment]
    vocab_size: Vocabulary = 250112
    d_ff: Width = 1024
    num_layers: Depth = 8
    num_heads: Heads = 6
    feed_forward_proj: Literal["relu", "gated-gelu"] = "gated-gelu"


class RopeParameters(StrictConfig):
    """How positions turn the queries and keys of a decoder."""

    rope_theta: Annotated[float, Field(ge=1, le=1e9)] = 10_000.0
    rope_type: Literal["default"] = "default"


class Qwen3Config(TextConfig):
    """`Qwen3Model`, a decoder language model as text encoder, with full attention in every layer."""

    model_type: Literal["qwen3"] = "qwen3"
    vocab_size: Vocabulary = 151936
    hidden_size: Width = 4096
    intermediate_size: Width = 22016
    num_hidden_layers: Depth = 32
    num_attention_heads: Heads = 32
    num_key_value_heads: Heads | None = 32
    head_dim: Width = 128
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: Annotated[int, Field(ge=3, le=10_000_000)] = 32768
    rms_norm_eps: Epsilon = 1e-6
    rope_theta: Annotated[float, Field(ge=1, le=1e9)] = 10_000.0
    rope_scaling: None = None
    rope_parameters: RopeParameters | None = None
    attention_bias: bool = False
    attention_dropout: Dropout = 0.0
    use_sliding_window: Literal[False] = False
    sliding_window: int | None = None
    max_window_layers: int = 28
    layer_types: Annotated[list[Literal["full_attention"]], Field(max_length=128)] | None = None
    pad_token_id: TokenId | None = None
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | None = None

    @model_validator(mode="after")
    def _layers_agree(self) -> "Qwen3Config":
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(f"{len(self.layer_types)} layer_types for {self.num_hidden_layers} layers")
        if self.num_attention_heads % (self.num_key_value_heads or self.num_attention_heads):
            raise ValueError(f"{self.num_attention_heads} heads share {self.num_key_value_heads} keys and values")
        return self

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


class LDMBertConfig(TextConfig):
    """`LDMBertModel`, diffusers' own encoder of text-conditioned LDM, saved as transformers does."""

    model_type: Literal["ldmbert"] = "ldmbert"
    vocab_size: Vocabulary = 30522
    max_position_embeddings: Annotated[int, Field(ge=BERT_LENGTH, le=4096)] = BERT_LENGTH
    encoder_layers: Depth = 32
    encoder_ffn_dim: Width = 5120
    encoder_attention_heads: Heads = 8
    head_dim: Width = 64
    encoder_layerdrop: Dropout = 0.0
    activation_function: Literal["gelu"] = "gelu"
    d_model: Width = 1280
    attention_dropout: Dropout = 0.0
    activation_dropout: Dropout = 0.0
    init_std: Annotated[float, Field(ge=0, le=1)] = 0.02
    scale_embedding: Literal[False] = False
    pad_token_id: TokenId | None = 0
    num_hidden_layers: Depth | None = None

    @model_validator(mode="after")
    def _layers_agree(self) -> "LDMBertConfig":
        if self.num_hidden_layers not in (None, self.encoder_layers):
            raise ValueError(f"num_hidden_layers contradicts encoder_layers {self.encoder_layers}")
        return self

    def arguments(self) -> dict[str, Any]:
        """As for the others; the library derives num_hidden_layers itself."""
        return {key: value for key, value in super().arguments().items() if key != "num_hidden_layers"}

    @property
    def width(self) -> int:
        """Channels of a token's embedding."""
        return self.d_model

    @property
    def fewest_weights(self) -> int:
        """Token embedding and logits, and per layer attention and MLP without biases."""
        inner = self.encoder_attention_heads * self.head_dim
        layer = 4 * self.d_model * inner + 2 * self.d_model * self.encoder_ffn_dim
        return 2 * self.vocab_size * self.d_model + self.encoder_layers * layer
