"""`sync`: one pass over the registry, and the work that it found."""

from collections import Counter
from dataclasses import dataclass

from invmm_gate.core.errors import INCONCLUSIVE, PASS
from invmm_gate.registry.service.reconcile import Pass
from invmm_gate.registry.service.serve import Door


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What one `sync` did."""

    found: Pass
    outcomes: dict[str, int]
    """Outcome, or state where there is none yet -> number of versions."""
    unsettled: int
    """Versions without a pass or block, other than deleted ones."""
    waiting: int
    """Verdicts that the registry does not know yet."""

    @property
    def exit_code(self) -> int:
        """0 if every version has a verdict that the registry knows, and nothing is without a proof; a block counts."""
        wrong = self.unsettled or self.waiting or self.found.alerts or self.found.unusable
        return INCONCLUSIVE if wrong else PASS

    def summary(self) -> dict[str, object]:
        """For machines."""
        return {
            "listed": self.found.listed,
            "queued": list(self.found.queued),
            "outcomes": self.outcomes,
            "without_verdict": self.unsettled,
            "not_sent": self.waiting,
            "unusable_names": list(self.found.unusable),
            "alerts": [str(alert) for alert in self.found.alerts],
            "lapsed": [str(alert) for alert in self.found.lapsed],
            "exit_code": self.exit_code,
        }

    def __str__(self) -> str:
        """One line."""
        outcomes = ", ".join(f"{number} {outcome}" for outcome, number in self.outcomes.items()) or "none"
        return (
            f"{self.found.listed} versions listed, {len(self.found.queued)} new; all so far: {outcomes};"
            f" {self.unsettled} without a verdict, {self.waiting} not sent yet, {len(self.found.alerts)} alerts,"
            f" {len(self.found.lapsed)} lapsed approvals"
        )


def sync(door: Door, *, again: bool = False, gate: bool = True) -> Synced:
    """One reconcile pass, then the queue's work as far as it is due. Raises RegistryError where the pass fails."""
    queue = door.queue()
    worker = door.new_worker(queue)
    found = door.reconciler(queue).once(again=again)
    while gate and worker.work_once():
        continue
    outcomes = Counter(job.outcome or job.state for job in queue.jobs())
    unsettled = sum(number for outcome, number in outcomes.items() if outcome not in ("pass", "block", "gone"))
    queue.close()
    waiting = len(door.outbox.parcels()) if door.outbox else 0
    return Synced(found=found, outcomes=dict(sorted(outcomes.items())), unsettled=unsettled, waiting=waiting)
