"""Which text encoders read a probe's caption while its score is made. A score depends on no other caption.

And of which captions pipelines make another prompt.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from invmm_gate.core.records import ModelManifest
from invmm_gate.core.run_records import RunRecord
from invmm_gate.core.settings import InversionSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoders:
    """The text encoders of a pipeline."""

    soft: tuple[str, ...]
    """Those that read the tokens of soft prompts; the first one's tokens they are."""
    others: tuple[str, ...] = ()
    """Those that read other tokens: they see soft prompts of words that each encoder reads as one token, or none."""


ENCODERS: Final[Mapping[str, TextEncoders]] = {
    "LDMTextToImagePipeline": TextEncoders(soft=("bert",)),
    "StableDiffusionPipeline": TextEncoders(soft=("text_encoder",)),
    "LatentConsistencyModelPipeline": TextEncoders(soft=("text_encoder",)),
    "StableDiffusionXLPipeline": TextEncoders(soft=("text_encoder", "text_encoder_2")),
    "StableDiffusion3Pipeline": TextEncoders(soft=("text_encoder", "text_encoder_2"), others=("text_encoder_3",)),
    "ZImagePipeline": TextEncoders(soft=("text_encoder",)),
    "Flux2KleinPipeline": TextEncoders(soft=("text_encoder",)),
    "ChromaPipeline": TextEncoders(soft=("text_encoder",)),
    "PixArtAlphaPipeline": TextEncoders(soft=("text_encoder",)),
    "PixArtSigmaPipeline": TextEncoders(soft=("text_encoder",)),
    "AuraFlowPipeline": TextEncoders(soft=("text_encoder",)),
    "Lumina2Pipeline": TextEncoders(soft=("text_encoder",)),
    "SanaPipeline": TextEncoders(soft=("text_encoder",)),
    "QwenImagePipeline": TextEncoders(soft=("text_encoder",)),
    "FluxPipeline": TextEncoders(soft=("text_encoder_2",), others=("text_encoder",)),
}
"""Pipeline -> its text encoders. A pipeline that is not named takes no prompts."""
T5: Final = "text_encoder_3"
"""T5 of Stable Diffusion 3, without which a checkpoint may come."""


_REWRITING: Final = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
"""Pipelines that rewrite a prompt where the packages bs4 and ftfy are installed, unless told clean_caption=False."""
_WORD: Final = r"(?:[a-z]+(?:['-][a-z]+)*|\d{1,5})"
_PLAIN: Final = re.compile(rf"(?:{_WORD}(?:,? {_WORD})*\.?)?", re.ASCII)
_CUT_OUT: Final = re.compile(r"shipping|download|\bclick\b|\bpage\b|\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)")
_MOST_HYPHENS: Final = 3


def may_be_rewritten(pipeline: str, caption: str) -> bool:
    """Whether some users' pipeline may make another prompt of a caption than its small letters.

    False only where it is known: single blanks between words of a to z and numbers of up to five digits, commas, an
    end, and none of the words that are cut out. Source: `_clean_caption` of diffusers' PixArtAlphaPipeline.
    """
    text = caption.lower().strip()
    plain = _PLAIN.fullmatch(text) and not _CUT_OUT.search(text) and text.count("-") <= _MOST_HYPHENS
    return pipeline in _REWRITING and not plain


def caption_readers(pipeline: str, settings: InversionSettings, *, has_t5: bool) -> tuple[str, ...]:
    """Names of the text encoders that read the caption during an inversion; empty where the caption plays no part."""
    encoders = ENCODERS.get(pipeline)
    if settings.prompt == "none" or encoders is None:
        return ()
    others = _others(encoders, has_t5=has_t5)
    if settings.prompt == "caption":
        return encoders.soft + others
    if settings.other_prompt != "caption" or settings.soft_encoders == "all":
        return ()
    return (encoders.soft[1:] if settings.soft_encoders == "first" else ()) + others


def with_its_encoders(settings: InversionSettings, model: ModelManifest) -> InversionSettings:
    """For a checkpoint whose encoders all read one another's tokens, `soft_encoders: all` is `clip`, and called so."""
    encoders = ENCODERS.get(model.pipeline)
    if settings.soft_encoders != "all" or encoders is None or _others(encoders, has_t5=_has_t5(model)):
        return settings
    return replace(settings, soft_encoders="clip")


def readers_in(run: RunRecord) -> tuple[str, ...]:
    """Those who read the caption in a run, by its settings and the files of its checkpoint."""
    return caption_readers(run.inputs.pipeline, run.inputs.settings, has_t5=_has_t5(run.model))


def _others(encoders: TextEncoders, *, has_t5: bool) -> tuple[str, ...]:
    return tuple(name for name in encoders.others if name != T5 or has_t5)


def _has_t5(model: ModelManifest) -> bool:
    return any(file.path.startswith(f"{T5}/") for file in model.files)
