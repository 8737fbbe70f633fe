"""Captions of a text-to-image run: what the model asks of policy and probe set, and how each caption is tried."""

from pathlib import Path

from invmm_gate.confirm.prompt_sampling import PromptPlan
from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.protocols import DiffusionModel, PromptEncoder, Sampler, text_side
from invmm_gate.core.records import Probe, ProbeSet
from invmm_gate.core.settings import InversionSettings
from invmm_gate.policy.confirm_schema import PromptConfirmation
from invmm_gate.policy.controls import caption_trials
from invmm_gate.policy.schema import Policy
from invmm_gate.probes.manifest import manifest_name


def require_confirmation(policy: Policy, model: DiffusionModel, sampler: Sampler) -> None:
    """Raises ConfigError for a search that cannot be run, ModelError for a scale or steps that the model cannot take.

    `sampler` draws the search's samples: what one costs decides whether a step fits into the budget.
    """
    sampled = policy.confirm.plain_sampling if model.prompts is None else policy.confirm.prompts
    if sampled is not None:
        sampler.forwards(steps=sampled.sampler_steps)
    choice = policy.confirm.prompts
    if text_side(model) is None or choice is None:
        return
    for scale in choice.guidance_scales:
        model.forwards(scale)
    plan = choice.search_plan(rows=1)
    if plan is not None:
        plan.refuse_small_budget(lambda steps, scale: sampler.forwards(steps=steps, guidance_scale=scale))


def check_captions(probe_set: ProbeSet, prompts: PromptEncoder | None, settings: InversionSettings) -> dict[str, int]:
    """Tokens that are cut off each caption beyond the tokenizer's limit, by probe id; empty if none are.

    Raises ProbeSetError, naming the line, for such a caption unless the policy truncates it, and for a probe without a
    caption where captions are what is measured.
    """
    if prompts is None:
        return {}
    beyond: dict[str, int] = {}
    for probe in probe_set.probes:
        if not probe.caption and settings.prompt == "caption":
            raise _refused(probe_set, probe, "has no caption", expected="a caption, as measure.settings.prompt says")
        tokens = len(prompts.tokenize(probe.caption))
        if tokens > prompts.positions:
            if settings.long_captions == "refuse":
                raise _refused(
                    probe_set,
                    probe,
                    f"has a caption of {tokens} tokens",
                    expected=f"at most {prompts.positions}, which the text encoder takes",
                    do="shorten it, or set measure.settings.long_captions to truncate",
                )
            beyond[probe.id] = tokens - prompts.positions
    return beyond


def prompt_plan(plan: PromptConfirmation, *, rows: int, trials: int | None = None) -> PromptPlan:
    """The plan by which captions, and prompts that were found, are tried; `trials`: other than the policy's."""
    return PromptPlan(
        trials=trials or plan.trials,
        sampler_steps=plan.sampler_steps,
        guidance_scales=plan.guidance_scales,
        confidence=plan.confidence,
        rows=min(rows, trials or plan.trials),  # more would be drawn and thrown away
    )


def caption_plan(plan: PromptConfirmation, probe: Probe, *, rows: int) -> PromptPlan:
    """The plan by which a probe's own caption is tried: fewer samples for a control."""
    return prompt_plan(plan, rows=rows, trials=caption_trials(plan) if probe.group == "control" else None)


def _refused(probe_set: ProbeSet, probe: Probe, what: str, *, expected: str, do: str = "") -> ProbeSetError:
    folder = Path(probe_set.folder)
    place = f"{folder / manifest_name(folder)}:{probe.line}"
    return ProbeSetError(f"{place}: probe {probe.id} {what}", expected=expected, do=do or "write one in the manifest")
