"""Whether tokenizers, text encoders and denoiser fit one another."""

from collections.abc import Callable, Mapping, Set
from typing import Any, Final

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.checkpoint_layout import Layout
from invmm_gate.models.read.language_configs import Gemma2Config, Qwen25VLConfig
from invmm_gate.models.read.network_configs import UNetConditionConfig
from invmm_gate.models.read.scheduler_config import KLEIN
from invmm_gate.models.read.text_configs import (
    KLEIN_LAYERS,
    CLIPTextConfig,
    LDMBertConfig,
    Qwen3Config,
    T5Config,
    UMT5Config,
)
from invmm_gate.models.read.tokenizer_files import TokenizerFiles
from invmm_gate.models.read.transformer_configs import (
    AuraFlowConfig,
    ChromaConfig,
    Flux2Config,
    FluxConfig,
    Lumina2Config,
    OldPixArtConfig,
    PixArtConfig,
    QwenImageConfig,
    SanaConfig,
    SD3Config,
    ZImageConfig,
)

POOLS_AT_LARGEST_ID: Final = 2
"""With this eos_token_id, transformers takes the pooled vector where the id is largest (a bug that became a rule)."""
CHATTING: Final = frozenset({"ZImagePipeline", KLEIN})
"""Pipelines that put each prompt in the chat template of its tokenizer."""
LCM: Final = "LatentConsistencyModelPipeline"
SIZE_IDS: Final = 6
"""Numbers by which Stable Diffusion XL is told sizes and crop."""


def check_text_fit(layout: Layout) -> None:
    """Raises ModelError for a tokenizer, a text encoder or a denoiser that was made for another. None: no check."""
    for name, tokenizer in layout.tokenizers.items():
        encoder = "bert" if tokenizer.kind == "bert" else name.replace("tokenizer", "text_encoder")
        if encoder not in layout.components:
            raise ModelError(f"{name!r} has no {encoder!r}", expected="both or neither", do="save the pipeline again")
        _check_encoder(tokenizer, layout.components[encoder].config, encoder)
        _check_template(layout, tokenizer)
    _check_pairs(layout)
    denoiser = layout.components[layout.denoiser].config
    _CHECKS[type(denoiser)](layout, denoiser)


def _check_encoder(tokenizer: TokenizerFiles, config: object, encoder: str) -> None:
    if isinstance(config, CLIPTextConfig):
        _check_clip(tokenizer, config, encoder)
    elif isinstance(config, T5Config):
        _check_vocabulary(tokenizer, encoder, embedded=config.vocab_size, padding=128)
    elif isinstance(config, Qwen3Config | Qwen25VLConfig):
        _check_vocabulary(tokenizer, encoder, embedded=config.vocab_size, padding=512)
    elif isinstance(config, LDMBertConfig | Gemma2Config):
        _check_vocabulary(tokenizer, encoder, embedded=config.vocab_size)


def _check_template(layout: Layout, tokenizer: TokenizerFiles) -> None:
    if layout.pipeline in CHATTING and not tokenizer.has_template:
        raise ModelError(
            f"{tokenizer.name!r} has no chat template",
            expected="chat_template.jinja, or chat_template in tokenizer_config.json: each prompt stands in it",
            do="save the tokenizer with its published template",
        )


def _check_vocabulary(tokenizer: TokenizerFiles, encoder: str, *, embedded: int, padding: int = 1) -> None:
    """`embedded` tokens of the encoder may be the vocabulary padded to a multiple of `padding`."""
    known = len(tokenizer.vocabulary)
    if not 0 <= embedded - known < padding:
        raise ModelError(
            f"{tokenizer.name} knows {known:,} tokens, {encoder} {embedded:,}",
            expected="the tokenizer that the encoder was trained with",
            do="save the pipeline again with its own tokenizer",
        )


