"""From the policy's confirmation to the plans of its parts."""

from typing import Any

from invmm_gate.confirm.gcg_plan import GcgPlan
from invmm_gate.confirm.prompt_sampling import PromptPlan
from invmm_gate.policy.schema import PromptConfirmation


def prompt_plan(plan: PromptConfirmation, *, rows: int) -> PromptPlan:
    """How captions, and prompts that were found, are tried."""
    return PromptPlan(
        trials=plan.trials,
        sampler_steps=plan.sampler_steps,
        guidance_scales=plan.guidance_scales,
        confidence=plan.confidence,
        rows=rows,
    )


def gcg_plan(plan: PromptConfirmation, *, rows: int) -> GcgPlan | None:
    """The policy's search, the rest as `GcgPlan` has it; None where the policy asks for none. Raises ConfigError."""
    if plan.gcg is None:
        return None
    given: dict[str, Any] = plan.gcg.model_dump()
    return GcgPlan(
        **given,
        first_noises=min(GcgPlan().first_noises, plan.gcg.noises),
        guidance_scales=plan.guidance_scales,
        sampler_steps=plan.sampler_steps,
        trials=plan.trials,
        confidence=plan.confidence,
        rows=rows,
    )
