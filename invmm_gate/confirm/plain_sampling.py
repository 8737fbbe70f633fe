"""Confirmation without prompts: does the model make the probe by itself, from N(0, I)?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.diffusion.sampling import sample
from invmm_gate.errors import MeasurementError
from invmm_gate.intervals import clopper_pearson
from invmm_gate.protocols import CopyMetric, DiffusionModel
from invmm_gate.records import Confirmation, ConfirmationStatus

_FIRST_LOOK = 64
_COPIES_KEPT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """How much to sample, and the question that ends it."""

    trials: int
    sampler_steps: int
    rate_limit: float
    """The probe is confirmed when the lower bound of its replication rate exceeds this."""
    confidence: float = 0.95
    """Of all looks together: each look takes its part (Bonferroni), so stopping early does not cost coverage."""
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


@dataclass(slots=True, eq=False)
class _Count:
    hits: int = 0
    closest: float | None = None
    copies: list[Tensor] = field(default_factory=list)


def looks(trials: int) -> tuple[int, ...]:
    """Numbers of samples after which the question is asked: 64, 128, 256, .. and `trials`."""
    marks = []
    mark = _FIRST_LOOK
    while mark < trials:
        marks.append(mark)
        mark *= 2
    return (*marks, trials)


def confirm_by_sampling(
    model: DiffusionModel,
    metric: CopyMetric,
    references: Mapping[str, Sequence[Float[Tensor, "1 feature"]]],
    plan: SamplingPlan,
    *,
    generator: torch.Generator,
) -> Iterator[Confirmed | Sampled]:
    """Draw samples, the same for all probes, and give out each probe once its question is answered.

    `references` maps a probe to the metric's features of its image (and of its mirror image, where that counts too).
    """
    marks = looks(plan.trials)
    confidence = 1 - (1 - plan.confidence) / len(marks)
    counts = {probe: _Count() for probe in references}
    for start, end in pairwise((0, *marks)):
        for first in range(start, end, plan.rows):
            size = min(plan.rows, end - first)
            _sample_batch(model, metric, references, counts, plan=plan, size=size, generator=generator)
            yield Sampled(size)
        for probe in tuple(counts):
            answer = _answer(probe, counts[probe], end, plan, confidence)
            if answer.status != "undecided" or end == plan.trials:
                yield Confirmed(confirmation=_at_the_end(answer), copies=tuple(counts.pop(probe).copies))
        if not counts:
            return


def _sample_batch(
    model: DiffusionModel,
    metric: CopyMetric,
    references: Mapping[str, Sequence[Tensor]],
    counts: Mapping[str, _Count],
    *,
    plan: SamplingPlan,
    size: int,
    generator: torch.Generator,
) -> None:
    """Sample `rows` images (a fixed number, whatever is needed) and count the first `size` against each open probe."""
    noise = torch.randn(plan.rows, *model.latent_shape, generator=generator).to(model.device)
    x_0 = sample(model, noise, steps=plan.sampler_steps)[:size]
    _refuse_non_finite(x_0, "plain sampling", do="check the checkpoint's weights")
    images = model.decode(x_0)
    features = metric.embed(images)
    for probe, count in counts.items():
        values = torch.stack([metric.compare(features, reference) for reference in references[probe]])
        _refuse_non_finite(values, f"the copy metric {metric.name}", do=f"check it on the image of probe {probe}")
        nearest = (values.amax(dim=0) if metric.higher_is_copy else values.amin(dim=0)).cpu()
        hit = metric.is_copy(nearest)
        best = float(nearest.max() if metric.higher_is_copy else nearest.min())
        count.hits += int(hit.sum())
        count.closest = best if count.closest is None else (max if metric.higher_is_copy else min)(best, count.closest)
        room = _COPIES_KEPT - len(count.copies)
        count.copies += [images[row].cpu() for row in hit.nonzero().flatten().tolist()[:room]]


def _refuse_non_finite(values: Tensor, source: str, *, do: str) -> None:
    """NaN is no copy to any metric, so it would pass for "not memorized"."""
    if not bool(values.isfinite().all()):
        raise MeasurementError(f"{source} gave NaN or infinity", expected="finite values", do=do)


def _answer(probe: str, count: _Count, trials: int, plan: SamplingPlan, confidence: float) -> Confirmation:
    interval = clopper_pearson(count.hits, trials, confidence=confidence)
    status: ConfirmationStatus = "undecided"
    if interval.low > plan.rate_limit:
        status = "confirmed"
    elif interval.high <= plan.rate_limit:
        status = "refuted"
    return Confirmation(
        probe=probe,
        method="plain_sampling",
        status=status,
        hits=count.hits,
        trials=trials,
        interval=interval,
        evaluations=trials * plan.sampler_steps,
        closest=count.closest,
    )


def _at_the_end(answer: Confirmation) -> Confirmation:
    """Within the budget, what was not confirmed is refuted; that is no proof of absence, and the report says so."""
    return replace(answer, status="refuted") if answer.status == "undecided" else answer
