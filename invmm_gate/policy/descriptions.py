"""Descriptions of findings for readers who do not know the gate, by the name of the rule or check."""

from collections.abc import Mapping
from typing import Final

from invmm_gate.policy import controls, coverage, soundness
from invmm_gate.policy.rules import known
from invmm_gate.policy.rules.rule import EVIDENCE, Description

DESCRIPTIONS: Final[Mapping[str, Description]] = {
    **known.DESCRIPTIONS,
    **coverage.DESCRIPTIONS,
    controls.CONTROLS: controls.DESCRIPTION,
    soundness.RECORDS: soundness.DESCRIPTION,
}
OTHER: Final = Description(
    short="A rule of the policy is broken",
    full="A rule that this version of the report has no description of.",
    help=EVIDENCE,
)


def description_of(rule: str) -> Description:
    """The description of the rule; a general one for a rule that is not known."""
    return DESCRIPTIONS.get(rule, OTHER)
