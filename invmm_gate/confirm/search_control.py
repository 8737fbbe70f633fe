"""Does the prompt search find a prompt where there is one? A closed-form model holds it; the plan is the run's own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.confirm.gcg import PromptTarget, Searched, find_prompt
from invmm_gate.confirm.plain_sampling import Confirmed
from invmm_gate.confirm.prompt_objective import can_be_typed, survives
from invmm_gate.confirm.prompt_sampling import Attempts
from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.protocols import CopyMetric, DiffusionModel, PromptEncoder, Sampler
from invmm_gate.core.records import SelfCheck
from invmm_gate.core.settings import GcgPlan
from invmm_gate.diffusion.planted import LURES, TRIGGERS, CopyOfPlanted, PlantedText, planted_text
from invmm_gate.diffusion.samplers import GridSampler, prompts_of

SEARCH_CONTROL: Final = "search_control"
STEPS: Final = 60
"""Fifteen times as many as the plan of `strict` takes with CLIP's vocabulary; all of them take seconds of a core."""
_SEED: Final = 1
"""The control's own, as that of the positive control."""
_MODEL: Final = "a closed-form text model"
_BLIND: Final = (
    ", so what this search does not find says nothing: look at confirm.prompts in the policy (gcg, guidance_scales,"
    " sampler_steps), at the copy threshold, and at the checkpoint's tokenizer"
)


def planted_words(prompts: PromptEncoder) -> tuple[int, ...]:
    """Ids of the trigger words, which can be typed together, and then of the lures: a fixed key draws them.

    Fewer lures where fewer tokens can be typed. Raises MeasurementError where there are too few for the triggers.
    """
    found = tuple(islice(_typeable_in_turn(prompts), TRIGGERS + LURES))
    if len(found) < TRIGGERS:
        raise MeasurementError(
            f"{len(found)} tokens of the vocabulary can be typed together",
            expected=f"at least {TRIGGERS}, of which the controls of prompts are made",
            do="check the checkpoint's tokenizer files",
        )
    return found


def planted_prompts(model: DiffusionModel, *, lures: bool) -> PlantedText:
    """A closed-form model with the tokenizer, schedule, image size and device of this one.

    For soft prompts it must have no lures: a mixture of words holds what these promise.
    Raises MeasurementError where too few tokens can be typed.
    """
    prompts = prompts_of(model)
    words = planted_words(prompts)
    return planted_text(
        prompts,
        words if lures else words[:TRIGGERS],
        model.schedule,
        image_size=model.image_size,
        device=model.device,
        generator=torch.Generator().manual_seed(_SEED),
    )


def _typeable_in_turn(prompts: PromptEncoder) -> Iterator[int]:
    triggers: list[int] = []
    order = torch.randperm(prompts.vocabulary, generator=torch.Generator().manual_seed(_SEED)).tolist()
    for token in order:
        if not can_be_typed(prompts, token):
            continue
        if len(triggers) < TRIGGERS:
            if not survives(prompts, [*triggers, token]):
                continue
            triggers.append(token)
        yield token


def search_control(
    metric: CopyMetric, plan: GcgPlan, planted: PlantedText, *, cost: Sampler, allowed: Int[Tensor, " choice"]
) -> SelfCheck:
    """Within `STEPS` steps, the search must find a prompt that brings out the planted pattern.

    Tokens, candidates, noises, scales and budget are the plan's; a sample costs what one of `cost` does. Value: the
    step at which the prompt was found.
    """
    try:
        step, found = _search(CopyOfPlanted(metric=metric, model=planted.model), plan, planted, cost, allowed)
    except MeasurementError as error:
        return _check(None, f"the search for a prompt of {_MODEL} broke ({error})")
    if not found.confirmation.hits:
        return _check(None, f"in {step} steps the search found no prompt that brings out what {_MODEL} memorizes")
    said = f"at step {step}, among {len(allowed)} of {planted.model.prompts.vocabulary} tokens that can be typed"
    return _check(float(step), f"the search found a prompt that brings out what {_MODEL} memorizes {said}")


def _check(value: float | None, detail: str) -> SelfCheck:
    passed = value is not None
    return SelfCheck(name=SEARCH_CONTROL, passed=passed, detail=detail + ("" if passed else _BLIND), value=value)


def _search(
    metric: CopyMetric, plan: GcgPlan, planted: PlantedText, cost: Sampler, allowed: Tensor
) -> tuple[int, Confirmed]:
    """The last step, and what was found."""
    events = find_prompt(
        planted.model,
        Attempts(sampler=_AtCost(GridSampler(planted.model), cost), prompts=planted.model.prompts, metric=metric),
        PromptTarget(
            probe=SEARCH_CONTROL,
            image=planted.image,
            references=(metric.embed(planted.image[None].to(planted.model.device)),),
        ),
        replace(plan, steps=min(STEPS, plan.steps)),
        generator=torch.Generator().manual_seed(_SEED),
        allowed=allowed,
    )
    step = 0
    for event in events:
        if isinstance(event, Searched):
            step = event.step
        elif isinstance(event, Confirmed):
            found = event
    return step, found


@final
@dataclass(frozen=True, slots=True, eq=False)
class _AtCost:
    """Draws as one sampler does, and counts as another: so a budget pays for as many steps as in the run."""

    draws: Sampler
    counts: Sampler

    @property
    def name(self) -> str:
        """That which draws."""
        return self.draws.name

    def forwards(self, *, steps: int, guidance_scale: float = 1.0) -> int:
        """Of the one that counts."""
        return self.counts.forwards(steps=steps, guidance_scale=guidance_scale)

    def images(
        self,
        streams: Sequence[torch.Generator],
        *,
        steps: int,
        prompt: str | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row 3 image_height image_width"]:
        """Of the one that draws."""
        return self.draws.images(streams, steps=steps, prompt=prompt, guidance_scale=guidance_scale)
