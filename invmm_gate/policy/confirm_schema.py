"""How a policy has probes confirmed: plain sampling, captions, and a search for a prompt."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, model_validator

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.marks import LOWER, MISSING, OTHER, PART, ranked
from invmm_gate.core.run_records import ConfirmPlan
from invmm_gate.core.settings import GcgPlan
from invmm_gate.files.strict_model import StrictModel
from invmm_gate.policy.field_types import Number, Whole

Scale = Annotated[Number, Field(gt=0, le=100)]


class PlainSampling(StrictModel):
    """Confirmation by plain sampling: `trials` samples from N(0, I) for each probe."""

    trials: Annotated[Whole, Field(ge=1, le=1_000_000), LOWER]
    """Samples in all: each one is held against every probe."""
    sampler_steps: Annotated[Whole, Field(ge=1, le=1_000), OTHER] = 50
    """Steps of the sampler for one sample."""
    confidence: Annotated[Number, Field(ge=0.5, lt=1), OTHER] = 0.95
    """The confidence of the interval around the rate of copies."""
    probes: Annotated[Literal["all", "flagged"], ranked("all", "flagged")] = "all"
    """`all`: every probe that is no control; `flagged`: those that another rule found."""


class GcgSearch(StrictModel):
    """Search for a prompt that a user could type, by greedy coordinate gradient.

    It is made for probes that another rule found, and where it is made, for a few controls.
    """

    tokens: Annotated[Whole, Field(ge=1, le=1_000), LOWER] = 20
    """Tokens of the prompt."""
    steps: Annotated[Whole, Field(ge=1, le=100_000), LOWER] = 500
    """Steps of the search."""
    candidates: Annotated[Whole, Field(ge=1, le=10_000), LOWER] = 128
    """Prompts that are tried at each step."""
    top_k: Annotated[Whole, Field(ge=1, le=100_000), OTHER] = 256
    """Tokens that a position may change to: those with the lowest gradient."""
    noises: Annotated[Whole, Field(ge=1, le=1_000), LOWER] = 16
    """Draws of timestep and noise that the prompts of a step share."""
    max_evaluations: Annotated[Annotated[Whole, Field(ge=1)] | None, LOWER] = None
    """Network forwards of one probe's search; None = as many as the steps take."""
    controls: Annotated[Whole, Field(ge=0, le=10_000), LOWER] = 4
    """Controls that the search is made on too, wherever it is made: a hit there leaves the run open. 0 = none."""


class PromptConfirmation(StrictModel):
    """Confirmation of text-to-image models: captions first, then prompts found for the cluster, then a search."""

    trials: Annotated[Whole, Field(ge=1, le=1_000_000), LOWER] = 64
    """Samples of a prompt at each guidance scale."""
    sampler_steps: Annotated[Whole, Field(ge=1, le=1_000), OTHER] = 50
    """Steps of the sampler for one sample."""
    confidence: Annotated[Number, Field(ge=0.5, lt=1), OTHER] = 0.95
    """The confidence of the interval around the rate of copies."""
    guidance_scales: Annotated[tuple[Scale, ...], Field(min_length=1), MISSING] = (1.0, 7.0)
    """Tried in order, up to the first copy: what the prompt itself brings out (1), and what users commonly set (7)."""
    probes: Annotated[Literal["all", "flagged"], ranked("all", "flagged")] = "all"
    """Whose captions are tried: `all` (of a control with 8 trials at most), or those that another rule found."""
    gcg: Annotated[GcgSearch | None, PART] = None
    """The search for a prompt; None = no search."""

    @model_validator(mode="after")
    def _affords_a_step(self) -> "PromptConfirmation":
        try:
            plan = self.search_plan(rows=1)
            if plan is not None:
                plan.refuse_small_budget(lambda steps, _: steps)  # the least that any model and sampler take
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def search_plan(self, *, rows: int) -> GcgPlan | None:
        """The search, what a policy cannot name as `GcgPlan` has it; None where none is asked for."""
        if self.gcg is None:
            return None
        given: dict[str, Any] = self.gcg.model_dump(exclude={"controls"})
        return GcgPlan(
            **given,
            first_noises=min(GcgPlan().first_noises, self.gcg.noises),
            guidance_scales=self.guidance_scales,
            sampler_steps=self.sampler_steps,
            trials=self.trials,
            confidence=self.confidence,
            rows=rows,
        )


class LikelihoodEstimate(StrictModel):
    """How likely an ordinary generation is a copy: estimated for each probe that was copied at least once."""

    # One for each distribution that they come from (measure/proposals.py).
    draws: Annotated[Whole, Field(ge=5, le=1_000_000), LOWER] = 128
    """Draws around the inverted distribution of a probe."""
    plain_draws: Annotated[Whole, Field(ge=1, le=1_000_000), LOWER] = 2048
    """Plain samples of a model without prompts, drawn once for all probes, where one of them was copied at all. With
    prompts, each prompt has as many as `prompts.trials`."""
    confidence: Annotated[Number, Field(ge=0.5, lt=1), OTHER] = 0.95
    """The confidence of the lower and the upper bound together."""


class ConfirmChoice(StrictModel):
    """How probes are confirmed."""

    plain_sampling: Annotated[PlainSampling | None, PART] = None
    """For models without prompts."""
    prompts: Annotated[PromptConfirmation | None, PART] = None
    """For text-to-image models, and by labels for class-conditional ones."""
    likelihood: Annotated[LikelihoodEstimate | None, PART] = None
    """For probes that were copied at least once; None = nothing is estimated."""

    def plan(self) -> ConfirmPlan:
        """The plan as the records of a run hold it."""
        return _PLAN.validate_python(self.model_dump())


_PLAN: Final = TypeAdapter(ConfirmPlan)
