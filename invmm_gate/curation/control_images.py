"""Controls: images that the model cannot have seen, drawn with a seed, none near to a training image."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import numpy as np

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.options import BuildOptions
from invmm_gate.core.records import Fit
from invmm_gate.curation.embedder import Embedder
from invmm_gate.curation.neighbours import Vectors, close_pairs
from invmm_gate.curation.option_checks import Wanted
from invmm_gate.curation.training_entries import Entry, LeftOut, TrainingData, lies_beside
from invmm_gate.curation.training_scan import Distinct, Later, prepare
from invmm_gate.probes.writer import shape_problem, unfit_as_probe

_LEAST_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """The drawn controls, and the images that were drawn and refused."""

    chosen: tuple[Entry, ...]
    refused: tuple[LeftOut, ...]
    pool: int
    """Images that they were drawn from."""


def whole_pool(sources: Sequence[TrainingData], first: int) -> list[Later]:
    """Every image of some sources, the first of which has the number `first`; captions and the like are none."""
    return [
        Later(source=number, position=position, name=name)
        for number, source in enumerate(sources, start=first)
        for position, name in enumerate(source.names())
        if not lies_beside(name)
    ]


def draw_controls(
    pool: Sequence[Later],
    sources: Sequence[TrainingData],
    *,
    wanted: Wanted,
    training: Distinct,
    embedder: Embedder,
    options: BuildOptions,
) -> Controls:
    """Images of the pool, as many as are wanted. Raises ProbeSetError where the pool holds too few.

    Refused: an image within the copy threshold of a training image, itself or mirrored, or of another control; and one
    that cannot be a probe, its shape included. A control that the model has seen is worse than none.
    """
    order = sorted(pool, key=lambda later: _place(later, options.seed))
    draw = _Draw(embedder, options.fit or "")
    while order and len(draw.chosen) < wanted.most:
        count = max(wanted.most - len(draw.chosen), _LEAST_AT_ONCE)
        part, order = order[:count], order[count:]
        for drawn in _judged(_entries(sources, part), training=training, embedder=embedder):
            if len(draw.chosen) < wanted.most:
                draw.take(drawn)
    if len(draw.chosen) < wanted.least:
        first = f"; the first refused: {draw.refused[0].name!r} {draw.refused[0].reason}" if draw.refused else ""
        raise ProbeSetError(
            f"{len(draw.chosen)} controls in {len(pool)} images, {len(draw.refused)} of them refused{first}",
            expected=str(wanted),
            do="give more images with --controls-from, or ask for fewer with --controls",
        )
    return Controls(chosen=tuple(draw.chosen), refused=tuple(draw.refused), pool=len(pool))


def _place(later: Later, seed: int) -> tuple[bytes, int]:
    """Where an image comes in the draw, by its name and the seed alone."""
    return sha256(f"{seed}:{later.name}".encode(errors="surrogateescape")).digest(), later.source


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """An image of the pool with its embedding, and what speaks against it."""

    entry: Entry
    reason: str
    vector: Vectors | None = None


class _Draw:
    """The controls so far."""

    def __init__(self, embedder: Embedder, fit: Fit) -> None:
        self.chosen: list[Entry] = []
        self.refused: list[LeftOut] = []
        self._vectors: list[Vectors] = []
        self._fit = fit
        self._radius = embedder.scale.distance(embedder.scale.threshold)

    def take(self, drawn: _Drawn) -> None:
        """Accept or refuse the next image."""
        name, data = drawn.entry.name, drawn.entry.data
        reason = drawn.reason or self._near_control(drawn.vector) or unfit_as_probe(data, name=name)
        reason = reason or shape_problem(data, name=name, fit=self._fit)
        if reason:
            self.refused.append(LeftOut(name=name, reason=reason))
            return
        self.chosen.append(drawn.entry)
        if drawn.vector is not None:
            self._vectors.append(drawn.vector)

    def _near_control(self, vector: Vectors | None) -> str:
        if vector is None or not self._vectors:
            return ""
        found = close_pairs(np.stack(self._vectors), self._radius, queries=vector[None])
        return f"is a near-duplicate of the control {self.chosen[found.columns[0]].name!r}" if len(found.rows) else ""


def _entries(sources: Sequence[TrainingData], part: Sequence[Later]) -> list[Entry]:
    """In the order of the draw."""
    found: dict[tuple[int, int], Entry] = {}
    for number, source in enumerate(sources):
        positions = {later.position for later in part if later.source == number}
        found |= {(number, entry.position): entry for entry in source.entries(positions)} if positions else {}
    return [found[later.source, later.position] for later in part]


def _judged(entries: Sequence[Entry], *, training: Distinct, embedder: Embedder) -> list[_Drawn]:
    """Each image of a part of the pool, in order."""
    prepared = [prepare(entry, embedder) for entry in entries]
    pixels = [found.pixels for found in prepared if found.pixels is not None]
    if not pixels:
        return [_Drawn(entry=found.entry, reason=found.problem) for found in prepared]
    vectors = embedder.embed(np.stack(pixels))
    near = _near_training(vectors, training, embedder, how="is a near-duplicate")
    # Training sets are often mirrored at random: a mirrored training image was seen too.
    mirrored = embedder.embed(np.stack(pixels)[:, :, ::-1].copy())
    near = _near_training(mirrored, training, embedder, how="is a mirrored near-duplicate") | near
    row = iter(range(len(pixels)))
    return [
        _Drawn(entry=found.entry, reason=found.problem)
        if found.pixels is None
        else _Drawn(entry=found.entry, reason=near.get(at := next(row), ""), vector=vectors[at])
        for found in prepared
    ]


def _near_training(vectors: Vectors, training: Distinct, embedder: Embedder, *, how: str) -> dict[int, str]:
    """Row -> which training image it is nearest to, for those within the copy threshold."""
    scale = embedder.scale
    found = close_pairs(training.vectors, scale.distance(scale.threshold), queries=vectors)
    reasons = {}
    for at in np.lexsort((found.columns, -found.distances)):  # the nearest is written last
        name = training.items[found.columns[at]].name
        value = scale.value(float(found.distances[at]))
        reasons[int(found.rows[at])] = f"{how} of the training image {name!r} ({embedder.metric.name} {value:.3f})"
    return reasons
