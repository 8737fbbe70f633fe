"""Confirmation without prompts: does the model make the probe by itself, from N(0, I)?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from invmm_gate.confirm.counting import CopyCount, Input, References, count_copies, sampled_images
from invmm_gate.core.intervals import clopper_pearson
from invmm_gate.core.protocols import CopyMetric, Sampler, Streams
from invmm_gate.core.records import PLAIN_SAMPLING, Confirmation, ConfirmationStatus

_FIRST_LOOK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """How much to sample, and the question that ends it."""

    trials: int
    sampler_steps: int
    rate_limit: float
    """The probe is confirmed when the lower bound of its replication rate exceeds this."""
    confidence: float = 0.95
    """The confidence of all looks together: each takes its part (Bonferroni), so stopping early costs no coverage."""
    rows: int = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Confirmed:
    """One probe's confirmation, with up to four generated copies in [-1, 1]."""

    confirmation: Confirmation
    copies: tuple[Float[Tensor, "3 image_height image_width"], ...]


@dataclass(frozen=True, slots=True)
class Sampled:
    """Progress: samples drawn since the last such event."""

    samples: int


def looks(trials: int) -> tuple[int, ...]:
    """Numbers of samples after which the question is asked: 64, 128, 256, .. and `trials`."""
    marks = []
    mark = _FIRST_LOOK
    while mark < trials:
        marks.append(mark)
        mark *= 2
    return (*marks, trials)


def confirm_by_sampling(
    sampler: Sampler,
    metric: CopyMetric,
    references: References,
    plan: SamplingPlan,
    *,
    streams: Streams,
    method: str = PLAIN_SAMPLING,
) -> Iterator[Confirmed | Sampled]:
    """Draw samples, the same for all probes, and give out each probe once its question is answered.

    `references` maps a probe to the metric's features of its image (and of its mirror image, where that counts too).
    """
    marks = looks(plan.trials)
    blank = _blank(sampler, plan, method=method)
    confidence = 1 - (1 - plan.confidence) / len(marks)
    counts = {probe: CopyCount() for probe in references}
    for start, end in pairwise((0, *marks)):
        for first in range(start, end, plan.rows):
            numbers = range(first, min(first + plan.rows, end))
            images = sampled_images(
                sampler, Input(), numbers, rows=plan.rows, steps=plan.sampler_steps, streams=streams
            )
            count_copies(metric, images, references, counts)
            yield Sampled(len(numbers))
        for probe in tuple(counts):
            answer = _answer(replace(blank, probe=probe, trials=end), counts[probe], plan, confidence)
            if answer.status != "undecided" or end == plan.trials:
                yield Confirmed(confirmation=_at_the_end(answer), copies=tuple(counts.pop(probe).copies))
        if not counts:
            return


def _blank(sampler: Sampler, plan: SamplingPlan, *, method: str) -> Confirmation:
    """The record before a sample is drawn; its evaluations are those of one sample."""
    return Confirmation(
        probe="",
        method=method,
        sampler=f"{sampler.name}, {plan.sampler_steps} steps",
        status="undecided",
        hits=0,
        trials=0,
        interval=clopper_pearson(0, 1, confidence=plan.confidence),
        evaluations=sampler.forwards(steps=plan.sampler_steps),
        closest=None,
    )


def _answer(blank: Confirmation, count: CopyCount, plan: SamplingPlan, confidence: float) -> Confirmation:
    interval = clopper_pearson(count.hits, blank.trials, confidence=confidence)
    status: ConfirmationStatus = "undecided"
    if interval.low > plan.rate_limit:
        status = "confirmed"
    elif interval.high <= plan.rate_limit:
        status = "refuted"
    return replace(
        blank,
        status=status,
        hits=count.hits,
        interval=interval,
        evaluations=blank.trials * blank.evaluations,
        closest=count.closest,
        alignment=count.alignment,
    )


def _at_the_end(answer: Confirmation) -> Confirmation:
    """Within the budget, what was not confirmed is refuted; that is no proof of absence, and the report says so."""
    return replace(answer, status="refuted") if answer.status == "undecided" else answer
