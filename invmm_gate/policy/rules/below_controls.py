"""The rule `below_controls`: probes that look more memorized than images that the model cannot have seen."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Final, Literal, final

from pydantic import Field, field_validator

from invmm_gate.core.marks import LOWER, NAME
from invmm_gate.core.records import Group, Measurement, Probe
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.conformal import Key, benjamini_hochberg, exact, p_values
from invmm_gate.policy.evidence import Evidence, Selection, block, control_keys, key_of, undecided
from invmm_gate.policy.field_types import Number
from invmm_gate.policy.rules.rule import RELEASE, Description, blind_spots

Family = tuple[tuple[Probe, Measurement], ...]
"""Probes with their measurements."""


class AgainstControls(Selection):
    """Probes that are held against the controls."""

    @field_validator("groups")
    @classmethod
    def _no_controls(cls, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        if "control" in groups:
            raise ValueError("this rule cannot judge the group 'control' against itself")
        return groups


class BelowControlsConfig(AgainstControls):
    """Blocks probes that are outliers against the controls at a false discovery rate of `fdr`."""

    rule: Annotated[Literal["below_controls"], NAME]
    fdr: Annotated[Number, Field(gt=0, lt=1), LOWER]
    """The share of false findings that is accepted among the findings of this rule (Benjamini-Hochberg). The group
    `sample` has this rate by itself, and all others together have it."""


DESCRIPTION: Final = Description(
    short="The probe is an outlier against images that the model cannot have seen",
    full="The score of this probe is lower than those of the controls allow, at the false discovery rate of the "
    "policy.",
    help=RELEASE,
    severity="7.0",
    blocks="{probe} is an outlier against the controls",
    leaves_open="{probe} has neither a score nor a share of replicating samples",
    limit_is_public=True,
)


@final
@dataclass(frozen=True, slots=True)
class BelowControls:
    """Blocks probes that look more memorized than the controls, at a false discovery rate."""

    config: BelowControlsConfig

    def findings(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Probes that are outliers against the controls; a finding of its own where the rule cannot be decided."""
        chosen = evidence.selected(self.config)
        controls = control_keys(evidence)
        level = exact(self.config.fdr)
        smallest = Fraction(1, len(controls) + 1)
        if smallest > level:
            message = (
                f"{len(controls)} controls are too few for an FDR of {self.config.fdr:g}: p is never below {smallest}"
            )
            return (undecided(self.config.rule, message),)
        flagged = tuple(found for family in families(chosen) for found in self._outliers(family, controls, level))
        return blind_spots(self.config, self.config.rule, evidence) + self._without_share(chosen) + flagged

    def _outliers(self, family: Family, controls: tuple[Key, ...], level: Fraction) -> Iterator[Finding]:
        keys = [key_of(found) for _, found in family]
        raw = [p if can_be_outlier(key) else Fraction(1) for p, key in zip(p_values(keys, controls), keys, strict=True)]
        for (probe, _), p, adjusted in zip(family, raw, benjamini_hochberg(raw), strict=True):
            if adjusted <= level:
                yield self._finding(probe, float(p), float(adjusted))

    def _finding(self, probe: Probe, p: float, adjusted: float) -> Finding:
        message = f"{probe.id} ({probe.group}) is an outlier against the controls: p {p:.4g}, adjusted {adjusted:.4g}"
        return block(self.config.rule, probe.id, message, value=adjusted, limit=self.config.fdr)

    def _without_share(self, chosen: Family) -> tuple[Finding, ...]:
        return tuple(
            undecided(self.config.rule, f"{probe.id} has neither a score nor a share of replicating samples", probe.id)
            for probe, found in chosen
            if found.invmm is None and found.share is None
        )


def families(chosen: Family) -> tuple[Family, ...]:
    """The probes that share a false discovery rate: a random draw by itself, all others together.

    Among hundreds of images that nobody suspects, an outlier of the others would not stand out.
    """
    drawn = tuple(each for each in chosen if each[0].group == "sample")
    others = tuple(each for each in chosen if each[0].group != "sample")
    return tuple(family for family in (others, drawn) if family)


def can_be_outlier(key: Key) -> bool:
    """A probe without a score that no sample replicates is never an outlier."""
    score, minus_share = key
    return score < float("inf") or minus_share < 0


def cannot_fire(rule: BelowControlsConfig, controls: int, where: str) -> str:
    """The sentence for too few controls."""
    return (
        f"below_controls: cannot fire with {controls} controls ({where}): the smallest p-value is 1/{controls + 1}, "
        f"above the FDR {rule.fdr:g}"
    )
