"""Tables of the study's text-to-image model, from records/truth-text.csv and records/gate-text.csv alone."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from statistics import median
from typing import Final

from invmm_gate.core.intervals import upper_bound

RECORDS: Final = Path(__file__).parent / "records"
CERTIFIED: Final = 1e-6
ENOUGH: Final = 10
FACTOR: Final = 3.0
KINDS: Final = {"caption": "with its caption", "typed": "with a prompt that was found", "soft": "with a soft prompt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompted:
    """What is certified of an image with one kind of prompt."""

    kind: str
    scale: str
    lower: float
    estimate: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    """One image: what the run found, and how often its caption really brings it out."""

    multiplicity: int
    outcome: str
    score: float | None
    """In nats over all dimensions."""
    evaluations: int
    truth: dict[str, tuple[int, int]]
    """Guidance scale -> (copies, samples) under its own caption."""
    prompts: tuple[Prompted, ...]

    @property
    def highest(self) -> float:
        """The share of copies under its caption, at the scale where it is largest."""
        return max(copies / samples for copies, samples in self.truth.values())

    def found(self, kind: str) -> bool:
        """Certified to come out once in a million generations or more with this kind of prompt."""
        return any(each.lower > CERTIFIED for each in self.prompts if each.kind == kind)


def recorded() -> bool:
    """Whether the model was measured."""
    return all((RECORDS / f"{kind}-text.csv").exists() for kind in ("truth", "gate"))


def images() -> tuple[Captioned, ...]:
    """The ladder and the controls of the run."""
    truths: dict[str, list[dict[str, str]]] = {}
    for row in _rows("truth-text"):
        truths.setdefault(row["image"], []).append(row)
    found: dict[str, list[dict[str, str]]] = {}
    for row in _rows("gate-text"):
        found.setdefault(row["image"], []).append(row)
    return tuple(_image(found[name], truth) for name, truth in truths.items() if name in found)


def _rows(name: str) -> list[dict[str, str]]:
    with (RECORDS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _image(rows: Sequence[dict[str, str]], truth: Sequence[dict[str, str]]) -> Captioned:
    first = rows[0]
    return Captioned(
        multiplicity=int(truth[0]["multiplicity"]),
        outcome=first["outcome"],
        score=float(first["score_nats"]) if first["score_nats"] else None,
        evaluations=int(first["evaluations"]),
        truth={row["scale"]: (int(row["copies"]), int(row["samples"])) for row in truth},
        prompts=tuple(
            Prompted(
                kind=row["kind"],
                scale=row["scale"],
                lower=exp(-float(row["bound_nats"])) if row["bound_nats"] else 0.0,
                estimate=float(row["estimate"]),
                upper=float(row["upper"]),
            )
            for row in rows
            if row["kind"]
        ),
    )


def ladder_table() -> Iterator[str]:
    """By multiplicity: how often captions really bring images out, and what the run found with which prompt."""
    every = images()
    rungs = [*sorted({image.multiplicity for image in every} - {0}), 0]
    yield "| | " + " | ".join(f"{rung}x" if rung else "never seen" for rung in rungs) + " |"
    yield "|---|" + "---|" * len(rungs)
    parts = [[image for image in every if image.multiplicity == rung] for rung in rungs]
    rows: dict[str, Callable[[list[Captioned]], str]] = {
        "images": lambda part: f"{len(part)}",
        "share of copies under the caption, best scale, median": lambda part: f"{median(i.highest for i in part):.0%}",
        "inverted": lambda part: f"{sum(image.outcome == 'inverted' for image in part)}",
        "score in nats, median of the inverted": _score,
    }
    for kind, words in KINDS.items():
        rows[f"certified above 1e-6 {words}"] = lambda part, kind=kind: f"{sum(each.found(kind) for each in part)}"
    rows["F of a search, mean"] = lambda part: f"{sum(image.evaluations for image in part) // len(part):,}"
    for label, said in rows.items():
        yield f"| {label} | " + " | ".join(said(part) for part in parts) + " |"


def _score(part: Sequence[Captioned]) -> str:
    scores = [image.score for image in part if image.score is not None]
    return f"{median(scores):.2f}" if scores else ""


def estimate_table() -> Iterator[str]:
    """The caption's likelihood against its share of copies at the same scale; typed ones are shares themselves."""
    yield "| prompt | bounds held against the truth | bound above it | estimates | within a factor of 3 |"
    yield "|---|---|---|---|---|"
    pairs = [
        (each, *image.truth[each.scale])
        for image in images()
        for each in image.prompts
        if each.kind == "caption" and each.scale in image.truth
    ]
    above = sum(each.lower > upper_bound(copies, samples, confidence=0.975) for each, copies, samples in pairs)
    sure = [(each.estimate, copies / samples) for each, copies, samples in pairs if copies >= ENOUGH]
    near = sum(1 / FACTOR <= estimate / truth <= FACTOR for estimate, truth in sure)
    yield f"| caption | {len(pairs)} | {above} | {len(sure)} | {near} |"


def captions_table() -> Iterator[str]:
    """By guidance scale: captions that bring their image out, and how many of these images the run certifies."""
    yield "| scale | images with p >= 0.5 % under their caption | certified with the caption | controls that come out |"
    yield "|---|---|---|---|"
    every = images()
    for scale in sorted({scale for image in every for scale in image.truth}, key=float):
        out = [image for image in every if image.multiplicity and _share(image, scale) >= 1 / 200]
        controls = sum(_share(image, scale) > 0 for image in every if not image.multiplicity)
        yield f"| {scale} | {len(out)} | {sum(image.found('caption') for image in out)} | {controls} |"


def _share(image: Captioned, scale: str) -> float:
    copies, samples = image.truth[scale]
    return copies / samples
