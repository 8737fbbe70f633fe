"""From tests to a trial, and from the trials of a probe to its measurement."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from invmm_gate.core.intervals import replication_share
from invmm_gate.core.records import Measurement, Outcome, Probe, ReplicationShare, Trial
from invmm_gate.core.settings import InversionSettings
from invmm_gate.measure.sensitivity import TestResult
from invmm_gate.measure.slots import Slot, Task


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The rules by which a task ends."""

    settings: InversionSettings
    confirm: Callable[[Slot], TestResult]
    """Draws the independent batch that a profile may ask for after a success."""

    def of(self, slot: Slot, result: TestResult) -> Trial | None:
        """The finished trial, or None if the task goes on."""
        if result.passed:
            return self._confirmed(slot, result)
        if slot.tests_above >= self.settings.stop_tests:
            return replace(_trial(slot, "above_threshold", result), invmm_above=self.settings.stop_above)
        return _trial(slot, "not_inverted", result) if slot.must_end(self.settings) else None

    def _confirmed(self, slot: Slot, result: TestResult) -> Trial | None:
        """An inverted trial, once the independent batch (if the profile asks for one) replicates as a whole."""
        level, count = slot.curve[-1].normality, self.settings.confirmation_samples
        if not count:
            return replace(_trial(slot, "inverted", result), invmm=level)
        second = self.confirm(slot)
        slot.evaluations += second.evaluations
        if not second.finite:
            return broken(slot, second)
        batch = replication_share(second.hits, count)
        if second.passed:
            return replace(_trial(slot, "inverted", result), invmm=level, confirmation=batch)
        if slot.must_end(self.settings):
            return replace(_trial(slot, "not_inverted", result), confirmation=batch)
        return None


def broken(slot: Slot, result: TestResult) -> Trial:
    """A trial in error: it can never help a pass."""
    reason = f"NaN or infinity from the network or the copy metric by step {slot.step}"
    return replace(_trial(slot, "error", result), share=None, reason=reason)


def _trial(slot: Slot, outcome: Outcome, result: TestResult) -> Trial:
    return Trial(
        seed=slot.task.seed,
        outcome=outcome,
        invmm=None,
        invmm_above=None,
        steps=slot.step,
        evaluations=slot.evaluations,
        mirrored=slot.task.mirrored,
        guidance_scale=result.guidance_scale,
        share=replication_share(result.hits, result.trials),
        confirmation=None,
        curve=slot.curve,
    )


def tasks_for(probes: Iterable[Probe], settings: InversionSettings) -> tuple[Task, ...]:
    """All inversions that the settings ask for, a probe's own next to each other."""
    return tuple(
        Task(probe=probe.id, content=probe.sha256, seed=seed, mirrored=mirrored)
        for probe in probes
        for seed in range(settings.seeds)
        for mirrored in ((False, True) if settings.mirror else (False,))
    )


def summarise(probe: Probe, trials: Sequence[Trial]) -> Measurement:
    """The measurement of a probe: the more memorized one of image and mirror, and the lower median over the seeds.

    The lower median errs towards "memorized". One trial in error makes the probe an error.
    """
    ordered = sorted(trials, key=lambda trial: (trial.seed, trial.mirrored))
    failed = next((trial for trial in ordered if trial.outcome == "error"), None)
    per_seed = [min(group, key=memorization_rank) for _, group in groupby(ordered, key=lambda trial: trial.seed)]
    median = failed or sorted(per_seed, key=memorization_rank)[(len(per_seed) - 1) // 2]
    finite = [trial.invmm for trial in per_seed if trial.invmm is not None]
    return Measurement(
        probe=probe.id,
        group=probe.group,
        category=probe.category,
        outcome=median.outcome,
        invmm=median.invmm,
        invmm_above=median.invmm_above,
        invmm_spread=(min(finite), max(finite)) if finite else None,
        share=None if failed else _added(per_seed),
        steps=sum(trial.steps for trial in ordered),
        evaluations=sum(trial.evaluations for trial in ordered),
        guidance_scale=median.guidance_scale,
        trials=tuple(ordered),
        reason=failed.reason if failed else "",
    )


def memorization_rank(trial: Trial) -> tuple[float, float]:
    """Sorts trials from most to least memorized: score first, then the share of replicating samples."""
    score = trial.invmm if trial.invmm is not None else float("inf")
    share = trial.share.hits / trial.share.trials if trial.share else 0.0
    return (score, -share)


def _added(trials: Iterable[Trial]) -> ReplicationShare:
    shares = [trial.share for trial in trials if trial.share]
    return replication_share(sum(share.hits for share in shares), sum(share.trials for share in shares))
