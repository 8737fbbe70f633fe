"""The parts of a rule: its findings, its texts, and the blind spots that all rules share."""

from dataclasses import dataclass
from typing import Final, Protocol

from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.evidence import Evidence, Selection, is_selected, names, undecided

OPEN: Final = "5.0"
"""Severity of a finding that leaves a run without a verdict: it says nothing of the model."""
EVIDENCE: Final = "The evidence is in report.html of the run."
RELEASE: Final = (
    "Do not release the checkpoint as it is: retrain without the image or with it deduplicated, or waive the finding "
    f"with an owner, a reason and an expiry date. {EVIDENCE}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is said of the findings of a rule, or of a check of the run, to readers who do not know this gate."""

    short: str
    full: str
    help: str
    severity: str = OPEN
    """0.1 to 10, as code scanning reads it: from 9 critical, from 7 high, from 4 medium."""
    blocks: str = ""
    """What the public edition says of a probe that is blocked, with {probe}: the finding's message has its figures."""
    leaves_open: str = ""
    """What the public edition says of a probe that leaves the run open, with {probe}."""
    of_run: str = ""
    """What the public edition says of a finding of the whole run, whose message may name probes."""
    limit_is_public: bool = False
    """Whether a finding's limit is the policy's and no figure of a probe."""


class Rule(Protocol):
    """A rule of a policy."""

    def findings(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Every breach, and every question that the evidence leaves open."""
        ...


def blind_spots(choice: Selection, rule: str, evidence: Evidence) -> tuple[Finding, ...]:
    """A rule that looks at no probe, or at a category that no probe has, is a slip that must not pass."""
    if not any(is_selected(probe, choice) for probe in evidence.probes):
        return (undecided(rule, f"{rule} looks at no probe: none is in its groups and categories"),)
    unknown = set(choice.categories) - {probe.category for probe in evidence.probes}
    return (undecided(rule, f"no probe has the category {names(unknown)} of {rule}"),) if unknown else ()
