"""The rules: one small class each, which turns evidence into findings. Nothing here decides the verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol, final

from invmm_gate.core.records import (
    Finding,
    Measurement,
    Probe,
    Trial,
)
from invmm_gate.policy.confirmed import Confirmed
from invmm_gate.policy.conformal import Key, benjamini_hochberg, exact, p_values
from invmm_gate.policy.evidence import Evidence, block, control_keys, is_selected, key_of, names, undecided
from invmm_gate.policy.numbers import guarded
from invmm_gate.policy.schema import (
    BelowControlsConfig,
    InvmmBelowConfig,
    RegressionConfig,
    RuleConfig,
    Selection,
)


class Rule(Protocol):
    """A rule of a policy."""

    def findings(self, evidence: Evidence) -> tuple[Finding, ...]:
        """Every breach, and every question that the evidence leaves open."""
        ...


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
        keys = [key_of(found) for _, found in chosen]
        raw = [p if can_be_outlier(key) else Fraction(1) for p, key in zip(p_values(keys, controls), keys, strict=True)]
        flagged = tuple(
            self._finding(probe, float(p), float(adjusted))
            for (probe, _), p, adjusted in zip(chosen, raw, benjamini_hochberg(raw), strict=True)
            if adjusted <= level
        )
        return blind_spots(self.config, self.config.rule, evidence) + self._without_share(chosen) + flagged

    def _finding(self, probe: Probe, p: float, adjusted: float) -> Finding:
        message = f"{probe.id} ({probe.group}) is an outlier against the controls: p {p:.4g}, adjusted {adjusted:.4g}"
        return block(self.config.rule, probe.id, message, value=adjusted, limit=self.config.fdr)

    def _without_share(self, chosen: tuple[tuple[Probe, Measurement], ...]) -> tuple[Finding, ...]:
        return tuple(
            undecided(self.config.rule, f"{probe.id} has neither a score nor a share of replicating samples", probe.id)
            for probe, found in chosen
            if found.invmm is None and found.share is None
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


RULES: Final[dict[str, Callable[..., Rule]]] = {
    "invmm_below": InvmmBelow,
    "confirmed": Confirmed,
    "below_controls": BelowControls,
    "regression": Regression,
}


def rule_for(config: RuleConfig) -> Rule:
    """The rule that a policy entry asks for."""
    return RULES[config.rule](config)


def can_be_outlier(key: Key) -> bool:
    """A probe without a score that no sample replicates is never an outlier."""
    score, minus_share = key
    return score < float("inf") or minus_share < 0


def blind_spots(choice: Selection, rule: str, evidence: Evidence) -> tuple[Finding, ...]:
    """A rule that looks at no probe, or at a category that no probe has, is a slip that must not pass."""
    if not any(is_selected(probe, choice) for probe in evidence.probes):
        return (undecided(rule, f"{rule} looks at no probe: none is in its groups and categories"),)
    unknown = set(choice.categories) - {probe.category for probe in evidence.probes}
    return (undecided(rule, f"no probe has the category {names(unknown)} of {rule}"),) if unknown else ()
