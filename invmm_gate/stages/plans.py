"""From the policy's confirmation to the plan of its captions."""

from invmm_gate.confirm.prompt_sampling import PromptPlan
from invmm_gate.core.records import Probe
from invmm_gate.policy.confirm_schema import PromptConfirmation
from invmm_gate.policy.controls import caption_trials


def prompt_plan(plan: PromptConfirmation, *, rows: int, trials: int | None = None) -> PromptPlan:
    """How captions, and prompts that were found, are tried; `trials`: other than the policy's."""
    return PromptPlan(
        trials=trials or plan.trials,
        sampler_steps=plan.sampler_steps,
        guidance_scales=plan.guidance_scales,
        confidence=plan.confidence,
        rows=min(rows, trials or plan.trials),  # more would be drawn and thrown away
    )


def caption_plan(plan: PromptConfirmation, probe: Probe, *, rows: int) -> PromptPlan:
    """How a probe's own caption is tried: fewer samples for a control."""
    return prompt_plan(plan, rows=rows, trials=caption_trials(plan) if probe.group == "control" else None)