def _check_clip(tokenizer: TokenizerFiles, config: CLIPTextConfig, encoder: str) -> None:
    _check_vocabulary(tokenizer, encoder, embedded=config.vocab_size)
    limit = tokenizer.max_length
    if limit is None or not 2 < limit <= config.max_position_embeddings:
        raise ModelError(
            f"{tokenizer.name} takes {'any number of' if limit is None else limit} tokens, {encoder} has positions "
            f"for {config.max_position_embeddings}",
            expected="a model_max_length above 2 that the encoder has positions for",
            do="correct model_max_length in tokenizer_config.json",
        )
    if config.eos_token_id not in (POOLS_AT_LARGEST_ID, tokenizer.end_id):
        raise ModelError(
            f"{encoder} looks for the end of a prompt at token {config.eos_token_id}, {tokenizer.name} writes "
            f"{tokenizer.end_id}",
            expected="one end-of-text token",
        )


def _check_pairs(layout: Layout) -> None:
    """Each encoder has its tokenizer, and all CLIP tokenizers read one prompt as the same ids."""
    for name, component in layout.components.items():
        tokenizer = name.replace("text_encoder", "tokenizer")
        if isinstance(component.config, CLIPTextConfig | T5Config) and tokenizer not in layout.tokenizers:
            raise ModelError(f"{name!r} has no {tokenizer!r}", expected="both or neither", do="save the pipeline again")
    clips = [tokenizer for tokenizer in layout.tokenizers.values() if tokenizer.kind == "clip"]
    for other in clips[1:]:
        same = (other.vocabulary, other.merges, other.max_length) == (
            clips[0].vocabulary, clips[0].merges, clips[0].max_length,
        )  # fmt: skip
        if not same:
            raise ModelError(
                f"{clips[0].name} and {other.name} differ in vocabulary, merges or limit",
                expected="one vocabulary for all CLIP encoders",
                do="save the pipeline again with its own tokenizers",
            )


def _check_unet(layout: Layout, unet: UNetConditionConfig) -> None:
    encoders = _clips(layout)
    width = sum(config.width for config in encoders)
    if "bert" in layout.components:
        width = layout.config("bert", LDMBertConfig).width
        _equal("time_cond_proj_dim", {unet.time_cond_proj_dim}, "the pipeline gives", {None})
    if layout.pipeline == LCM and unet.time_cond_proj_dim is None:
        raise ModelError(
            f"the denoiser has no time_cond_proj_dim, through which {LCM} tells it the guidance scale",
            expected="a UNet with time_cond_proj_dim",
            do="save it as a StableDiffusionPipeline with the LCMScheduler, if it was distilled without that input",
        )
    _equal("cross_attention_dim", set(unet.context), "the text encoders give", {width})
    needed = {"text_time"} if len(encoders) == 2 else {None}
    _equal("addition_embed_type", {unet.addition_embed_type}, "the pipeline needs", needed)
    if unet.addition_embed_type is not None:
        sizes = SIZE_IDS * (unet.addition_time_embed_dim or 0)
        pooled = (encoders[-1].projection_dim or 0) + sizes
        stated = {unet.projection_class_embeddings_input_dim}
        _equal("projection_class_embeddings_input_dim", stated, "the pipeline gives", {pooled})


def _check_flux(layout: Layout, config: FluxConfig) -> None:
    pooled, tokens = layout.config("text_encoder", CLIPTextConfig), layout.config("text_encoder_2", T5Config)
    _equal("pooled_projection_dim", {config.pooled_projection_dim}, "text_encoder gives", {pooled.width})
    _equal("joint_attention_dim", {config.joint_attention_dim}, "text_encoder_2 gives", {tokens.width})


def _check_chroma(layout: Layout, config: ChromaConfig) -> None:
    width = layout.config("text_encoder", T5Config).width
    _equal("joint_attention_dim", {config.joint_attention_dim}, "text_encoder gives", {width})


def _check_pixart(layout: Layout, config: PixArtConfig) -> None:
    width = layout.config("text_encoder", T5Config).width
    if config.caption_channels is None:
        _equal("cross_attention_dim", {config.cross_attention_dim}, "text_encoder gives", {width})
    else:
        _equal("caption_channels", {config.caption_channels}, "text_encoder gives", {width})
        _equal("cross_attention_dim", {config.cross_attention_dim}, "its tokens have", {config.width})


