"""The reconcile pass: every version of a watched model ends up in the queue, whatever became of its webhook.

What a version says about itself is never a reason to leave it out: tags can be set by hand and are copied along with a
version. Only this queue's own record counts, and only for the very version that the registry made at that time.
"""

import datetime
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, final

from invmm_gate.core.errors import GateError, RegistryError
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.client.names import APPROVED, CLAIM, POSING, is_registry_name, release_name, unusable_name
from invmm_gate.registry.client.watched import Watched
from invmm_gate.registry.promote.delivery import drain
from invmm_gate.registry.promote.held_attestations import Doubts
from invmm_gate.registry.promote.outbox import Outbox, OutboxBusyError, Parcel
from invmm_gate.registry.service.logs import LOGGER
from invmm_gate.registry.service.queue import Queue
from invmm_gate.registry.service.worker import backoff

_ALL: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A version that nothing vouches for, with a protected alias or in a release model; or one posing as a prompt."""

    name: str
    version: str
    alias: str
    """Empty where it is about the version itself."""
    reason: str
    removed: bool
    lapsed: bool = False
    """Whether it is an alias `approved-...` of a release whose verdict has merely run out: old, and nobody's slip."""

    def __str__(self) -> str:
        """One line."""
        if not self.alias:
            return f"{self.name} version {self.version}: {self.reason}"
        done = "removed" if self.removed else "still there"
        return f"alias {self.alias} of {self.name} on version {self.version}: {self.reason}; {done}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one pass found."""

    listed: int
    queued: tuple[str, ...]
    unusable: tuple[str, ...]
    """Models whose names the gate does not work on: their versions get no verdict."""
    alerts: tuple[Alert, ...]
    lapsed: tuple[Alert, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the registry listed."""

    listed: int
    queued: list[str]
    unusable: tuple[str, ...]
    suspects: list[VersionRecord]
    """Versions of which it has to be asked what speaks for them."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciler:
    """Holds the registry against the queue's own records."""

    registry: Registry
    queue: Queue
    watched: Watched
    doubts: Doubts
    terms: Callable[[], str]
    """What versions are judged under now (`terms_of`)."""
    aliases: frozenset[str] = frozenset(("champion",))
    """Protected aliases, beside those that begin with `approved-`."""
    enforce: bool = False
    """Take a protected alias away from a version that nothing vouches for."""
    outbox: Outbox | None = None
    """Verdicts that could not be sent when they were reached; sent before each pass."""
    ours: Callable[[Parcel], Parcel] | None = None
    """Puts what waits there under this gate's own keys and policy (`drain`); without it nothing is sent."""
    _told: set[str] = field(default_factory=set, init=False)
    """Unusable names that were told of."""

    def once(self, *, again: bool = False, every: float = math.inf) -> Pass:
        """One pass, newest versions first. `again` also queues what failed or stayed inconclusive.

        Files are looked at last; while that lasts, new versions are looked for every so many seconds. Raises
        RegistryError, and ConfigError or ProbeSetError for terms that cannot be told; what was queued until then stays
        queued.
        """
        self._send_what_waits()
        found, at = self._find(again=again), time.monotonic()
        self._tell(found.unusable)
        queued, alerts = list(found.queued), []
        for record in found.suspects:
            if time.monotonic() - at >= every:
                queued, at = queued + self._find().queued, time.monotonic()
            alerts += self._alerts(record)
        self.queue.prune(now=time.time())
        return Pass(
            listed=found.listed,
            queued=tuple(queued),
            unusable=found.unusable,
            alerts=tuple(alert for alert in alerts if not alert.lapsed),
            lapsed=tuple(alert for alert in alerts if alert.lapsed),
        )

    def _find(self, *, again: bool = False) -> "_Found":
        """Queue what is new."""
        terms = self.terms()
        listed, queued, unusable, suspects = 0, [], set(), []
        for record in self._listed():
            listed += 1
            if not is_registry_name(record.name):
                unusable.add(record.name)
            elif self.watched.gates(record.name) and self._notice(record, terms, again):
                queued.append(record.label)
            if self._protected(record) or POSING in record.tags or self.watched.is_release(record.name):
                suspects.append(record)
        return _Found(listed=listed, queued=queued, unusable=tuple(sorted(unusable)), suspects=suspects)

    def _tell(self, unusable: tuple[str, ...]) -> None:
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

    def _notice(self, record: VersionRecord, terms: str, again: bool) -> bool:
        queued = self.queue.notice(
            record.name,
            record.version,
            created_at_ms=record.created_at_ms,
            terms=terms,
            now=time.time(),
            again=again,
        )
        if queued:
            LOGGER.info("queued %s version %s: found without a verdict of ours", record.name, record.version)
        if queued and again and CLAIM in record.tags:
            self.registry.delete_tag(record.name, record.version, CLAIM)  # else it would be believed to have ended
        return queued

    def _protected(self, record: VersionRecord) -> list[str]:
        return [alias for alias in record.aliases if alias in self.aliases or alias.startswith(APPROVED)]

    def _alerts(self, record: VersionRecord) -> list[Alert]:
        """Told at once: an alias that was taken away must be told of, whatever becomes of the pass."""
        alerts = self._doubts(record)
        if POSING in record.tags:
            hides = f"its tag {POSING} hides the model from MLflow's own lists"
            alerts.append(Alert(name=record.name, version=record.version, alias="", reason=hides, removed=False))
        for alert in alerts:
            if alert.removed or not alert.lapsed:  # a lapsed one stays so, and is in the pass's result
                LOGGER.log(logging.INFO if alert.lapsed else logging.WARNING, "%s", alert)
        return alerts

    def _doubts(self, record: VersionRecord) -> list[Alert]:
        """One for each protected alias, or one for a version of a release model without any."""
        if aliases := self._protected(record):
            reason, known = _asked(lambda: self.doubts.of_alias(record, anew=self.enforce))
            if not reason:
                return []
            remove, lapsed = self.enforce and known, known and self._lapsed(record)
            alerts = [self._alert(record, alias, reason, remove=remove) for alias in aliases]
            return [replace(alert, lapsed=lapsed and alert.alias.startswith(APPROVED)) for alert in alerts]
        if self.watched.is_release(record.name):
            reason, _ = _asked(lambda: self.doubts.of_release(record))
            said = f"only the gate should write to a release model: {reason}"
            return [self._alert(record, "", said, remove=False)] if reason else []
        return []

    def _lapsed(self, record: VersionRecord) -> bool:
        """Whether the gate released it, on a verdict that has run out and was not taken back."""
        if not self.watched.is_release(record.name):
            return False
        reason, known = _asked(lambda: self.doubts.of_approval(record))
        return known and not reason

    def _alert(self, record: VersionRecord, alias: str, reason: str, *, remove: bool) -> Alert:
        """Another look before the alias goes: it may have been moved to a good version meanwhile."""
        removed = bool(alias) and remove and self.registry.aliases(record.name).get(alias) == record.version
        if removed:
            self.registry.delete_alias(record.name, alias)
        return Alert(name=record.name, version=record.version, alias=alias, reason=reason, removed=removed)


def _asked(doubt: Callable[[], str]) -> tuple[str, bool]:
    """What is wrong with a version, and whether that is known: what cannot be checked is no reason to remove."""
    try:
        return doubt(), True
    except RegistryDownError:
        raise
    except RegistryError as error:
        return f"cannot be checked now: {error}", False


@final
class ReconcileLoop:
    """Passes at an interval, sooner when woken; a registry that is away is asked again with backoff."""

    def __init__(self, reconciler: Reconciler, *, every: float, found: Callable[[], None]) -> None:
        """`every` is in seconds; `found` is called after a pass that queued something."""
        self._reconciler, self._every, self._found = reconciler, every, found
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ends `run` once its requests are answered."""
        self._stop.set()

    def run(self) -> None:
        """Pass after pass until stopped; whatever fails is logged, and the next pass lists everything again."""
        failures = 0
        while not self._stop.is_set():
            try:
                failures = 0 if self._pass() else failures + 1
            except Exception:  # the thread's outermost loop
                LOGGER.exception("the reconcile pass failed")
                failures += 1
            self._stop.wait(backoff(failures, first=2.0, longest=self._every) if failures else self._every)

    def _pass(self) -> bool:
        try:
            found = self._reconciler.once(every=self._every)
        except GateError as error:
            LOGGER.warning("the reconcile pass was cut short: %s", error)
            return False
        if found.queued:
            self._found()
        return True
