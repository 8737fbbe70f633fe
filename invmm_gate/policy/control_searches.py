"""On which controls the prompt search is made too: that shows how often it finds what the model cannot have seen."""

from collections.abc import Collection, Iterable, Iterator
from hashlib import sha256
from typing import Final

from invmm_gate.core.intervals import upper_bound
from invmm_gate.core.records import GCG, LABEL_SEARCH, SEARCHES, Confirmation, Probe
from invmm_gate.core.verdict_records import SearchBaseRate
from invmm_gate.policy.confirm_schema import PromptConfirmation
from invmm_gate.policy.evidence import Evidence

CONFIDENCE: Final = 0.95
"""Of the bound of the base rate."""


def search_of(evidence: Evidence) -> str:
    """How inputs are searched for: prompts, or the labels of a class-conditional model."""
    return LABEL_SEARCH if evidence.labels else GCG


def required_searches(evidence: Evidence, flagged: Collection[str]) -> Iterator[tuple[str, str]]:
    """(control, method) of the searches that the policy asks for where any probe needs one, or had one."""
    count = controls_to_search(evidence, flagged)
    for control in searched_controls(evidence.probes, model=evidence.model, count=count):
        yield control, search_of(evidence)


def controls_to_search(evidence: Evidence, flagged: Collection[str]) -> int:
    """On how many controls the policy wants the search made: none where no prompt is searched for any probe.

    One is where a rule found the probe and no other input brings it out; a search that was made counts too.
    """
    plan = evidence.plan
    if not isinstance(plan, PromptConfirmation) or plan.gcg is None:
        return 0
    searched = {found.probe for found in evidence.confirmations if found.method in SEARCHES}
    elsewhere = {found.probe for found in evidence.confirmations if found.method not in SEARCHES and found.hits}
    controls = {probe.id for probe in evidence.probes if probe.group == "control"}
    return 0 if controls >= searched | (set(flagged) - elsewhere) else plan.gcg.controls


def base_rate(evidence: Evidence) -> SearchBaseRate | None:
    """What the search found of controls; None where it was made on none."""
    made = searches_of_controls(evidence)
    if not made:
        return None
    found = sum(map(brought_out, made))
    upper = upper_bound(found, len(made), confidence=CONFIDENCE)
    return SearchBaseRate(controls=len(made), found=found, upper=upper, confidence=CONFIDENCE)


def searches_of_controls(evidence: Evidence) -> tuple[Confirmation, ...]:
    """The searches that were made on controls."""
    controls = {probe.id for probe in evidence.probes if probe.group == "control"}
    return tuple(found for found in evidence.confirmations if found.method in SEARCHES and found.probe in controls)


def brought_out(search: Confirmation) -> bool:
    """Whether the search found an input. A prompt that made a copy only while it went on is one, as it is for a probe.

    A search through labels that did not try all of them found nothing.
    """
    return search.hits > 0 or (search.status != "refuted" and search.method == GCG)


def searched_controls(probes: Iterable[Probe], *, model: str, count: int) -> tuple[str, ...]:
    """Ids of `count` controls, or of all where there are fewer: those with the smallest sha256 of model and image.

    `model`: its digest. No id, caption or order of the manifest moves the choice. Copies of an image count once.
    """
    ids: dict[str, str] = {}
    for probe in probes:
        if probe.group == "control":
            ids[probe.sha256] = min(probe.id, ids.get(probe.sha256, probe.id))
    return tuple(ids[image] for image in sorted(ids, key=lambda image: _place(model, image))[:count])


def _place(model: str, image: str) -> bytes:
    name = "\n".join(("invmm-gate searched controls v1", model, image))
    return sha256(name.encode("utf-8", "backslashreplace")).digest()
