"""The rule `invmm_below`: a score at or below a threshold."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, Self, final

from pydantic import Field, model_validator

from invmm_gate.core.marks import HIGHER, NAME, apart
from invmm_gate.core.records import Measurement, Probe, StretchedTest, Trial
from invmm_gate.core.settings import FARTHEST, InversionSettings
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.evidence import Evidence, Selection, block, undecided
from invmm_gate.policy.field_types import NotNegative, Number, guarded
from invmm_gate.policy.rules.rule import RELEASE, Description, blind_spots

_SMALLEST_SCORE: Final = 2.0**-23
"""Spacing of float32 at 1: the measure cannot tell a score below it from 0."""
_FAR_ENOUGH: Final = 0.05
"""Nats per dimension. A higher threshold may lie beyond what the search reaches, as it only blocks more."""
THRESHOLDS: Final[Mapping[str, float]] = {"threshold": 1.0, "threshold_nats": 1.0, "threshold_bits": math.log(2)}
"""The keys that a threshold can be given under, in the order of the messages -> nats in one of its unit."""
_ADAM_STEP: Final = (1 - 0.9) / math.sqrt(1 - 0.999)
"""Learning rates that a parameter moves at most in one step of Adam with its default betas. Source: arXiv:1412.6980."""


_NOT_ALONE: Final = apart("the three thresholds are compared as one limit")


class InvmmBelowConfig(Selection):
    """Blocks a probe whose score is at or below a threshold. Exactly one of the three thresholds is given.

    A threshold per dimension means something else for each model: 0.05 is 38 nats for a latent of 768 dimensions, and
    819 nats for one of 16,384. In total nats or bits a threshold means the same for all.
    """

    rule: Annotated[Literal["invmm_below"], NAME]
    threshold: Annotated[NotNegative | None, _NOT_ALONE] = None
    """The highest score that blocks, in nats per latent dimension, as reports print scores."""
    threshold_nats: Annotated[NotNegative | None, _NOT_ALONE] = None
    """The same in nats, over all latent dimensions together."""
    threshold_bits: Annotated[NotNegative | None, _NOT_ALONE] = None
    """The same in bits, over all latent dimensions together: 30 bits are about one in 10^9."""
    share: Annotated[Annotated[Number, Field(gt=0, le=1)] | None, HIGHER] = None
    """Blocks also a probe with a higher score, or none, of which this share of a recorded test's samples, drawn at a
    normality at or below the threshold, replicates it: 7 of 8 is no inversion, and no safety either. None = an
    inversion is needed."""

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        given = [name for name in THRESHOLDS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"found {found}, expected exactly one of {', '.join(THRESHOLDS)}")
        return self

    @property
    def given(self) -> tuple[str, float]:
        """Name and value of the threshold that is given."""
        return next((name, value) for name in THRESHOLDS if (value := getattr(self, name)) is not None)

    @property
    def total_nats(self) -> float | None:
        """The threshold in nats over all dimensions; None where it is given per dimension."""
        name, value = self.given
        return None if name == "threshold" else value * THRESHOLDS[name]

    def limit(self, dimensions: int | None) -> float | None:
        """The threshold in nats per dimension, for a latent of so many; None if that takes a number that is unknown."""
        if self.total_nats is None:
            return self.threshold
        return None if dimensions is None else self.total_nats / dimensions

    def said(self, score: float, dimensions: int | None) -> str:
        """A score, in nats per dimension, in the unit of the threshold, and in bits."""
        name, _ = self.given
        if dimensions is None:
            return f"{score:.6g}"
        nats = score * dimensions
        bits = f"{nats / math.log(2):.1f} bits"
        return {"threshold": f"{score:.6g} ({bits})", "threshold_nats": f"{nats:.6g} nats ({bits})"}.get(name, bits)

    def said_limit(self, dimensions: int | None) -> str:
        """The threshold as it is given, and in bits."""
        name, value = self.given
        nats = self.total_nats if dimensions is None or self.threshold is None else self.threshold * dimensions
        bits = "" if nats is None else f" ({nats / math.log(2):.1f} bits)"
        return {"threshold": f"{value:g}{bits}", "threshold_nats": f"{value:g} nats{bits}"}.get(name, f"{value:g} bits")


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
        chosen, dimensions = evidence.selected(self.config), evidence.dimensions
        if self.config.limit(dimensions) is None:
            return (undecided(self.config.rule, "the run does not say how many dimensions its latent has"),)
        return blind_spots(self.config, self.config.rule, evidence) + tuple(
            finding for probe, found in chosen for finding in self.judged(probe, found, dimensions)
        )

    def judged(self, probe: Probe, found: Measurement, dimensions: int | None) -> tuple[Finding, ...]:
        """What one probe's measurement breaks or leaves open, for a latent of so many dimensions."""
        limit = self.config.limit(dimensions)
        if limit is None:
            return ()  # `findings` says so
        said, at = self.config.said, self.config.said_limit(dimensions)
        if found.invmm is not None and found.invmm <= guarded(limit):
            message = f"{probe.id} ({probe.group}) scores {said(found.invmm, dimensions)}, at or below {at}"
            return (block(self.config.rule, probe.id, message, value=found.invmm, limit=limit),)
        if found.invmm_above is not None and found.invmm_above < guarded(limit):
            message = (
                f"{probe.id} was stopped above {said(found.invmm_above, dimensions)}, too low to compare with {at}"
            )
            return (undecided(self.config.rule, message, probe.id),)
        # Those of inverted trials too: what is certified above the limit may replicate in part below it.
        tests = [test for trial in found.trials for test in _recorded_tests(trial)]
        enough = [test for test in tests if self._replicates_partly(test, limit)]
        # Of those at one normality the largest: it says most.
        nearest = sorted(enough, key=lambda test: (test.normality, -test.share.trials))[:1]
        return tuple(self._partly(probe, found, test, dimensions) for test in nearest)

    def _replicates_partly(self, test: StretchedTest, limit: float) -> bool:
        least = self.config.share
        if least is None:
            return False
        return test.share.hits >= least * test.share.trials and test.normality <= guarded(limit)

    def _partly(self, probe: Probe, found: Measurement, test: StretchedTest, dimensions: int | None) -> Finding:
        said, limit = self.config.said, self.config.limit(dimensions)
        score = "was not inverted" if found.invmm is None else f"scores {said(found.invmm, dimensions)}"
        message = (
            f"{probe.id} ({probe.group}) {score}, yet {test.share.hits} of {test.share.trials} samples replicate it at "
            f"normality {said(test.normality, dimensions)}, at or below {self.config.said_limit(dimensions)}"
        )
        return block(self.config.rule, probe.id, message, value=test.normality, limit=limit)


