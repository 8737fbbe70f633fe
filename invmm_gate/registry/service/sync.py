"""`sync`: one pass over the registry, and the work that it found."""

from dataclasses import dataclass

from invmm_gate.core.errors import INCONCLUSIVE, PASS
from invmm_gate.registry.service.reconcile import Pass
from invmm_gate.registry.service.serve import Door


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """The result of one `sync`."""

    swept: Pass
    outcomes: dict[str, int]
    """Outcome, or `queued` where there is none yet -> number of versions."""
    unsettled: int
    """Versions without a pass or block."""
    waiting: int
    """Verdicts that the registry does not know yet."""

    @property
    def exit_code(self) -> int:
        """0 if every version has a verdict that the registry knows, and nothing is without a proof; a block counts."""
        wrong = self.unsettled or self.waiting or self.swept.alerts or self.swept.found.unusable
        return INCONCLUSIVE if wrong else PASS

    def summary(self) -> dict[str, object]:
        """For machines."""
        return {
            "listed": self.swept.found.listed,
            "queued": [record.label for record in self.swept.found.due],
            "outcomes": self.outcomes,
            "without_verdict": self.unsettled,
            "not_sent": self.waiting,
            "unusable_names": list(self.swept.found.unusable),
            "alerts": [str(alert) for alert in self.swept.alerts],
            "lapsed": [str(alert) for alert in self.swept.lapsed],
            "exit_code": self.exit_code,
        }

    def __str__(self) -> str:
        """One line."""
        found, outcomes = self.swept.found, ", ".join(f"{number} {name}" for name, number in self.outcomes.items())
        return (
            f"{found.listed} versions listed, {len(found.due)} new; all so far: {outcomes or 'none'};"
            f" {self.unsettled} without a verdict, {self.waiting} not sent yet, {len(self.swept.alerts)} alerts,"
            f" {len(self.swept.lapsed)} lapsed approvals"
        )


def sync(door: Door, *, again: bool = False, gate: bool = True) -> Synced:
    """One pass, one step of each version that is due, and a last look. Raises RegistryError where a look fails."""
    with door.opened() as (reconciler, worker):
        swept = reconciler.once(again=again)
        for record in swept.found.due if gate else ():
            worker.gate(record)
        states = reconciler.find().states
    outcomes = {"queued" if state == "open" else state: number for state, number in sorted(states.items())}
    unsettled = sum(number for outcome, number in outcomes.items() if outcome not in ("pass", "block"))
    waiting = len(door.outbox.parcels()) if door.outbox else 0
    return Synced(swept=swept, outcomes=outcomes, unsettled=unsettled, waiting=waiting)
