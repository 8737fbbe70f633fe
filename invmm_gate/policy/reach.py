"""What a run says of images that are no probes: the share of the training data that its search finds, and its power."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from invmm_gate.core.intervals import clopper_pearson, lower_bound, upper_bound
from invmm_gate.core.records import Probe
from invmm_gate.core.verdict_records import ExtractableShare, Power, Rung
from invmm_gate.policy.evidence import Evidence
from invmm_gate.policy.rules.extraction_likelihood import ExtractionLikelihood
from invmm_gate.policy.rules.invmm_below import InvmmBelow

Images = tuple[frozenset[str], ...]
"""The ids of the probes of each image."""
CONFIDENCE: Final = 0.95
"""Of every bound and interval here."""
DETECTION: Final = 0.95
"""The share of canaries that must be found, shown at CONFIDENCE, where a multiplicity counts as found."""
FEWEST: Final = 59
"""Canaries with which this can be shown: 59 of 59 give a lower bound of 0.950, 58 of 58 one of 0.949."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What of a policy blocks a probe by itself."""

    score: InvmmBelow
    likelihood: tuple[ExtractionLikelihood, ...] = ()


def found_probes(evidence: Evidence, limits: Limits) -> frozenset[str]:
    """Ids of the probes that the search found: those that would block, and those inverted at any score."""
    inverted = {name for name, measured in evidence.measured.items() if measured.outcome == "inverted"}
    return detected_probes(evidence, limits) | inverted


def detected_probes(evidence: Evidence, limits: Limits) -> frozenset[str]:
    """Ids of the probes that would block if they were targets: by score, likelihood, or an input that copies them.

    Power is claimed for these alone: an inversion at a score that blocks nothing would not have stopped a release.
    """
    findings = [
        finding
        for probe in evidence.probes
        if probe.id in evidence.measured
        for finding in limits.score.judged(probe, evidence.measured[probe.id], evidence.dimensions)
    ]
    findings += [finding for rule in limits.likelihood for finding in rule.judged(evidence.probes, evidence)]
    blocking = {finding.probe for finding in findings if finding.effect == "block" and finding.probe is not None}
    return frozenset(blocking | {found.probe for found in evidence.confirmations if found.hits > 0})


def unsearched_probes(evidence: Evidence, found: frozenset[str], limits: Limits) -> frozenset[str]:
    """Ids of the probes that are not among those found, though the search is not complete.

    Such a probe has no sound measurement, or lacks a confirmation or a likelihood that the policy asks for.
    """
    made = {(tried.probe, tried.method) for tried in evidence.confirmations if not tried.labels_left}
    lacking = {probe for probe, method in evidence.required if (probe, method) not in made}
    lacking |= {probe.id for probe in evidence.probes if probe.id not in evidence.measured}
    open_questions = (each for rule in limits.likelihood for each in rule.judged(evidence.probes, evidence))
    lacking |= {each.probe for each in open_questions if each.effect != "block" and each.probe is not None}
    return frozenset(lacking - found)


def extractable_share(evidence: Evidence, limits: Limits) -> ExtractableShare | None:
    """The bound that the group `sample` gives; None without one.

    Images are drawn without replacement, which makes the bound of Clopper and Pearson wider than it need be, never
    too narrow. An image that was not searched in full counts as found.
    """
    images = _images(probe for probe in evidence.probes if probe.group == "sample")
    if not images:
        return None
    hits = found_probes(evidence, limits)
    found, unsearched = _found(images, hits), _unsearched(images, hits, evidence, limits)
    return ExtractableShare(
        drawn=len(images),
        found=found,
        unsearched=unsearched,
        upper=upper_bound(found + unsearched, len(images), confidence=CONFIDENCE),
        confidence=CONFIDENCE,
    )


def power_of(evidence: Evidence, limits: Limits) -> Power:
    """How many canaries of each multiplicity were found. A canary that was not searched in full was not found."""
    hits = detected_probes(evidence, limits)
    canaries = [probe for probe in evidence.probes if probe.group == "canary"]
    planted = {
        often: _images(probe for probe in canaries if probe.multiplicity == often)
        for often in sorted({probe.multiplicity for probe in canaries})
    }
    unstated = planted.pop(0, ())
    rungs = tuple(_rung(often, images, hits) for often, images in planted.items())
    return Power(
        rungs=rungs,
        found_from=found_from(rungs),
        unstated=len(unstated),
        unstated_found=_found(unstated, hits),
        unsearched=_unsearched(_images(canaries), hits, evidence, limits),
    )


def found_from(rungs: tuple[Rung, ...]) -> int | None:
    """The smallest multiplicity from which on images are found; None where that is shown for none. Rungs ascend.

    From the largest multiplicity down, canaries are counted together. A multiplicity counts as found if, of the
    canaries from there upwards, the lower bound of the detection rate (one-sided, Clopper-Pearson) is at least
    DETECTION, and of its own canaries at least this share was found. The walk ends at the first that fails: tests in
    an order that was fixed before need no correction for their number, so that the claim is wrong in at most 5 % of
    runs. Multiplicities above which fewer than FEWEST canaries were planted can show nothing and are only counted.
    """
    found, planted, smallest = 0, 0, None
    for rung in reversed(rungs):
        found, planted = found + rung.found, planted + rung.planted
        if rung.found < DETECTION * rung.planted:
            break
        if planted >= FEWEST:
            if lower_bound(found, planted, confidence=CONFIDENCE) < DETECTION:
                break
            smallest = rung.multiplicity
    return smallest


def _rung(often: int, images: Images, hits: frozenset[str]) -> Rung:
    found = _found(images, hits)
    interval = clopper_pearson(found, len(images), confidence=CONFIDENCE)
    return Rung(multiplicity=often, found=found, planted=len(images), interval=interval)


def _images(probes: Iterable[Probe]) -> Images:
    """The ids of the probes of each image: probes of one cluster show the same picture."""
    images: dict[tuple[str, str], set[str]] = defaultdict(set)
    for probe in probes:
        images["cluster" if probe.cluster else "id", probe.cluster or probe.id].add(probe.id)
    return tuple(map(frozenset, images.values()))


def _found(images: Images, hits: frozenset[str]) -> int:
    return sum(not image.isdisjoint(hits) for image in images)


def _unsearched(images: Images, hits: frozenset[str], evidence: Evidence, limits: Limits) -> int:
    """Images of which no probe was found, and one was not searched in full."""
    unsearched = unsearched_probes(evidence, hits, limits)
    return sum(image.isdisjoint(hits) and not image.isdisjoint(unsearched) for image in images)
