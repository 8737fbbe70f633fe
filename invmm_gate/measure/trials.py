"""From tests to a trial, and from the trials of a probe to its measurement."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import Final

from invmm_gate.core.intervals import replication_share
from invmm_gate.core.records import Measurement, Outcome, Probe, ReplicationShare, StretchedTest, Trial
from invmm_gate.core.settings import FARTHEST, InversionSettings
from invmm_gate.measure.likelihood import draws_to_certify
from invmm_gate.measure.slots import Slot, Task, Tested

Test = Callable[[Slot, str, tuple[int, ...], float, tuple[float, ...]], Tested]
"""(slot, purpose that seeds the noises, samples needed by misses, stretch, guidance scales) -> a test."""

_ERROR: Final = 0.05
"""The probability that all attempts to certify the share of a probe in one seed's trials are wrong together."""
_OUTWARDS: Final = 1.5
"""The factor by which the next attempt lies further from N(0, I) as long as none succeeded."""


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

    def of(self, slot: Slot, tested: Tested) -> Ended | None:
        """The finished trial, or None if the task goes on."""
        result, last = tested.result, slot.must_end(self.settings)
        if not (result.passed or last):
            return None
        _note(slot, tested)
        if result.passed and self.settings.certified_share is None:
            return _ended(slot, "inverted", tested)
        if not result.passed and slot.tests_above >= self.settings.stop_tests:
            ended = _ended(slot, "above_threshold", tested)
            return replace(ended, trial=replace(ended.trial, invmm_above=self.settings.stop_above))
        return self._certified(slot, tested)

    def _certified(self, slot: Slot, tested: Tested) -> Ended | None:
        """An inverted trial as near to N(0, I) as its share can be certified; None if the search goes on.

        Factor, guidance scale and shared prompt are chosen before the draws of an attempt, so that each attempt is one
        chance to be wrong, whatever they were chosen from. The factor is sought by bisection once one is certified.
        """
        outwards = self.settings.certify_at == "last_step" and slot.must_end(self.settings)
        least, stretch = (0.0, 1.0) if tested.result.passed else (1.0, _OUTWARDS)
        tried, certified = [tested], None
        while stretch <= FARTHEST and self._may_try(slot, tested, certified, outwards=outwards):
            tried.append(self._attempt(slot, stretch, tested))
            if not tried[-1].result.finite:
                return broken(slot, tried[-1])
            if tried[-1].result.passed:
                certified = tried[-1]
            else:
                least = stretch
            if tested.normality == 0 or not (certified or outwards):
                break
            stretch = (least + certified.stretch) / 2 if certified else least * _OUTWARDS
        return self._concluded(slot, tried, certified)

    def _may_try(self, slot: Slot, tested: Tested, certified: Tested | None, *, outwards: bool) -> bool:
        """Whether an attempt may be made. One is kept for the last step, as lucky tests before it could use up all."""
        left, single = self.settings.certifications - slot.certifications, self.settings.certifications == 1
        kept = not (certified or slot.must_end(self.settings) or (single and self.settings.certify_at == "success"))
        return left > kept and self.settings.certified_share is not None and (tested.result.passed or outwards)

    def _attempt(self, slot: Slot, stretch: float, tested: Tested) -> Tested:
        """Fresh draws at the guidance scale at which most samples of the test replicated."""
        slot.certifications += 1
        purpose, needed = f"certify {slot.certifications}", needed_to_certify(self.settings)
        fresh = self.test(slot, purpose, needed, stretch, (tested.result.best_scale,))
        _note(slot, fresh)
        return fresh

    def _concluded(self, slot: Slot, tried: Sequence[Tested], certified: Tested | None) -> Ended | None:
        """What the attempts make of a test; None if the search goes on."""
        if certified:
            return _ended(slot, "inverted", certified, confirmation=_share(certified))
        attempts = [*([slot.nearest] if slot.nearest else []), *tried[1:]]
        slot.nearest = max(attempts, key=_replicating, default=None)
        if slot.must_end(self.settings) or slot.certifications >= self.settings.certifications:
            confirmation = _share(slot.nearest) if slot.nearest else None
            return _ended(slot, "not_inverted", max([tried[0], *attempts], key=_replicating), confirmation=confirmation)
        return None


def _replicating(tested: Tested) -> float:
    return tested.result.hits / tested.result.trials


@cache
def needed_to_certify(settings: InversionSettings) -> tuple[int, ...]:
    """Draws of an attempt by how many of them are no copies. The attempts of image and mirror image share the error.

    Raises ValueError without a share to certify.
    """
    if settings.certified_share is None:
        raise ValueError("no share to certify")
    attempts = settings.certifications * (2 if settings.mirror else 1)
    return draws_to_certify(settings.certified_share, _ERROR / attempts, misses=settings.certify_misses)


def _share(tested: Tested) -> ReplicationShare:
    return replication_share(tested.result.hits, tested.result.trials)


def _note(slot: Slot, tested: Tested) -> None:
    """Keep the test for the trial's record."""
    if tested.result.finite:
        slot.tests += (StretchedTest(stretch=tested.stretch, normality=tested.normality, share=_share(tested)),)


def broken(slot: Slot, tested: Tested) -> Ended:
    """A trial in error: it can never help a pass."""
    reason = f"NaN or infinity from the network or the copy metric by step {slot.step}"
    ended = _ended(slot, "error", tested)
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
        guidance_scale=result.best_scale if result.hits else None,
        share=_share(tested) if result.trials else None,
        confirmation=confirmation,
        curve=slot.curve,
        tests=slot.tests,
        tested_at=tested.step,
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
