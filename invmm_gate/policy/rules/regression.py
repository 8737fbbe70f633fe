"""The rule `regression`: probes that became easier to reproduce than in the baseline run."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal, final

from pydantic import Field

from invmm_gate.core.marks import HIGHER, NAME
from invmm_gate.core.records import Measurement, Probe
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.evidence import Evidence, Selection, block, undecided
from invmm_gate.policy.field_types import Number, guarded
from invmm_gate.policy.rules.rule import RELEASE, Description, blind_spots


class RegressionConfig(Selection):
    """Blocks a probe whose score fell by more than `margin` (nats per dimension) against the baseline run."""

    rule: Annotated[Literal["regression"], NAME]
    margin: Annotated[Number, Field(gt=0), HIGHER]
    """How far a score may fall, in nats per latent dimension."""


DESCRIPTION: Final = Description(
    short="The probe is more memorized than in the last approved run",
    full="The score of this probe fell by more than the margin of the policy against the blessed baseline.",
    help=f"{RELEASE} To accept the new scores, bless this run as the baseline.",
    severity="7.0",
    blocks="{probe} is easier to reproduce than in the baseline",
    leaves_open="{probe} was stopped too early to be compared with the baseline",
)


@final
@dataclass(frozen=True, slots=True)
class Regression:
    """Blocks a probe that became easier to reproduce than in the baseline run.

    A probe that the baseline lacks, or has with another image or caption, counts as not inverted there.
    """

    config: RegressionConfig

    def findings(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Probes that fell by more than the margin, and those that could not be judged."""
        if evidence.baseline is None:
            message = "no baseline was given: pass --baseline RUN or drop the rule regression"
            return (undecided(self.config.rule, message),)
        baseline = evidence.baseline
        return blind_spots(self.config, self.config.rule, evidence) + tuple(
            finding
            for probe, found in evidence.selected(self.config)
            for finding in self._judge(probe, found, baseline.get(probe.id))
        )

    def _judge(self, probe: Probe, now: Measurement, before: Measurement | None) -> tuple[Finding, ...]:
        old = None if before is None else before.invmm
        if old is None:
            if now.invmm is None:
                return ()
            reason = "the baseline has no score of this very probe" if before is None else "it was not inverted before"
            message = f"{probe.id} scores {now.invmm:.6g}, and {reason}"
            return (block(self.config.rule, probe.id, message, value=now.invmm),)
        limit = old - self.config.margin
        if now.invmm is not None and now.invmm <= guarded(limit):
            message = f"{probe.id} fell from {old:.6g} to {now.invmm:.6g}, by more than {self.config.margin:g}"
            return (block(self.config.rule, probe.id, message, value=now.invmm, limit=limit),)
        if now.invmm_above is not None and now.invmm_above < guarded(limit):
            message = f"{probe.id} was stopped above {now.invmm_above:.6g}, too low to compare with {old:.6g} before"
            return (undecided(self.config.rule, message, probe.id),)
        return ()
