"""From the policy's confirmation to the plans of its parts."""

from typing import Any

from invmm_gate.confirm.gcg_plan import GcgPlan
from invmm_gate.confirm.prompt_sampling import PromptPlan
from invmm_gate.policy.controls import caption_trials
from invmm_gate.policy.schema import PromptConfirmation
from invmm_gate.records import Probe


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
