"""From tests to a trial, and from the trials of a probe to its measurement."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from invmm_gate.core.intervals import replication_share
from invmm_gate.core.records import Measurement, Outcome, Probe, ReplicationShare, StretchedTest, Trial
from invmm_gate.core.settings import InversionSettings
from invmm_gate.measure.likelihood import draws_to_certify
from invmm_gate.measure.sensitivity import TestResult
from invmm_gate.measure.slots import Slot, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A test of the slot's distribution, moved away from N(0, I) or towards it."""

    result: TestResult
    stretch: float
    """Factor on mu and ln sigma^2; 1 = as it was optimised."""
    normality: float
    """In nats per latent dimension."""


Test = Callable[[Slot, str, int, float, tuple[float, ...]], Tested]
"""(slot, purpose that seeds the noises, samples, stretch, guidance scales) -> a full test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A finished trial and the test that it describes."""

    trial: Trial
    tested: Tested


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The rules by which a task ends."""

    settings: InversionSettings
    test: Test

    def of(self, slot: Slot, result: TestResult) -> Ended | None:
        """The finished trial, or None if the task goes on."""
        tested = Tested(result=result, stretch=1.0, normality=slot.curve[-1].normality)
        if result.passed:
            return self._succeeded(slot, _noted(slot, tested))
        if slot.tests_above >= self.settings.stop_tests:
            ended = _ended(slot, "above_threshold", _noted(slot, tested))
            return replace(ended, trial=replace(ended.trial, invmm_above=self.settings.stop_above))
        return self._stretched(slot, _noted(slot, tested)) if slot.must_end(self.settings) else None

    def _stretched(self, slot: Slot, tested: Tested) -> Ended | None:
        """The last chance: further from N(0, I) more samples may be copies."""
        best = tested
        for stretch in self.settings.stretches:
            samples, scales = self.settings.test_samples, self.settings.guidance_scales
            further = self._again(slot, f"stretch {stretch:g}", samples, stretch, scales)
            if not further.result.finite:
                return broken(slot, further.result)
            if further.result.passed:
                return self._succeeded(slot, further)
            best = max(best, further, key=lambda each: each.result.hits)
        return _ended(slot, "not_inverted", best)

    def _succeeded(self, slot: Slot, tested: Tested) -> Ended | None:
        """An inverted trial as near to N(0, I) as it still replicates, if that can be certified.

        Stretch, guidance scale and shared prompt are chosen before the fresh draws that certify them, so that each
        attempt is one chance to be wrong, whatever they were chosen from.
        """
        if not _draws_of_an_attempt(self.settings):
            nearest = self._shrunk(slot, tested)
            return _ended(slot, "inverted", nearest) if nearest.result.finite else broken(slot, nearest.result)
        last = self.settings.stretches if slot.must_end(self.settings) else ()
        outwards = (tested.stretch, *(tested.stretch * each for each in last))
        if self.settings.certify_first == "nearest":
            return self._concluded(slot, tested, self._nearest(slot, tested, outwards))
        found = self._certified(slot, tested, outwards)
        if found is None or not found.result.passed:
            return self._concluded(slot, tested, found)
        nearer = self._nearest(slot, found)
        better = nearer is not None and (nearer.result.passed or not nearer.result.finite)
        return self._concluded(slot, tested, nearer if better else found)

    def _nearest(self, slot: Slot, tested: Tested, outwards: tuple[float, ...] = ()) -> Tested | None:
        """An attempt nearer to N(0, I): where that fails by a sample or two, one further away may not."""
        shrunk = self._shrunk(slot, tested)
        if not shrunk.result.finite:
            return shrunk
        inwards = (shrunk.stretch, (shrunk.stretch + tested.stretch) / 2) if shrunk.stretch < tested.stretch else ()
        return self._certified(slot, tested, (*inwards, *outwards))

    def _certified(self, slot: Slot, tested: Tested, stretches: tuple[float, ...]) -> Tested | None:
        """The first of these that fresh draws certify, else the last one tried; None if no attempt is left."""
        fresh = None
        for stretch in stretches[: self.settings.certifications - slot.certifications]:
            slot.certifications += 1
            purpose, samples = f"certify {slot.certifications}", _draws_of_an_attempt(self.settings)
            fresh = self._again(slot, purpose, samples, stretch, _chosen(tested))
            if fresh.result.passed or not fresh.result.finite:
                break
        return fresh

    def _concluded(self, slot: Slot, tested: Tested, fresh: Tested | None) -> Ended | None:
        """What the last attempt to certify makes of a success; None if the search goes on."""
        if fresh is not None and not fresh.result.finite:
            return broken(slot, fresh.result)
        share = replication_share(fresh.result.hits, fresh.result.trials) if fresh is not None else None
        if fresh is not None and fresh.result.passed:
            return _ended(slot, "inverted", fresh, confirmation=share)
        if slot.must_end(self.settings) or slot.certifications >= self.settings.certifications:
            return _ended(slot, "not_inverted", tested, confirmation=share)
        return None

    def _again(self, slot: Slot, purpose: str, samples: int, stretch: float, scales: tuple[float, ...]) -> Tested:
        return _noted(slot, self.test(slot, purpose, samples, stretch, scales))

    def _shrunk(self, slot: Slot, tested: Tested) -> Tested:
        """The nearest to N(0, I) that still succeeds, by bisection of the stretch."""
        least = 0.0
        # At a normality of 0 the whole of N(0, I) replicates.
        for number in range(self.settings.shrink_tests if tested.normality > 0 else 0):
            stretch = (least + tested.stretch) / 2
            nearer = self._again(slot, f"shrink {number}", self.settings.test_samples, stretch, _chosen(tested))
            if not nearer.result.finite:
                return nearer
            if nearer.result.passed:
                tested = nearer
            else:
                least = stretch
        return tested


_ERROR: Final = 0.05
"""The probability that all attempts to certify the share of a probe in one seed's trials are wrong together."""


