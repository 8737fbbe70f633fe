"""Which text encoders read a probe's caption while its score is made. A score depends on no other caption."""

from collections.abc import Mapping
from typing import Final

from invmm_gate.core.run_records import RunRecord
from invmm_gate.core.settings import InversionSettings

ENCODERS: Final[Mapping[str, tuple[str, ...]]] = {
    "LDMTextToImagePipeline": ("bert",),
    "StableDiffusionPipeline": ("text_encoder",),
    "StableDiffusionXLPipeline": ("text_encoder", "text_encoder_2"),
    "StableDiffusion3Pipeline": ("text_encoder", "text_encoder_2", "text_encoder_3"),
}
"""Pipeline -> its text encoders. A pipeline that is not named takes no prompts."""
T5: Final = "text_encoder_3"
"""The only encoder that is no CLIP encoder: no soft prompt reaches it. A checkpoint may come without it."""


def caption_readers(pipeline: str, settings: InversionSettings, *, has_t5: bool) -> tuple[str, ...]:
    """Names of the text encoders that read the caption during an inversion; empty where the caption plays no part."""
    encoders = [name for name in ENCODERS.get(pipeline, ()) if name != T5 or has_t5]
    if settings.prompt == "none" or not encoders:
        return ()
    if settings.prompt == "caption":
        return tuple(encoders)
    if settings.other_prompt != "caption":
        return ()
    soft = encoders[:1] if settings.soft_encoders == "first" else [name for name in encoders if name != T5]
    return tuple(name for name in encoders if name not in soft)


def readers_in(run: RunRecord) -> tuple[str, ...]:
    """The same of a run, by its settings and the files of its checkpoint."""
    has_t5 = any(file.path.startswith(f"{T5}/") for file in run.model.files)
    return caption_readers(run.inputs.pipeline, run.inputs.settings, has_t5=has_t5)
