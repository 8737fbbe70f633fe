"""From the policy's confirmation to the plan of its captions."""

from invmm_gate.confirm.prompt_sampling import PromptPlan
from invmm_gate.policy.confirm_schema import PromptConfirmation


def prompt_plan(plan: PromptConfirmation, *, rows: int) -> PromptPlan:
    """How captions, and prompts that were found, are tried."""
    return PromptPlan(
        trials=plan.trials,
        sampler_steps=plan.sampler_steps,
        guidance_scales=plan.guidance_scales,
        confidence=plan.confidence,
        rows=rows,
    )
