"""How likely the probes come out, as the records certify it."""

from collections.abc import Iterable, Iterator, Mapping
from math import log
from typing import Final

from invmm_gate.core.intervals import lower_bound
from invmm_gate.core.likelihood_record import AskedKind, Certified, PromptKind
from invmm_gate.core.records import (
    CLUSTER_PROMPT,
    GCG,
    LABEL,
    LABEL_ON_GRID,
    LABEL_SEARCH,
    PLAIN_SAMPLING,
    PLAIN_SAMPLING_ON_GRID,
    Confirmation,
    MetricRecord,
    Probe,
    Trial,
)
from invmm_gate.policy.evidence import Evidence

BY: Final[Mapping[PromptKind, str]] = {
    "none": "by plain sampling",
    "caption": "with its caption",
    "typed": "with a strange prompt that can be typed",
    "label": "under its class label",
    "other_label": "under another class label",
    "soft": "with tools: a soft prompt",
}
"""How a kind of prompt is named behind a frequency."""
ASKED_KINDS: Final[tuple[AskedKind, ...]] = ("none", "caption", "typed")
"""The kinds that a policy counts unless it says otherwise."""
USER_KINDS: Final[tuple[PromptKind, ...]] = (*ASKED_KINDS, "label", "other_label")
"""What a user can give. A soft prompt cannot be typed."""
_COUNT_TOO: Final[Mapping[AskedKind, PromptKind]] = {"caption": "label", "typed": "other_label"}
"""A label is to a class-conditional model what a caption is to a text model, and another label what a prompt is that
was found."""
_KINDS: Final[Mapping[str, PromptKind]] = {
    **dict.fromkeys((PLAIN_SAMPLING, PLAIN_SAMPLING_ON_GRID), "none"),
    **dict.fromkeys((CLUSTER_PROMPT, GCG), "typed"),
    **dict.fromkeys((LABEL, LABEL_ON_GRID), "label"),
    LABEL_SEARCH: "other_label",
}
"""Way of confirming -> what it gives the model, where that does not depend on the probe's caption."""


def counted_kinds(kinds: Iterable[AskedKind]) -> tuple[PromptKind, ...]:
    """The kinds that a policy counts, with those of class-conditional models that they stand for too."""
    asked: tuple[PromptKind, ...] = tuple(kinds)
    return asked + tuple(other for kind, other in _COUNT_TOO.items() if kind in asked)


def certified(evidence: Evidence, probe: Probe) -> dict[PromptKind, Certified]:
    """By kind of prompt, the highest lower bound that a record of the probe gives; no kind without a copy."""
    found: dict[PromptKind, Certified] = {}
    for bound in _bounds(evidence, probe):
        if bound.kind not in found or bound.nats < found[bound.kind].nats:
            found[bound.kind] = bound
    return found


def copied_probes(evidence: Evidence) -> frozenset[str]:
    """Ids of the probes of which the search made a copy at all: the likelihood of the others has no lower bound."""
    tested = {
        name
        for name, found in evidence.measured.items()
        if any(copied(trial, evidence.metric) for trial in found.trials)
    }
    return frozenset(tested | {found.probe for found in evidence.confirmations if found.hits})


def kinds_to_estimate(evidence: Evidence, probe: Probe, *, prompts: bool) -> set[PromptKind]:
    """The kinds of prompt whose likelihood a copied probe has. A typed prompt has none: its copies are counted."""
    found = evidence.measured.get(probe.id)
    if found is not None and found.label is not None:
        return {"label"}
    kinds: set[PromptKind] = {"caption" if prompts and probe.caption else "none"}
    if prompts and found is not None and any(copied(trial, evidence.metric) for trial in found.trials):
        kinds.add("soft")
    return kinds


def copied(trial: Trial, metric: MetricRecord | None) -> bool:
    """Whether a sample of any test of the trial was a copy, also of one that ended at its first other sample."""
    shares = (trial.share, trial.confirmation, *(test.share for test in trial.tests))
    nearest = (point.best_value for point in trial.curve if metric is not None and point.best_value is not None)
    return any(share is not None and share.hits for share in shares) or (
        metric is not None and any(map(metric.is_copy, nearest))
    )


def _bounds(evidence: Evidence, probe: Probe) -> Iterator[Certified]:
    for found in evidence.likelihoods:
        if found.probe == probe.id and found.nats is not None:
            yield Certified(probe=probe.id, kind=found.prompt_kind, nats=found.nats, confidence=found.confidence)
    for tried in evidence.confirmations:
        if tried.probe == probe.id and tried.hits:
            yield _counted(tried, captioned=bool(probe.caption))


def _counted(found: Confirmation, *, captioned: bool) -> Certified:
    """The one-sided bound of Clopper and Pearson, with a quarter of the error that the record's looks and scales left.

    A kind of prompt has at most two such records beside its likelihood, whose lower bound has half of the error: the
    best of the three holds at the confidence of each.
    """
    confidence = found.interval.confidence
    low = lower_bound(found.hits, found.trials, confidence=1 - (1 - confidence) / 4)
    kind = _KINDS.get(found.method, "caption" if captioned else "none")
    return Certified(probe=found.probe, kind=kind, nats=-log(low), confidence=confidence)