def _check_aura_flow(layout: Layout, config: AuraFlowConfig) -> None:
    width = layout.config("text_encoder", UMT5Config).width
    _equal("joint_attention_dim", {config.joint_attention_dim}, "text_encoder gives", {width})


def _check_flux_2(layout: Layout, config: Flux2Config) -> None:
    model = layout.config("text_encoder", Qwen3Config)
    if model.num_hidden_layers < max(KLEIN_LAYERS):
        raise ModelError(
            f"text_encoder has {model.num_hidden_layers} layers, of which {layout.pipeline} takes {KLEIN_LAYERS}",
            expected=f"at least {max(KLEIN_LAYERS)} layers",
        )
    given = len(KLEIN_LAYERS) * model.width
    _equal("joint_attention_dim", {config.joint_attention_dim}, "text_encoder gives", {given})


def _check_sd3(layout: Layout, config: SD3Config) -> None:
    encoders = _clips(layout)
    pooled = sum(encoder.projection_dim or 0 for encoder in encoders)
    _equal("pooled_projection_dim", {config.pooled_projection_dim}, "the text encoders give", {pooled})
    if "text_encoder_3" in layout.components:
        width = layout.config("text_encoder_3", T5Config).width
        _equal("joint_attention_dim", {config.joint_attention_dim}, "text_encoder_3 gives", {width})
    width = sum(encoder.width for encoder in encoders)
    if width > config.joint_attention_dim:
        raise ModelError(
            f"the CLIP encoders give {width} channels, the transformer takes {config.joint_attention_dim}",
            expected="at most as many",
        )


def _check_z_image(layout: Layout, config: ZImageConfig) -> None:
    width = layout.config("text_encoder", Qwen3Config).width
    _equal("cap_feat_dim", {config.cap_feat_dim}, "text_encoder gives", {width})


def _check_lumina_2(layout: Layout, config: Lumina2Config) -> None:
    width = layout.config("text_encoder", Gemma2Config).width
    _equal("cap_feat_dim", {config.cap_feat_dim}, "text_encoder gives", {width})


def _check_sana(layout: Layout, config: SanaConfig) -> None:
    width = layout.config("text_encoder", Gemma2Config).width
    _equal("caption_channels", {config.caption_channels}, "text_encoder gives", {width})


def _check_qwen_image(layout: Layout, config: QwenImageConfig) -> None:
    width = layout.config("text_encoder", Qwen25VLConfig).width
    _equal("joint_attention_dim", {config.joint_attention_dim}, "text_encoder gives", {width})


_CHECKS: Final[Mapping[type, Callable[[Layout, Any], None]]] = {
    UNetConditionConfig: _check_unet,
    SD3Config: _check_sd3,
    FluxConfig: _check_flux,
    ChromaConfig: _check_chroma,
    AuraFlowConfig: _check_aura_flow,
    PixArtConfig: _check_pixart,
    OldPixArtConfig: _check_pixart,
    Flux2Config: _check_flux_2,
    ZImageConfig: _check_z_image,
    QwenImageConfig: _check_qwen_image,
    Lumina2Config: _check_lumina_2,
    SanaConfig: _check_sana,
}
"""Configuration of a denoiser that a prompt conditions -> what must agree with its text encoders."""


def _clips(layout: Layout) -> list[CLIPTextConfig]:
    configs = (component.config for _, component in sorted(layout.components.items()))
    return [config for config in configs if isinstance(config, CLIPTextConfig)]


def _equal(key: str, stated: Set[object], who: str, given: Set[object]) -> None:
    if stated != given:
        left, right = (" and ".join(sorted(str(item) for item in items)) for items in (stated, given))
        raise ModelError(
            f"the denoiser's {key} is {left}, {who} {right}",
            expected="parts of one checkpoint",
            do="save the pipeline again with the text encoders that it was trained with",
        )
