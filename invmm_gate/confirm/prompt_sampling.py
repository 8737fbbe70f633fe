"""Confirmation by a prompt that is at hand: the probe's caption, or what was found for another probe of its cluster."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from invmm_gate.confirm.counting import CopyCount, Input, References, count_copies, sampled_images
from invmm_gate.confirm.plain_sampling import Confirmed, Sampled, looks
from invmm_gate.core.errors import ConfigError
from invmm_gate.core.intervals import wilson
from invmm_gate.core.protocols import CopyMetric, LabelEncoder, PromptEncoder, Sampler, Streams
from invmm_gate.core.records import Confirmation

PromptMethod = Literal[
    "caption", "caption_on_grid", "cluster_prompt", "gcg", "label", "label_on_grid", "label_search"
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPlan:
    """How often a prompt is tried."""

    trials: int = 64
    """Fresh seeds at each guidance scale."""
    sampler_steps: int = 50
    guidance_scales: tuple[float, ...] = (1.0, 7.0)
    """Tried in order; a probe is done at the first scale that replicates it."""
    confidence: float = 0.95
    """The confidence of all looks at all scales (Bonferroni): neither stopping nor choosing a scale costs coverage."""
    rows: int = 32

    def __post_init__(self) -> None:
        """Raises ConfigError for a plan that tries nothing."""
        if min(self.trials, self.sampler_steps, self.rows) < 1 or not self.guidance_scales:
            raise ConfigError("a prompt would never be tried", expected="at least one trial, step, row and scale")

    @property
    def samples(self) -> int:
        """The samples of one prompt at all scales, where none is a copy."""
        return self.trials * len(self.guidance_scales)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attempts:
    """What every prompt is tried with."""

    sampler: Sampler
    prompts: PromptEncoder | LabelEncoder
    metric: CopyMetric

    @property
    def texts(self) -> PromptEncoder:
        """The text side. Raises ConfigError for a model that is given labels."""
        if isinstance(self.prompts, LabelEncoder):
            raise ConfigError("a class-conditional model takes no prompt", expected="a text-to-image model")
        return self.prompts


def replication_of_prompt(
    attempts: Attempts,
    references: References,
    prompt: str,
    plan: PromptPlan,
    *,
    method: PromptMethod,
    streams: Streams,
) -> Iterator[Confirmed | Sampled]:
    """Sample with the prompt, and give out each probe once it was replicated or all seeds are spent.

    The samples are the same for all probes: a prompt found for one is tried on its whole cluster at once. `confirmed`
    = a copy was made, as a user would; `refuted` = none within these seeds. The record's hits, trials and interval
    are those of one guidance scale: the one that replicated the probe, else the one that came closest; its
    evaluations are those of all scales. Raises MeasurementError for NaN or infinity.
    """
    waiting: dict[str, Confirmed | None] = dict.fromkeys(references)
    for scale in plan.guidance_scales:
        given = Input(prompt=prompt, guidance_scale=scale)
        blank = _blank(attempts, given, plan, method=method)
        wanted = {probe: references[probe] for probe in waiting}
        answers = yield from _at_scale(attempts, wanted, given, blank, plan=plan, streams=streams)
        for answer in answers:
            probe = answer.confirmation.probe
            best = better(attempts.metric, waiting[probe], answer)
            waiting[probe] = best
            if best.confirmation.hits:
                del waiting[probe]
                yield best
    yield from (answer for answer in waiting.values() if answer is not None)


def _blank(attempts: Attempts, given: Input, plan: PromptPlan, *, method: PromptMethod) -> Confirmation:
    """The record of this prompt at this scale before a sample is drawn; its evaluations are those of one sample."""
    sampler, prompts, prompt = attempts.sampler, attempts.prompts, given.prompt or ""
    said: dict[str, Any] = (
        {"label": int(prompt)}
        if isinstance(prompts, LabelEncoder)
        else {"prompt": prompt, "token_ids": prompts.tokenize(prompt)[: prompts.positions]}
    )
    confidence = 1 - (1 - plan.confidence) / (len(looks(plan.trials)) * len(plan.guidance_scales))
    return Confirmation(
        probe="",
        method=method,
        sampler=f"{sampler.name}, {plan.sampler_steps} steps",
        status="refuted",
        hits=0,
        trials=0,
        interval=wilson(0, 0, confidence=confidence),
        evaluations=sampler.forwards(steps=plan.sampler_steps, guidance_scale=given.guidance_scale),
        closest=None,
        guidance_scale=given.guidance_scale,
        **said,
    )


def _at_scale(
    attempts: Attempts,
    references: References,
    given: Input,
    blank: Confirmation,
    *,
    plan: PromptPlan,
    streams: Streams,
) -> Generator[Sampled, None, list[Confirmed]]:
    """One answer a probe, from its first look with a copy or the last look."""
    counts = {probe: CopyCount() for probe in references}
    answers = []
    for start, end in pairwise((0, *looks(plan.trials))):
        for first in range(start, end, plan.rows) if counts else ():
            numbers = range(first, min(first + plan.rows, end))
            images = sampled_images(
                attempts.sampler, given, numbers, rows=plan.rows, steps=plan.sampler_steps, streams=streams
            )
            count_copies(attempts.metric, images, references, counts)
            yield Sampled(len(numbers))
        for probe in [probe for probe, count in counts.items() if count.hits or end == plan.trials]:
            tried = replace(blank, probe=probe, trials=end, evaluations=end * blank.evaluations)
            answers.append(_answer(tried, counts.pop(probe)))
    return answers


def _answer(record: Confirmation, count: CopyCount) -> Confirmed:
    record = replace(
        record,
        status="confirmed" if count.hits else "refuted",
        hits=count.hits,
        interval=wilson(count.hits, record.trials, confidence=record.interval.confidence),
        closest=count.closest,
        alignment=count.alignment,
    )
    return Confirmed(confirmation=record, copies=tuple(count.copies))


def better(metric: CopyMetric, before: Confirmed | None, now: Confirmed) -> Confirmed:
    """The answer to report of two at different scales, or under different labels, with the evaluations of both."""
    if before is None:
        return now
    values = [answer.confirmation.closest or 0.0 for answer in (before, now)]
    nearer = values[1] > values[0] if metric.higher_is_copy else values[1] < values[0]
    chosen = now if now.confirmation.hits or nearer else before
    evaluations = before.confirmation.evaluations + now.confirmation.evaluations
    return replace(chosen, confirmation=replace(chosen.confirmation, evaluations=evaluations))
