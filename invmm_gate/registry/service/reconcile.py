"""The reconcile pass decides from the registry, the attestations and the ledger which versions are gated next.

What a version says about itself is never a reason to leave it out: tags can be set by hand and are copied along with a
version. Only the ledger counts, and only for the very version that the registry made at that time. The loop makes one
pass at a time, sooner when it is woken, and has the gates run that the passes ask for.
"""

import datetime
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, final

from invmm_gate.core.errors import GateError
from invmm_gate.core.options import GateChoices
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.registry_names import is_registry_name, release_name, unusable_name
from invmm_gate.registry.promote.outbox import OutboxBusyError, drain, outbox_of
from invmm_gate.registry.service.alias_audit import Alert, AliasAudit
from invmm_gate.registry.service.ledger import Entry, Ledger, State, backoff
from invmm_gate.registry.service.worker import Worker

_LOGGER: Final = logging.getLogger(__name__)
_ALL: Final = 1_000_000
_PAUSE: Final = 1.0
"""Seconds between two passes at least: however many webhooks come at once, they are one pass."""


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
    audit: AliasAudit
    terms: Callable[[], str]
    """What versions are judged under now (`terms_of`)."""
    choices: GateChoices | None = None
    """The choices under which the verdicts of their outbox are sent; without them nothing is sent."""
    _told: set[str] = field(default_factory=set, init=False)
    """Unusable names that were told of."""

    def find(self, *, again: bool = False) -> Found:
        """List the registry and decide. `again` also opens what failed or stayed inconclusive.

        Raises RegistryError, and ConfigError or ProbeSetError for terms that cannot be told.
        """
        terms, now, watched = self.terms(), time.time(), self.audit.watched
        listed, states, due, unusable, suspects = 0, Counter[State](), [], set(), []
        releases = {release_name(name, watched.release) for name in watched.names}
        for record in self.registry.versions([*watched.names, *sorted(releases - set(watched.names))], limit=_ALL):
            listed += 1
            if not is_registry_name(record.name):
                unusable.add(record.name)
            elif watched.gates(record.name):
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
        alerts = [alert for some in self.alerts(found) for alert in some]
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
                _LOGGER.warning("%s", unusable_name(name))
        self._told.clear()
        self._told.update(unusable)

    def _send_what_waits(self) -> None:
        if self.choices is None or not outbox_of(self.choices).parcels():
            return
        try:
            sent = drain(self.choices, self.registry, now=datetime.datetime.now(datetime.UTC))
        except OutboxBusyError:
            return  # the gate that reached the verdict is sending it
        for line in (*(f"sent the verdict on {label}" for label in sent.sent), *sent.errors):
            _LOGGER.info("%s", line)


@final
class Loop:
    """A thread of passes and so many threads of gates, until stopped; whatever fails in them is logged."""

    def __init__(self, reconciler: Reconciler, worker: Worker, *, every: float, workers: int) -> None:
        """`every` is the longest time between two passes, in seconds."""
        self._reconciler, self._worker, self._every = reconciler, worker, every
        self._wake, self._stop = threading.Event(), threading.Event()
        self._queue: queue.SimpleQueue[VersionRecord | None] = queue.SimpleQueue()
        self._taken: set[str] = set()
        """Labels of versions that are in the queue or being gated."""
        self._alerts: Iterator[list[Alert]] | None = None
        """The rest of an audit that made way for a look for new versions."""
        self._audit_at = 0.0
        targets = (self._passes, *[self._gates] * workers)
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]

    def wake(self) -> None:
        """Something may have changed: a pass begins within seconds."""
        self._wake.set()

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self, *, within: float) -> None:
        """End what runs, and wait for it for so many seconds."""
        self._stop.set()
        self._worker.stop()
        self._wake.set()
        for _ in self._threads:
            self._queue.put(None)
        until = time.monotonic() + within
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def alive(self) -> bool:
        """Whether every thread still runs."""
        return all(thread.is_alive() for thread in self._threads)

    def _passes(self) -> None:
        failures = 0
        while not self._stop.is_set():
            self._wake.clear()
            try:
                found = self._reconciler.find()
                self._ask_for(found.due)
                self._audit(found)
                failures, wait = 0, self._every
            except Exception as error:  # the thread's outermost loop: the next pass lists everything again
                failures, wait = failures + 1, backoff(failures + 1, first=2.0, longest=self._every)
                expected = isinstance(error, GateError)
                _LOGGER.warning("the reconcile pass was cut short: %s", error, exc_info=not expected)
            if not self._stop.wait(_PAUSE):
                self._wake.wait(wait)

    def _audit(self, found: Found) -> None:
        """One audit in the time between two passes, which makes way for the next pass: to look at files takes long."""
        began = time.monotonic()
        if self._alerts is None and began < self._audit_at:
            return
        alerts, self._alerts = self._alerts or self._reconciler.alerts(found), None
        for _ in alerts:
            if self._wake.is_set() or time.monotonic() - began >= self._every:
                self._alerts = alerts
                self._wake.set()
                return
        self._audit_at = time.monotonic() + self._every

    def _ask_for(self, due: tuple[VersionRecord, ...]) -> None:
        for record in due:
            if record.label not in self._taken:
                _LOGGER.info("queued %s: it has no verdict of ours", record)
                self._taken.add(record.label)
                self._queue.put(record)

    def _gates(self) -> None:
        for record in iter(self._queue.get, None):
            noted = False
            try:
                noted = self._worker.gate(record)
            except Exception:  # the thread's outermost loop
                _LOGGER.exception("gating %s failed", record)
            self._taken.discard(record.label)
            if noted:  # else the next pass in its turn is soon enough
                self._wake.set()
