"""Signs that a checkpoint was distilled to be drawn in a few steps of its own scheduler."""

from collections.abc import Iterator
from typing import Final

from invmm_gate.models.read.checkpoint_layout import Layout
from invmm_gate.models.read.transformer_configs import FluxConfig

_MADE_FOR_IT: Final = frozenset({"LCMScheduler", "TCDScheduler"})
_OF_TURBO_MODELS: Final = frozenset({"EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"})
"""With trailing timesteps, as the published SD-Turbo, SDXL-Turbo and SDXL-Lightning have them."""


def few_steps_notes(layout: Layout) -> tuple[str, ...]:
    """A sentence for the report where there are such signs. No folder says for sure in how many steps users draw."""
    signs = " and ".join(_signs(layout))
    if not signs:
        return ()
    return (
        f"The checkpoint may be distilled ({signs}): what its users draw in a few steps is measured by a policy with "
        "measure.settings.sampler released and as few sampler_steps, in measure.settings and in confirm.prompts.",
    )


def _signs(layout: Layout) -> Iterator[str]:
    if layout.pipeline == "LatentConsistencyModelPipeline":
        yield layout.pipeline
    scheduler, spacing = layout.scheduler.scheduler, layout.scheduler_content.get("timestep_spacing")
    if scheduler in _MADE_FOR_IT:
        yield scheduler
    if scheduler in _OF_TURBO_MODELS and spacing == "trailing":
        yield f"{scheduler} with trailing timesteps"
    if layout.settings.get("is_distilled"):
        yield "is_distilled"
    denoiser = layout.components[layout.denoiser].config
    if isinstance(denoiser, FluxConfig) and not denoiser.guidance_embeds:
        yield "a FLUX.1 network without guidance_embeds, as schnell"
