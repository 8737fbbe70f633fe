"""How each pipeline of diffusers draws when its user names neither steps nor guidance."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from invmm_gate.core.settings import InversionSettings


@dataclass(frozen=True, slots=True)
class UsualDraw:
    """The defaults of a pipeline's call."""

    steps: int
    guidance_scale: float = 1.0
    """In the gate's terms, where 1 is the conditional estimate; 1 for a pipeline without guidance."""


USUAL_DRAWS: Final[Mapping[str, UsualDraw]] = {
    "DDPMPipeline": UsualDraw(1000),
    "DDIMPipeline": UsualDraw(50),
    "LDMPipeline": UsualDraw(50),
    "DiTPipeline": UsualDraw(50, 4.0),
    "LDMTextToImagePipeline": UsualDraw(50),
    "StableDiffusionPipeline": UsualDraw(50, 7.5),
    "LatentConsistencyModelPipeline": UsualDraw(4, 8.5),
    "StableDiffusionXLPipeline": UsualDraw(50, 5.0),
    "StableDiffusion3Pipeline": UsualDraw(28, 7.0),
    "FluxPipeline": UsualDraw(28, 3.5),
    "ChromaPipeline": UsualDraw(35, 5.0),
    "PixArtAlphaPipeline": UsualDraw(20, 4.5),
    "PixArtSigmaPipeline": UsualDraw(20, 4.5),
    "AuraFlowPipeline": UsualDraw(50, 3.5),
    "Flux2KleinPipeline": UsualDraw(50, 4.0),
    "QwenImagePipeline": UsualDraw(50, 4.0),
    "Lumina2Pipeline": UsualDraw(30, 4.0),
    "SanaPipeline": UsualDraw(20, 4.5),
    "ZImagePipeline": UsualDraw(50, 6.0),  # the pipeline says 5, and its 0 is the conditional estimate
}
"""Pipeline -> its defaults. Source: the signatures of diffusers 0.42.1; distilled models are drawn in fewer steps."""


def drawn_as_usual(settings: InversionSettings, pipeline: str, given: Mapping[str, Any]) -> InversionSettings:
    """Under `sampler: released`, steps and scales that nobody gave are the pipeline's own, beside the scale of 1."""
    usual = USUAL_DRAWS.get(pipeline)
    if settings.sampler == "grid" or usual is None:
        return settings
    scales = tuple(dict.fromkeys((1.0, usual.guidance_scale)))
    return replace(
        settings,
        sampler_steps=settings.sampler_steps if "sampler_steps" in given else usual.steps,
        guidance_scales=settings.guidance_scales if "guidance_scales" in given else scales,
    )
