"""The group `sample`: a random draw of the training images, whatever they are and whatever else is a probe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.curation.training_entries import LeftOut
from invmm_gate.curation.training_scan import Distinct, Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The images that were drawn, and those that the draw passed over."""

    rows: tuple[int, ...]
    """Rows of the distinct training images, in the order of the draw."""
    passed_over: tuple[LeftOut, ...]
    """Images that cannot be probes."""


def draw_sample(
    count: int, training: Distinct, *, seed: int, unfit: Callable[[Sequence[Item]], Sequence[str]]
) -> Sample:
    """`count` of the distinct training images that can be probes: each set of so many is as likely as any other.

    Exact copies count as one image: a draw of rows would find an image of a thousand copies again and again, and its
    share would say how much of the data is duplicated. Near-duplicates count each by itself. What other groups hold
    plays no part, as a draw without the likeliest images would promise too much. `unfit` says of each image why it
    cannot be a probe, or nothing; such an image is passed over for the next of the draw, so what is drawn speaks for
    the images that can be probes.

    The rows are in the order of their content: seed and images alone decide, not the order of the data.
    Raises ProbeSetError where too few images can be probes.
    """
    order = np.random.default_rng(seed).permutation(len(training.items)).tolist() if count else []
    rows: list[int] = []
    passed_over: list[LeftOut] = []
    while order and len(rows) < count:
        part, order = order[: count - len(rows)], order[count - len(rows) :]
        items = [training.items[row] for row in part]
        for row, item, reason in zip(part, items, unfit(items), strict=True):
            if reason:
                passed_over.append(LeftOut(name=item.name, reason=reason))
            else:
                rows.append(row)
    if len(rows) < count:
        raise ProbeSetError(
            f"--sample {count}: {len(rows)} of {len(training.items)} training images that differ can be probes",
            expected=f"at most {len(rows)}",
            do="ask for fewer with --sample",
        )
    return Sample(rows=tuple(rows), passed_over=tuple(passed_over))
