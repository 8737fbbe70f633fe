"""The rule `invmm_below`: a score at or below a threshold."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Literal, final

from pydantic import Field

from invmm_gate.core.marks import HIGHER, LOWER, NAME
from invmm_gate.core.records import Measurement, Probe, Trial
from invmm_gate.core.settings import InversionSettings
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.evidence import Evidence, Selection, block, undecided
from invmm_gate.policy.field_types import NotNegative, Number, guarded
from invmm_gate.policy.rules.rule import RELEASE, Description, blind_spots

_SMALLEST_SCORE: Final = 2.0**-23
"""Spacing of float32 at 1: the measure cannot tell a score below it from 0."""
_FAR_ENOUGH: Final = 0.05
"""The threshold of `strict`: a higher one may lie beyond what the search reaches, as it only blocks more."""
_ADAM_STEP: Final = (1 - 0.9) / math.sqrt(1 - 0.999)
"""Learning rates that a parameter moves at most in one step of Adam with its default betas. Source: arXiv:1412.6980."""


class InvmmBelowConfig(Selection):
    """Blocks a probe whose score is at or below `threshold`, in nats per latent dimension."""

    rule: Annotated[Literal["invmm_below"], NAME]
    threshold: Annotated[NotNegative, LOWER]
    """The highest score that blocks, in nats per latent dimension."""
    share: Annotated[Annotated[Number, Field(gt=0, le=1)] | None, HIGHER] = None
    """Blocks also a probe without a score of which this share of the last test's samples, drawn at a normality at or
    below the threshold, replicates it: 7 of 8 is no inversion, and no safety either. None = an inversion is needed."""


DESCRIPTION: Final = Description(
    short="The probe is memorized: its InvMM is at or below the policy's threshold",
    full="InvMM is how far noise must be bent away from its usual distribution until every draw regenerates the "
    "image. The score of this probe is at or below the threshold of the policy.",
    help=RELEASE,
    severity="8.0",
    blocks="{probe} is easier to reproduce than the limit on InvMM allows",
    leaves_open="{probe} was stopped too early to be held against the limit on InvMM",
    limit_is_public=True,
)


@final
@dataclass(frozen=True, slots=True)
class InvmmBelow:
    """Blocks a score at or below the threshold; scores within the guard band above it count as below."""

    config: InvmmBelowConfig

    def findings(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Probes at or below the threshold, and those that could not be judged."""
        chosen = evidence.selected(self.config)
        return blind_spots(self.config, self.config.rule, evidence) + tuple(
            finding for probe, found in chosen for finding in self.judged(probe, found)
        )

    def judged(self, probe: Probe, found: Measurement) -> tuple[Finding, ...]:
        """What one probe's measurement breaks or leaves open."""
        threshold = self.config.threshold
        if found.invmm is not None and found.invmm <= guarded(threshold):
            message = f"{probe.id} ({probe.group}) scores {found.invmm:.6g}, at or below {threshold:g}"
            return (block(self.config.rule, probe.id, message, value=found.invmm, limit=threshold),)
        if found.invmm_above is not None and found.invmm_above < guarded(threshold):
            message = f"{probe.id} was stopped above {found.invmm_above:.6g}, too low to compare with {threshold:g}"
            return (undecided(self.config.rule, message, probe.id),)
        return tuple(self._partly(probe, trial) for trial in found.trials if self._replicates_partly(trial))[:1]

    def _replicates_partly(self, trial: Trial) -> bool:
        least = self.config.share
        if least is None or trial.invmm is not None or trial.share is None or not trial.curve:
            return False
        enough = trial.share.hits >= least * trial.share.trials
        return enough and trial.curve[-1].normality <= guarded(self.config.threshold)

    def _partly(self, probe: Probe, trial: Trial) -> Finding:
        hits, trials = (trial.share.hits, trial.share.trials) if trial.share else (0, 0)
        level = trial.curve[-1].normality
        message = (
            f"{probe.id} ({probe.group}) was not inverted, yet {hits} of {trials} samples replicate it"
            f" at normality {level:.4g}, at or below {self.config.threshold:g}"
        )
        return block(self.config.rule, probe.id, message, value=level, limit=self.config.threshold)


def faults(config: InvmmBelowConfig, settings: Iterable[InversionSettings]) -> Iterator[str]:
    """Why the rule could block nothing, whatever is measured under any of these settings."""
    if config.threshold < _SMALLEST_SCORE:
        yield f"invmm_below: a threshold of {config.threshold:g} blocks only a score of exactly 0"
    reached = [_farthest(each) for each in settings]
    needed = min(config.threshold, _FAR_ENOUGH)
    if reached and max(reached) < needed:
        yield (
            f"invmm_below: steps and learning_rate reach a normality of at most {max(reached):.3g}, so the search ends "
            f"before {needed:g}"
        )


def _farthest(settings: InversionSettings) -> float:
    """A bound on the normality of any noise distribution that the search can reach, in nats per dimension."""
    moved = min(settings.steps * settings.learning_rate * _ADAM_STEP, 100.0)
    return 0.5 * (moved * moved + math.exp(moved) - moved - 1)
