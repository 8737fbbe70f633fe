"""The reconcile pass decides from the registry, the attestations and the ledger which versions are gated next.

What a version says about itself is never a reason to leave it out: tags can be set by hand and are copied along with a
version. Only the ledger counts, and only for the very version that the registry made at that time.
"""

import datetime
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, final

from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.names import Watched, is_registry_name, release_name, unusable_name
from invmm_gate.registry.promote.delivery import drain
from invmm_gate.registry.promote.outbox import Outbox, OutboxBusyError, Parcel
from invmm_gate.registry.service.alias_audit import Alert, AliasAudit
from invmm_gate.registry.service.ledger import Entry, Ledger, State
from invmm_gate.registry.service.logs import LOGGER

_ALL: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The versions that the registry listed."""

    listed: int
    states: Mapping[State, int]
    """State -> number of versions that are to have a verdict."""
    due: tuple[VersionRecord, ...]
    """The versions that are gated next, newest first."""
    unusable: tuple[str, ...]
    """Models whose names the gate does not work on: their versions get no verdict."""
    suspects: tuple[VersionRecord, ...]
    """Versions of which it has to be asked what speaks for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass with its whole audit."""

    found: Found
    alerts: tuple[Alert, ...]
    """What somebody has to look into."""
    lapsed: tuple[Alert, ...]
    """Approvals whose verdict has merely run out."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciler:
    """Holds the registry against the ledger and the attestations."""

    registry: Registry
    ledger: Ledger
    watched: Watched
    audit: AliasAudit
    terms: Callable[[], str]
    """What versions are judged under now (`terms_of`)."""
    outbox: Outbox | None = None
    """Verdicts that could not be sent when they were reached."""
    ours: Callable[[Parcel], Parcel] | None = None
    """Puts what waits there under this gate's own keys and policy (`drain`); without it nothing is sent."""
    _told: set[str] = field(default_factory=set, init=False)
    """Unusable names that were told of."""

    def find(self, *, again: bool = False) -> Found:
        """List the registry and decide. `again` also opens what failed or stayed inconclusive.

        Raises RegistryError, and ConfigError or ProbeSetError for terms that cannot be told.
        """
        terms, now = self.terms(), time.time()
        listed, states, due, unusable, suspects = 0, Counter[State](), [], set(), []
        for record in self._listed():
            listed += 1
            if not is_registry_name(record.name):
                unusable.add(record.name)
            elif self.watched.gates(record.name):
                entry = self._entry(record, terms, again=again)
                states[entry.state] += 1
                if entry.due(now):
                    due.append(record)
            if self.audit.concerns(record):
                suspects.append(record)
        self._tell(sorted(unusable))
        return Found(
            listed=listed,
            states=states,
            due=tuple(due),
            unusable=tuple(sorted(unusable)),
            suspects=tuple(suspects),
        )

    def alerts(self, found: Found) -> Iterator[list[Alert]]:
        """Send what waits, then say version by version what nothing vouches for. Raises RegistryDownError."""
        self._send_what_waits()
        yield from map(self.audit.alerts, found.suspects)

    def once(self, *, again: bool = False) -> Pass:
        """`find` and all `alerts`."""
        found = self.find(again=again)
        alerts = tuple(itertools.chain.from_iterable(self.alerts(found)))
        return Pass(
            found=found,
            alerts=tuple(alert for alert in alerts if not alert.lapsed),
            lapsed=tuple(alert for alert in alerts if alert.lapsed),
        )

    def _entry(self, record: VersionRecord, terms: str, *, again: bool) -> Entry:
        entry = self.ledger.of(record, terms)
        if again and entry.state not in ("open", "pass", "block"):
            entry = Entry(created_at_ms=record.created_at_ms, terms=terms)
            self.ledger.note(record, entry)
        return entry

    def _tell(self, unusable: list[str]) -> None:
        """Each name once, unless its model was gone in between."""
        for name in unusable:
            if name not in self._told:
                LOGGER.warning("%s", unusable_name(name))
        self._told.clear()
        self._told.update(unusable)

    def _send_what_waits(self) -> None:
        if self.outbox is None or self.ours is None or not self.outbox.parcels():
            return
        try:
            sent = drain(self.outbox, self.registry, ours=self.ours, now=datetime.datetime.now(datetime.UTC))
        except OutboxBusyError:
            return  # the gate that reached the verdict is sending it
        for line in (*(f"sent the verdict on {label}" for label in sent.sent), *sent.errors):
            LOGGER.info("%s", line)

    def _listed(self) -> Iterator[VersionRecord]:
        names = self.watched.names
        releases = {release_name(name, self.watched.release) for name in names}
        return self.registry.versions([*names, *sorted(releases - set(names))], limit=_ALL)