def _draws_of_an_attempt(settings: InversionSettings) -> int:
    """Fresh draws that must all replicate; 0 without a share to certify. Image and mirror image share the error."""
    if settings.certified_share is None:
        return 0
    attempts = settings.certifications * (2 if settings.mirror else 1)
    return draws_to_certify(settings.certified_share, _ERROR / attempts)


def _chosen(tested: Tested) -> tuple[float, ...]:
    """The guidance scale at which the test was passed."""
    scale = tested.result.guidance_scale
    return () if scale is None else (scale,)


def _noted(slot: Slot, tested: Tested) -> Tested:
    """The test, kept for the trial's record."""
    if tested.result.finite:
        share = replication_share(tested.result.hits, tested.result.trials)
        slot.tests += (StretchedTest(stretch=tested.stretch, normality=tested.normality, share=share),)
    return tested


def broken(slot: Slot, result: TestResult) -> Ended:
    """A trial in error: it can never help a pass."""
    reason = f"NaN or infinity from the network or the copy metric by step {slot.step}"
    ended = _ended(slot, "error", Tested(result=result, stretch=1.0, normality=0.0))
    return replace(ended, trial=replace(ended.trial, share=None, reason=reason))


def _ended(slot: Slot, outcome: Outcome, tested: Tested, *, confirmation: ReplicationShare | None = None) -> Ended:
    result = tested.result
    trial = Trial(
        seed=slot.task.seed,
        outcome=outcome,
        invmm=tested.normality if outcome == "inverted" else None,
        invmm_above=None,
        steps=slot.step,
        evaluations=slot.evaluations,
        mirrored=slot.task.mirrored,
        guidance_scale=result.guidance_scale,
        share=replication_share(result.hits, result.trials),
        confirmation=confirmation,
        curve=slot.curve,
        tests=slot.tests,
    )
    return Ended(trial=trial, tested=tested)


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
