"""Draws samples and counts the copies among them, for each way of confirming and each sampler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.core.protocols import AligningMetric, CopyMetric, Sampler, Streams
from invmm_gate.diffusion.finite import refuse_non_finite

COPIES_KEPT: Final = 4

References = Mapping[str, Sequence[Float[Tensor, "1 feature"]]]
"""For each probe the metric's features of its image, and of its mirror image where that counts too."""


@dataclass(slots=True, eq=False)
class CopyCount:
    """Copies of one probe so far: how many samples were, the closest value of all, and up to four images."""

    hits: int = 0
    closest: float | None = None
    alignment: str = ""
    """How the probe lies in the closest sample, if the metric aligns."""
    copies: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Input:
    """The input that a user gives the model beside the noise."""

    prompt: str | None = None
    """Of a class-conditional model a label in digits; None for plain sampling of a model without prompts."""
    guidance_scale: float = 1.0


def sampled_images(
    sampler: Sampler,
    given: Input,
    numbers: range,
    *,
    rows: int,
    steps: int,
    streams: Streams,
) -> Float[Tensor, "size 3 image_height image_width"]:
    """The samples of these numbers, at most `rows`, in [-1, 1]. Raises MeasurementError for NaN or infinity.

    The network always sees `rows` rows, whatever is needed: then no sample depends on how many are.
    """
    chosen = [streams(number) for number in range(numbers.start, numbers.start + rows)]
    images = sampler.images(chosen, steps=steps, prompt=given.prompt, guidance_scale=given.guidance_scale)
    return images[: len(numbers)]


def count_copies(
    metric: CopyMetric,
    images: Float[Tensor, "size 3 image_height image_width"],
    references: References,
    counts: Mapping[str, CopyCount],
) -> None:
    """Count the same images against every probe of `counts`. Raises MeasurementError for NaN or infinity."""
    features = metric.embed(images)
    better = max if metric.higher_is_copy else min
    for probe, count in counts.items():
        values = torch.stack([metric.compare(features, reference) for reference in references[probe]])
        refuse_non_finite(values, f"the copy metric {metric.name}", do=f"check it on the image of probe {probe}")
        nearest = (values.amax(dim=0) if metric.higher_is_copy else values.amin(dim=0)).cpu()
        hit = metric.is_copy(nearest)
        best = better(nearest.tolist())
        count.hits += int(hit.sum())
        if count.closest is None or better(best, count.closest) != count.closest:
            count.closest = best
            count.alignment = _alignment(metric, features, references[probe], values)
        room = COPIES_KEPT - len(count.copies)
        count.copies += [images[row].cpu() for row in hit.nonzero().flatten().tolist()[:room]]


def _alignment(
    metric: CopyMetric,
    features: Float[Tensor, "size feature"],
    references: Sequence[Float[Tensor, "1 feature"]],
    values: Float[Tensor, "reference size"],
) -> str:
    """How the closest of these samples shows the probe, in words; empty where the metric moves nothing."""
    if not isinstance(metric, AligningMetric):
        return ""
    nearest = values.argmax() if metric.higher_is_copy else values.argmin()
    reference, row = divmod(int(nearest), len(features))
    return str(metric.alignment(features[row : row + 1], references[reference]))
