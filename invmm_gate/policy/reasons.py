"""A verdict's findings summed up: the decision, the sentences that give its reasons, and the counts."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Decision, Finding, WaiverState
from invmm_gate.policy.coverage import SELF_CHECK

_MOST_REASONS: Final = 10


def decide(findings: Sequence[Finding]) -> Decision:
    """The decision that a list of findings leads to."""
    if any(finding.rule == SELF_CHECK for finding in findings):
        return "inconclusive"
    if any(finding.effect == "block" and finding.waiver is None for finding in findings):
        return "block"
    if any(finding.effect != "block" for finding in findings):
        return "inconclusive"
    return "pass"


def reasons_for(decision: Decision, findings: Sequence[Finding]) -> tuple[str, ...]:
    """The sentences that a verdict gives for its decision, weightiest first."""
    if decision == "pass":
        waived = f" that is not waived ({len(findings)} waived)" if findings else ""
        return (f"every probe was measured and no rule found a breach{waived}",)
    open_questions = [finding.message for finding in findings if finding.effect == "inconclusive"]
    blocks = [finding.message for finding in findings if finding.effect == "block" and finding.waiver is None]
    ordered = blocks + open_questions if decision == "block" else open_questions + blocks
    told = list(dict.fromkeys(ordered))[:_MOST_REASONS]  # in the public edition both samplers' findings read alike
    left = sum(message not in told for message in ordered)
    return (*told, *([f"and {left} more findings"] if left else []))


def waiver_notes(states: Sequence[WaiverState]) -> tuple[str, ...]:
    """One sentence for each waiver that covers nothing."""
    texts = {
        "expired": "expired on {waiver.expires} and does nothing",
        "unused": "covers no finding",
        "unknown_probe": "names a probe that the probe set does not have",
        "other_model": "is for another model and does nothing",
        "other_image": "is for another image than the probe shows and does nothing",
        "unapproved": "is approved by no reviewer who was named, and does nothing",
    }
    return tuple(
        f"the waiver of {state.waiver.owner} for {state.waiver.probe or state.waiver.rule} "
        + texts[state.state].format(waiver=state.waiver)
        for state in states
        if state.state != "used"
    )


def counts_of(data: RunData, findings: Sequence[Finding]) -> dict[str, int]:
    """Probes and controls per outcome; probes per strongest confirmation; records of confirmations; findings.

    A control that an input brings out is no confirmed probe: it has a finding of its own.
    """
    probes = data.run.probe_set.probes
    controls = {probe.id for probe in probes if probe.group == "control"}
    outcomes = Counter(record.outcome for record in data.measurements)
    with_status: dict[str, set[str]] = defaultdict(set)
    for record in data.confirmations:
        if record.probe not in controls:
            with_status[record.status].add(record.probe)
    listed = sum(probe.group == "control" for probe in probes)
    return {
        "probes": len(probes) - listed,
        "controls": listed,
        "inverted": outcomes["inverted"],
        "not_inverted": outcomes["not_inverted"],
        "above_threshold": outcomes["above_threshold"],
        "error": outcomes["error"],
        "missing": len({probe.id for probe in probes} - {record.probe for record in data.measurements}),
        "confirmations": len(data.confirmations),
        "confirmed": len(with_status["confirmed"]),
        "undecided": len(with_status["undecided"] - with_status["confirmed"]),
        "refuted": len(with_status["refuted"] - with_status["undecided"] - with_status["confirmed"]),
        "blocking": sum(finding.effect == "block" and finding.waiver is None for finding in findings),
        "waived": sum(finding.waiver is not None for finding in findings),
        "inconclusive": sum(finding.effect == "inconclusive" for finding in findings),
    }
