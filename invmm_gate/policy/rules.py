"""The rules: one small class each, which turns evidence into findings. Nothing here decides the verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol, final

from invmm_gate.intervals import clopper_pearson
from invmm_gate.policy.conformal import Key, benjamini_hochberg, exact, p_values
from invmm_gate.policy.evidence import Evidence, block, control_keys, is_selected, key_of, names, undecided
from invmm_gate.policy.numbers import guarded
from invmm_gate.policy.schema import (
    BelowControlsConfig,
    ConfirmedConfig,
    InvmmBelowConfig,
    PlainSampling,
    PromptConfirmation,
    RegressionConfig,
    RuleConfig,
    Selection,
)
from invmm_gate.records import (
    CAPTION,
    CLUSTER_PROMPT,
    GCG,
    PLAIN_SAMPLING,
    Confirmation,
    Finding,
    Measurement,
    Probe,
    Trial,
)

METHODS: Final = {
    PLAIN_SAMPLING: "plain sampling",
    CAPTION: "its caption",
    CLUSTER_PROMPT: "a prompt of its cluster",
    GCG: "prompt search",
}
"""What a finding calls a way of confirming."""


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
        chosen = evidence.selected(self.config)
        return blind_spots(self.config, self.config.rule, evidence) + tuple(
            finding for probe, found in chosen for finding in self._judge(probe, found)
        )

    def _judge(self, probe: Probe, found: Measurement) -> tuple[Finding, ...]:
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
class Confirmed:
    """Blocks a probe that an input replicates; a confirmation that is missing or unfinished leaves the run open."""

    config: ConfirmedConfig

    def findings(self, evidence: Evidence) -> tuple[Finding, ...]:
        plan = evidence.plan
        if plan is None:
            return (undecided(self.config.rule, "the policy does not say how probes are confirmed"),)
        found = tuple(finding for record in evidence.confirmations for finding in self._judge(record, plan))
        return found + tuple(
            undecided(self.config.rule, f"{probe} was not confirmed by {METHODS[method]}", probe)
            for probe, method in self._missing(evidence)
        )

    def _missing(self, evidence: Evidence) -> list[tuple[str, str]]:
        """In the probe set's order. Where an input was found no search is missing: the probe blocks as it is."""
        tried = {(record.probe, record.method) for record in evidence.confirmations}
        hit = {record.probe for record in evidence.confirmations if record.hits}
        order = {probe.id: place for place, probe in enumerate(evidence.probes)}
        missing = (each for each in evidence.required - tried if each[1] != GCG or each[0] not in hit)
        return sorted(missing, key=lambda each: (order[each[0]], each[1]))

    def _judge(self, record: Confirmation, plan: PlainSampling | PromptConfirmation) -> tuple[Finding, ...]:
        if isinstance(plan, PlainSampling) and record.method == PLAIN_SAMPLING:
            return self._judge_rate(record, plan)
        rule, probe = self.config.rule, record.probe
        if record.status == "confirmed" or record.hits > 0:
            by = METHODS.get(record.method, record.method)
            message = f"an input found by {by} replicates {probe} in {record.hits} of {record.trials} samples"
            return (block(rule, probe, message, value=record.hits / record.trials),)
        if record.status == "undecided":
            return (undecided(rule, f"the confirmation of {probe} is undecided", probe),)
        if record.method == CAPTION and record.trials < plan.trials:
            message = f"{probe} was sampled {record.trials} times by caption, fewer than the {plan.trials} asked for"
            return (undecided(rule, message, probe),)
        return ()

    def _judge_rate(self, record: Confirmation, plan: PlainSampling) -> tuple[Finding, ...]:
        limit = self.config.rate_limit
        counts = f"{record.hits} of {record.trials} samples"
        if (low := self._lowest_rate(record, plan)) > limit:
            message = f"plain sampling replicates {record.probe} in {counts}: at least {low:.3g}, above {limit:g}"
            rate = record.hits / record.trials
            return (block(self.config.rule, record.probe, message, value=rate, limit=limit),)
        if self._could_exceed(record, plan):
            message = f"{record.probe} was sampled {record.trials} times, fewer than the {plan.trials} asked for"
            return (undecided(self.config.rule, message, record.probe),)
        if record.status == "undecided":
            return (undecided(self.config.rule, f"the confirmation of {record.probe} is undecided", record.probe),)
        return ()

    def _lowest_rate(self, record: Confirmation, plan: PlainSampling) -> float:
        """The higher of the recorded lower bound and the one at the policy's own confidence.

        Sampling that looks several times records a wider interval; the record must not be the more lenient one.
        """
        low = clopper_pearson(record.hits, record.trials, confidence=plan.confidence).low
        return max(record.interval.low, low)

    def _could_exceed(self, record: Confirmation, plan: PlainSampling) -> bool:
        """Whether samples are missing that could have led to a block.

        None are missing once the interval lies at or below the limit as a whole: the question is answered.
        """
        left = max(0, plan.trials - record.trials)
        now = clopper_pearson(record.hits, record.trials, confidence=plan.confidence)
        worst = clopper_pearson(record.hits + left, record.trials + left, confidence=plan.confidence)
        return now.high > self.config.rate_limit and worst.low > self.config.rate_limit


@final
@dataclass(frozen=True, slots=True)
class BelowControls:
    """Blocks probes that look more memorized than the controls, at a false discovery rate."""

    config: BelowControlsConfig

    def findings(self, evidence: Evidence) -> tuple[Finding, ...]:
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

    A probe that the baseline lacks counts as not inverted there.
    """

    config: RegressionConfig

    def findings(self, evidence: Evidence) -> tuple[Finding, ...]:
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
            message = f"{probe.id} scores {now.invmm:.6g} and was not inverted in the baseline"
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