def _recorded_tests(trial: Trial) -> tuple[StretchedTest, ...]:
    """Every recorded test of the trial; where there is none, its share at the last point of its curve."""
    if trial.tests or trial.share is None or not trial.curve:
        return trial.tests
    return (StretchedTest(stretch=1.0, normality=trial.curve[-1].normality, share=trial.share),)


def faults(
    config: InvmmBelowConfig, settings: Iterable[InversionSettings], *, dimensions: int | None = None
) -> Iterator[str]:
    """Why the rule could block nothing, whatever is measured under any of these settings.

    Without the number of latent dimensions only what holds for every number is said.
    """
    limit = config.limit(dimensions)
    highest = config.given[1] if limit is None else limit  # one dimension at least
    if highest < _SMALLEST_SCORE:
        yield f"invmm_below: a threshold of {config.said_limit(None)} blocks only a score of exactly 0"
    if limit is None:
        return
    reached = [_farthest(each) for each in settings]
    needed = min(limit, _FAR_ENOUGH)
    if reached and max(reached) < needed:
        yield (
            f"invmm_below: steps and learning_rate reach a normality of at most {max(reached):.3g}, so the search ends "
            f"before {needed:g}"
        )


def _farthest(settings: InversionSettings) -> float:
    """A bound on the normality of any noise distribution that the search can reach, in nats per dimension."""
    stretched = FARTHEST if settings.certify_at == "last_step" else 1.0
    moved = min(stretched * settings.steps * settings.learning_rate * _ADAM_STEP, 100.0)
    return 0.5 * (moved * moved + math.exp(moved) - moved - 1)
