"""Whether a task ends after a test, and the trial that it ends with."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from invmm_gate.core.intervals import replication_share
from invmm_gate.core.records import Outcome, Trial
from invmm_gate.core.settings import InversionSettings
from invmm_gate.measure.sensitivity import TestResult
from invmm_gate.measure.slots import Slot


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
