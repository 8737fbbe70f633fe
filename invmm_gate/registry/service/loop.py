"""The service's loop: one pass at a time, sooner when woken, and the gates that the passes ask for."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Final, final

from invmm_gate.core.errors import GateError
from invmm_gate.registry.client.client import VersionRecord
from invmm_gate.registry.service.alias_audit import Alert
from invmm_gate.registry.service.ledger import backoff
from invmm_gate.registry.service.logs import LOGGER
from invmm_gate.registry.service.reconcile import Found, Reconciler
from invmm_gate.registry.service.worker import Worker

_PAUSE: Final = 1.0
"""Seconds between two passes at least: however many webhooks come at once, they are one pass."""


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
                LOGGER.warning("the reconcile pass was cut short: %s", error, exc_info=not isinstance(error, GateError))
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
                LOGGER.info("queued %s version %s: it has no verdict of ours", record.name, record.version)
                self._taken.add(record.label)
                self._queue.put(record)

    def _gates(self) -> None:
        for record in iter(self._queue.get, None):
            noted = False
            try:
                noted = self._worker.gate(record)
            except Exception:  # the thread's outermost loop
                LOGGER.exception("gating %s version %s failed", record.name, record.version)
            self._taken.discard(record.label)
            if noted:  # else the next pass in its turn is soon enough
                self._wake.set()
