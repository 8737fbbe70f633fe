"""Confirmation of a class-conditional model: samples under one label after the other, until one is a copy."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from invmm_gate.confirm.plain_sampling import Confirmed, Sampled
from invmm_gate.confirm.prompt_sampling import Attempts, PromptMethod, PromptPlan, better, replication_of_prompt
from invmm_gate.core.protocols import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPlan:
    """The labels to try of a probe, and how much."""

    labels: tuple[int, ...]
    """In the order in which they are tried."""
    each: PromptPlan
    """How each label is tried. The labels share the error: choosing the best of them costs no coverage."""
    most: int
    """Labels that are tried at most; the others are left, and the probe is then never called refuted."""
    max_evaluations: int | None = None
    """Network forwards: no label but the first begins that could go beyond. None = no limit."""

    def cost(self, attempts: Attempts) -> int:
        """Network forwards of a label of which no sample is a copy."""
        scales, steps = self.each.guidance_scales, self.each.sampler_steps
        return self.each.trials * sum(attempts.sampler.forwards(steps=steps, guidance_scale=scale) for scale in scales)

    def tried(self, attempts: Attempts) -> tuple[int, ...]:
        """The labels that there is room for; the first one always, so that there is a record."""
        room = self.most
        if self.max_evaluations is not None:
            room = min(room, self.max_evaluations // self.cost(attempts))
        return self.labels[: max(room, 1)]


def replication_of_labels(
    attempts: Attempts,
    probe: str,
    references: Sequence[Float[Tensor, "1 feature"]],
    plan: LabelPlan,
    *,
    method: PromptMethod,
    streams: Callable[[int], Streams],
) -> Iterator[Confirmed | Sampled]:
    """Sample under each label in turn; one answer, from the first label with a copy, else from the closest one.

    `streams` gives the random streams of a label. Without a copy the outcome is `refuted` where every label was tried,
    else `undecided`, and `labels_left` counts the others. The evaluations are those of all labels. Raises
    MeasurementError for NaN or infinity.
    """
    tried = plan.tried(attempts)
    each = replace(plan.each, confidence=1 - (1 - plan.each.confidence) / len(tried))
    best: Confirmed | None = None
    for label in tried:
        events = replication_of_prompt(
            attempts, {probe: references}, str(label), each, method=method, streams=streams(label)
        )
        for event in events:
            if isinstance(event, Confirmed):
                best = better(attempts.metric, best, event)
            else:
                yield event
        if best is not None and best.confirmation.hits:
            break
    if best is not None:
        yield _answer(best, left=len(plan.labels) - len(tried))


def _answer(best: Confirmed, *, left: int) -> Confirmed:
    if best.confirmation.hits or not left:
        return best
    return replace(best, confirmation=replace(best.confirmation, status="undecided", labels_left=left))
