"""The worker: starts the gate of one version as a child process, and notes in the ledger what it ended with.

What is noted before a gate starts names its outcome file. After a kill, a later receiver waits for a gate that still
runs, and takes over the outcome of one that has ended: no version is gated a second time for the death of a receiver.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

from invmm_gate.core.errors import BAD_INPUT, BLOCK, INCONCLUSIVE, GateError, RegistryError
from invmm_gate.core.options import TRACKING_URI
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.promote.measure_version import machine_lock
from invmm_gate.registry.service.gate_process import EXIT_CODES, SAME_FILES, Outcome, read_outcome, run_child
from invmm_gate.registry.service.ledger import Entry, Ledger, State, backoff

_LOGGER: Final = logging.getLogger(__name__)
_FINAL: Final[Mapping[str, State]] = {"pass": "pass", "block": "block", "bad_input": "bad_input"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """The settings by which a worker gates versions."""

    command: tuple[str, ...]
    """The gate's command; `--outcome=FILE`, `--`, name and version are put behind it."""
    state: Path
    """Folder of the ledger, `logs` and `locks`."""
    terms: Callable[[], str]
    """What versions are judged under now (`terms_of`). Raises ConfigError, ProbeSetError."""
    retries: int = 3
    """Fresh starts after an attempt without a verdict."""
    first_wait: float = 5.0
    """Seconds before the first fresh start, doubled for each further one up to LONGEST_WAIT."""
    postponed: float = 60.0
    """Seconds before another start after what the version has no part in."""
    grace: float = 10.0
    """Seconds that a running gate gets to stop."""


@final
class Worker:
    """Gates one version at a time in each thread that calls it."""

    def __init__(self, registry: Registry, ledger: Ledger, settings: WorkerSettings) -> None:
        self._registry, self._ledger, self._settings = registry, ledger, settings
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ends every `gate` within the grace time; a version whose gate was ended stays open, without an attempt."""
        self._stop.set()

    def gate(self, record: VersionRecord) -> bool:
        """Bring a version that a pass has listed one step further; False if it failed, which is logged.

        The version then stays open, without an attempt.
        """
        label = record.file_label
        try:
            with machine_lock(self._settings.state / "locks" / f"{label}.lock") as lock:
                entry = self._ledger.of(record, self._settings.terms())
                if self._stop.is_set() or not entry.due(time.time()):
                    pass  # noted since the pass decided
                elif lock is None:
                    self._postpone(record, entry, "a gate that an earlier receiver left behind still runs")
                else:
                    self._step(record, entry, lock)
        except (GateError, OSError) as error:
            level = logging.WARNING if isinstance(error, RegistryError) else logging.ERROR
            _LOGGER.log(level, "%s waits for the next pass: %s", record, error)
            return False
        return True

    def _step(self, record: VersionRecord, entry: Entry, lock: int) -> None:
        left = read_outcome(self._files(entry)[1]) if entry.gate else None
        if left is not None:
            _LOGGER.info("%s: the gate of an earlier receiver has ended", record)
            self._conclude(record, entry, EXIT_CODES[left.name], left)
        elif entry.attempts > self._settings.retries:  # the machine or the receiver died every time
            self._finish(record, entry, "error")
        elif self._is_there(record):
            self._start(record, entry, lock)

    def _start(self, record: VersionRecord, entry: Entry, lock: int) -> None:
        attempt = entry.attempts + 1
        name = f"{record.file_label}-{attempt:02d}-{secrets.token_hex(4)}"
        begun = replace(entry, attempts=attempt, gate=name)
        self._ledger.note(record, begun)
        log, told = self._files(begun)
        _LOGGER.info("gating %s, attempt %d: %s", record, attempt, log)
        try:
            code = run_child(
                [*self._settings.command, f"--outcome={told}", "--", record.name, record.version],
                log=log,
                lock=lock,
                go_on=lambda: not self._stop.is_set(),
                grace=self._settings.grace,
                added={TRACKING_URI: self._registry.uri},
            )
        except BaseException:  # an interruption, or no room for a process
            self._ledger.note(record, entry)
            raise
        if code is None:
            self._ledger.note(record, entry)
            _LOGGER.warning("stopped gating %s; it stays queued", record)
        else:
            self._conclude(record, begun, code, read_outcome(told, code))

    def _conclude(self, record: VersionRecord, entry: Entry, code: int, told: Outcome | None) -> None:
        """Note what a gate ended with; the version stays open where that is no end."""
        uncounted = replace(entry, attempts=entry.attempts - 1, gate="")
        if told is not None and told.name in _FINAL:
            self._finish(record, replace(entry, terms=told.terms or entry.terms), _FINAL[told.name])
        elif told is not None and told.name == SAME_FILES:
            reason = "another gate measures the same files, for this version too"
            self._postpone(record, uncounted, reason, level=logging.INFO)
        elif code in (BAD_INPUT, BLOCK):  # without an outcome, so nothing is wrong with the version
            reason = f"the gate itself cannot work (exit {code}): see {self._files(entry)[0]}"
            self._postpone(record, uncounted, reason, level=logging.ERROR)
        else:
            self._try_again(record, entry, code)

    def _is_there(self, record: VersionRecord) -> bool:
        self._registry.require_answer()
        there = self._registry.version(record.name, record.version) is not None
        if not there:
            _LOGGER.info("%s: gone", record)
        return there

    def _try_again(self, record: VersionRecord, entry: Entry, code: int) -> None:
        try:
            there = self._is_there(record)
        except RegistryError:  # its absence has spoilt the attempt
            self._ledger.note(record, replace(entry, attempts=entry.attempts - 1, gate=""))
            raise
        if there and entry.attempts > self._settings.retries:
            self._finish(record, entry, "inconclusive" if code == INCONCLUSIVE else "error")
        elif there:
            wait = backoff(entry.attempts, first=self._settings.first_wait)
            self._ledger.note(record, replace(entry, gate="", next_try=time.time() + wait))
            said = "no verdict on %s (exit %d); again in %.0f s"
            _LOGGER.warning(said, record, code, wait)

    def _postpone(self, record: VersionRecord, entry: Entry, reason: str, *, level: int = logging.WARNING) -> None:
        """The version has no part in what went wrong."""
        wait = self._settings.postponed
        self._ledger.note(record, replace(entry, next_try=time.time() + wait))
        _LOGGER.log(level, "%s waits %.0f s: %s", record, wait, reason)

    def _finish(self, record: VersionRecord, entry: Entry, state: State) -> None:
        self._ledger.note(record, replace(entry, state=state, gate=""))
        _LOGGER.info("%s: %s", record, state)

    def _files(self, entry: Entry) -> tuple[Path, Path]:
        """Log and outcome of the gate that the entry names."""
        folder = self._settings.state / "logs"
        return folder / f"{entry.gate}.log", folder / f"{entry.gate}.json"
