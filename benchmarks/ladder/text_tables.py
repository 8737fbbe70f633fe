"""Tables of the study's text-to-image model, from records/{truth,gate,prompts}-text.csv alone."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp
from statistics import median
from typing import Final

from criteria import CERTIFIED, COMES_OUT, ENOUGH, FACTOR, RECORDS

from invmm_gate.core.intervals import upper_bound

KINDS: Final = {"caption": "its caption", "soft": "a soft prompt"}
"""Kinds of prompt that have a likelihood; copies of a prompt that was searched are counted."""
CAPTIONS: Final = ("caption", "caption_on_grid")
"""Methods that draw under the caption: with the released pipeline, and with the measure's sampler."""
SEARCHED: Final = ("gcg", "cluster_prompt")
"""Methods with a prompt that a search found. One copy in 64 samples certifies more than one in a million."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What is certified of an image with one kind of prompt, at one guidance scale."""

    kind: str
    scale: str
    lower: float
    estimate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    """One image: what the run found, and how often its caption really brings it out."""

    multiplicity: int
    inverted: bool
    score: float | None
    """In nats over all dimensions."""
    evaluations: int
    truth: dict[str, tuple[int, int]]
    """Guidance scale -> (copies, samples) under its own caption."""
    bounds: tuple[Bound, ...]
    tried: frozenset[str]
    """Methods of the prompts that were tried."""
    replicated: frozenset[str]
    """Methods of the prompts that gave a copy."""

    def share(self, scale: str) -> float:
        """Of samples under its caption that are copies."""
        copies, samples = self.truth[scale]
        return copies / samples

    @property
    def best(self) -> float:
        """Share of copies at the guidance scale that brings out most."""
        return max(map(self.share, self.truth))

    def certified(self, kind: str) -> bool:
        """Whether it is certified to come out once in a million generations or more with this kind of prompt."""
        return any(bound.lower > CERTIFIED for bound in self.bounds if bound.kind == kind)

    @property
    def found(self) -> bool:
        """Whether an input that a user can type is certified to bring it out once in a million generations or more."""
        return self.certified("caption") or self.copied((*CAPTIONS, *SEARCHED))

    def copied(self, methods: Sequence[str]) -> bool:
        """Whether a prompt of these methods gave a copy, at any scale."""
        return not self.replicated.isdisjoint(methods)


def images() -> tuple[Captioned, ...]:
    """The ladder and the controls of the run."""
    truths, found, tried = (_by_image(f"{kind}-text") for kind in ("truth", "gate", "prompts"))
    return tuple(_image(found[name], truths[name], tried.get(name, [])) for name in truths)


def _by_image(name: str) -> dict[str, list[dict[str, str]]]:
    rows: dict[str, list[dict[str, str]]] = {}
    with (RECORDS / f"{name}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["image"], []).append(row)
    return rows


def _image(
    found: Sequence[dict[str, str]], truth: Sequence[dict[str, str]], tried: Sequence[dict[str, str]]
) -> Captioned:
    first = found[0]
    return Captioned(
        multiplicity=int(truth[0]["multiplicity"]),
        inverted=first["outcome"] == "inverted",
        score=float(first["score_nats"]) if first["score_nats"] else None,
        evaluations=int(first["evaluations"]),
        truth={row["scale"]: (int(row["copies"]), int(row["samples"])) for row in truth},
        bounds=tuple(_bound(row) for row in found if row["kind"]),
        tried=frozenset(row["method"] for row in tried),
        replicated=frozenset(row["method"] for row in tried if int(row["copies"])),
    )


def _bound(row: dict[str, str]) -> Bound:
    lower = exp(-float(row["bound_nats"])) if row["bound_nats"] else 0.0
    return Bound(kind=row["kind"], scale=row["scale"], lower=lower, estimate=float(row["estimate"]))


def text_ladder_table() -> Iterator[str]:
    """By multiplicity: how often captions really bring images out, and what the run found with which prompt."""
    every = images()
    rungs = [*sorted({image.multiplicity for image in every} - {0}), 0]
    parts = [[image for image in every if image.multiplicity == rung] for rung in rungs]
    yield "| | " + " | ".join(f"{rung}x" if rung else "never seen" for rung in rungs) + " |"
    yield "|---|" + "---|" * len(rungs)
    for label, said in _rows().items():
        yield f"| {label} | " + " | ".join(said(part) for part in parts) + " |"


def _rows() -> dict[str, Callable[[list[Captioned]], str]]:
    """Label -> what is said of the images of one multiplicity."""
    rows: dict[str, Callable[[list[Captioned]], str]] = {
        "images": lambda part: f"{len(part)}",
        "share of copies under the caption, at the best scale, median": _best_share,
        "inverted": lambda part: f"{sum(image.inverted for image in part)}",
        "score in nats, median of the inverted": _score,
        "copied with its caption": lambda part: f"{sum(image.copied(CAPTIONS) for image in part)}",
    }
    rows["copied with a prompt that was searched"] = _searched
    rows |= {f"certified above 1e-6 with {words}": partial(_certified, kind) for kind, words in KINDS.items()}
    return rows | {"F of a search, mean": lambda part: f"{sum(image.evaluations for image in part) // len(part):,}"}


def _certified(kind: str, part: Sequence[Captioned]) -> str:
    return f"{sum(image.certified(kind) for image in part)}"


def _searched(part: Sequence[Captioned]) -> str:
    """A prompt is searched for images that a rule found and no caption brings out, and for controls."""
    tried = [image for image in part if not image.tried.isdisjoint(SEARCHED)]
    return f"{sum(image.copied(SEARCHED) for image in tried)} of {len(tried)}" if tried else ""


def _best_share(part: Sequence[Captioned]) -> str:
    return f"{median(image.best for image in part):.0%}"


def _score(part: Sequence[Captioned]) -> str:
    scores = [image.score for image in part if image.score is not None]
    return f"{median(scores):.2f}" if scores else ""


def captions_table() -> Iterator[str]:
    """By guidance scale: images that their caption brings out there, and how many of them the run copied with it."""
    yield "| scale of the truth | images that come out | copied in the run, at any scale | controls that come out |"
    yield "|---|---|---|---|"
    every = images()
    planted, controls = ([image for image in every if bool(image.multiplicity) == known] for known in (True, False))
    for scale in sorted({scale for image in every for scale in image.truth}, key=float):
        out = [image for image in planted if image.share(scale) >= COMES_OUT]
        seen = sum(image.copied(CAPTIONS) for image in out)
        copied = sum(image.copied(CAPTIONS) or image.share(scale) > 0 for image in controls)
        yield f"| {scale} | {len(out)} | {seen} | {copied} of {len(controls)} |"


def joint_table() -> Iterator[str]:
    """What the search of noise and soft prompt together found, by how often the caption really brings the image out."""
    yield "| under the caption, at its best scale | images | inverted | certified, soft prompt | certified, caption |"
    yield "|---|---|---|---|---|"
    every = images()
    planted = [image for image in every if image.multiplicity]
    groups = {
        "a copy among 192 samples": [image for image in planted if image.best >= COMES_OUT],
        "no copy, planted": [image for image in planted if not image.best],
        "no copy, never seen": [image for image in every if not image.multiplicity],
    }
    for label, own in groups.items():
        soft, caption = (sum(image.certified(kind) for image in own) for kind in ("soft", "caption"))
        yield f"| {label} | {len(own)} | {sum(image.inverted for image in own)} | {soft} | {caption} |"


def text_estimate_table() -> Iterator[str]:
    """The likelihood under the caption against the truth at the same scale."""
    yield "| bounds | above the truth | estimates of images with at least 10 copies | within a factor of 3 |"
    yield "|---|---|---|---|"
    pairs = [
        (bound, *image.truth[bound.scale])
        for image in images()
        for bound in image.bounds
        if bound.kind == "caption" and bound.scale in image.truth
    ]
    above = sum(bound.lower > upper_bound(copies, samples, confidence=0.975) for bound, copies, samples in pairs)
    sure = [bound.estimate / (copies / samples) for bound, copies, samples in pairs if copies >= ENOUGH]
    near = sum(1 / FACTOR <= ratio <= FACTOR for ratio in sure)
    yield f"| {len(pairs)} | {above} | {len(sure)} | {near} |"


def counted(found: Sequence[tuple[int, bool]]) -> dict[str, object]:
    """Images found, by how often they were planted; 0 = never seen."""
    rungs = {often: [hit for own, hit in found if own == often] for often in sorted({own for own, _ in found})}
    said = {often: {"found": sum(hits), "images": len(hits)} for often, hits in rungs.items()}
    return {"planted": [{"times": often} | said[often] for often in said if often], "never_seen": said[0]}


def text_studied() -> dict[str, object]:
    """What the report says of the text-to-image model."""
    known = json.loads((RECORDS / "gate-text.json").read_text(encoding="utf-8"))
    return {
        "models": ["text"],
        "search": known["search"],
        "nearer": known["nearer"],
        "trained_on": known["trained_on"],
        "largest_side": known["side"],
    } | counted([(image.multiplicity, image.found) for image in images()])
