"""The worker: takes a job, starts the gate as a child process, and records what it ended with."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from invmm_gate.core.errors import BAD_INPUT, BLOCK, INCONCLUSIVE, ConfigError, ProbeSetError, RegistryError
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.promote.gate_process import machine_lock, run_child
from invmm_gate.registry.promote.outcome import SAME_FILES, read_outcome
from invmm_gate.registry.service.claims import Claims, Standing
from invmm_gate.registry.service.lease import Lease
from invmm_gate.registry.service.logs import LOGGER
from invmm_gate.registry.service.queue import LONGEST_WAIT, Job, Queue, QueueError

_FINAL: Final = ("pass", "block", "bad_input")
_IDLE: Final = 2.0
"""Seconds between looks into the queue when nothing wakes the worker: another process may have filled it."""
_AWAY: Final = 300.0
"""Seconds after which a registry that did not answer, or another receiver's work, is looked at again at the latest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How jobs are worked on."""

    command: tuple[str, ...]
    """The gate's command; `--outcome=FILE`, `--`, name and version are put behind it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the gate is told that not everybody on the machine may read."""
    state: Path
    """Folder for `logs` and `locks`."""
    terms: Callable[[], str]
    """What versions are judged under now (`terms_of`). Raises ConfigError, ProbeSetError."""
    retries: int = 3
    """Fresh starts after an attempt without a verdict. Waits for a registry that is away are not counted."""
    first_wait: float = 5.0
    """Seconds before the first fresh start, doubled for each further one up to LONGEST_WAIT."""
    lease: float = 120.0
    grace: float = 10.0
    """Seconds that a running gate gets to stop."""


@final
class Worker:
    """Works on one job at a time. `claims` is None where no other receiver works on the same registry."""

    def __init__(self, queue: Queue, registry: Registry, claims: Claims | None, settings: WorkerSettings) -> None:
        self._queue, self._registry, self._claims, self._settings = queue, registry, claims, settings
        self._stop = threading.Event()
        self._wake = threading.Event()

    def wake(self) -> None:
        """There is new work."""
        self._wake.set()

    def stop(self) -> None:
        """Ends `run` within the grace time; a gate that runs is ended and its job goes back to the queue."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Work until stopped. Whatever fails is logged, and the job keeps its place."""
        while not self._stop.is_set():
            self._wake.clear()
            try:
                if self.work_once():
                    continue
            except QueueError as error:
                LOGGER.error("%s", error)
            except Exception:  # the thread's outermost loop: the lease of its job runs out, and it is taken again
                LOGGER.exception("the worker failed")
            self._wake.wait(_IDLE)

    def work_once(self) -> bool:
        """Take the next job and bring it one step further; False if none is due."""
        job = self._queue.claim(self._queue.owner, now=time.time(), lease=self._settings.lease)
        if job is None:
            return False
        try:
            if job.attempts > self._settings.retries + 1:  # the machine or the worker died every time
                self._finish(job, "error", self._settings.terms())
                return True
            with machine_lock(self._settings.state / "locks" / f"{job.id:06d}.lock") as lock:
                if lock is None:
                    self._postpone(job, "a gate that an earlier worker left behind still runs")
                else:
                    self._gate(job, lock)
        except RegistryError as error:
            self._postpone(job, str(error))
        except (ConfigError, ProbeSetError) as error:
            self._postpone(job, str(error), level=logging.ERROR)
        except KeyboardInterrupt:
            self._queue.release(job, not_before=0, counted=False)
            raise
        return True

    def _gate(self, job: Job, lock: int) -> None:
        standing = self._standing(job, self._settings.terms())
        if standing.state == "gone":
            self._finish(job, "gone", standing.terms)
        elif standing.state == "ended":
            self._identify(job, standing)
            self._finish(job, standing.outcome, standing.terms)
        elif standing.state == "elsewhere":
            self._postpone(job, "another receiver works on it", until=standing.until)
        elif self._stop.is_set():  # which also cuts short the wait that makes a claim sure
            self._queue.release(job, not_before=0, counted=False)
        else:
            self._identify(job, standing)
            self._run_gate(job, standing, lock)

    def _standing(self, job: Job, terms: str) -> Standing:
        if self._claims is not None:
            return self._claims.take(job.name, job.version, self._stop.wait, terms=terms)
        record = self._registry.version(job.name, job.version)
        return Standing(state="held", record=record, terms=terms) if record else Standing(state="gone")

    def _identify(self, job: Job, standing: Standing) -> None:
        if standing.record is not None:
            self._queue.identify(job, standing.record.created_at_ms)

    def _run_gate(self, job: Job, standing: Standing, lock: int) -> None:
        log = self._settings.state / "logs" / f"{job.id:06d}-{job.attempts:02d}-{secrets.token_hex(4)}.log"
        LOGGER.info("gating %s version %s, attempt %d: %s", job.name, job.version, job.attempts, log)
        told = log.with_suffix(".json")
        with Lease(self._queue, job, self._claims, standing, self._settings.lease) as lease:
            code = run_child(
                [*self._settings.command, f"--outcome={told}", "--", job.name, job.version],
                log=log,
                lock=lock,
                go_on=lambda: not self._stop.is_set() and lease.kept(),
                grace=self._settings.grace,
                added=self._settings.environment,
            )
        attempt = _Attempt(code=code, log=log, told=told, terms=standing.terms)
        ended = self._conclude(job, attempt) if lease.standing.state != "gone" else self._end(job, "gone", attempt)
        if self._claims is not None and standing.record is not None and lease.standing.state == "held":
            try:
                self._claims.end(standing.record, ended.outcome, terms=ended.terms)
            except RegistryError as error:
                LOGGER.warning("the claim on %s version %s stays until it runs out: %s", job.name, job.version, error)

    def _conclude(self, job: Job, attempt: "_Attempt") -> "_Ended":
        """What it ended with; nothing where the job goes back to the queue."""
        code = attempt.code
        if code is None:
            self._queue.release(job, not_before=0, counted=False)
            LOGGER.warning("stopped gating %s version %s; it stays queued", job.name, job.version)
            return _Ended()
        told = read_outcome(attempt.told, code)
        if told is not None and told.name in _FINAL:
            return self._end(job, told.name, attempt, terms=told.terms)
        if told is not None and told.name == SAME_FILES:
            self._postpone(job, "another gate measures the same files, for this version too", level=logging.INFO)
            return _Ended()
        if code in (BAD_INPUT, BLOCK):  # without an outcome, so nothing is wrong with the version
            self._postpone(job, f"the gate itself cannot work (exit {code}): see {attempt.log}", level=logging.ERROR)
            return _Ended()
        self._registry.require_answer()  # else the absence of the registry spoilt the attempt
        if self._registry.version(job.name, job.version) is None:
            return self._end(job, "gone", attempt)
        if job.attempts <= self._settings.retries:
            wait = backoff(job.attempts, first=self._settings.first_wait)
            self._queue.release(job, not_before=time.time() + wait, counted=True)
            LOGGER.warning("no verdict on %s version %s (exit %d); again in %.0f s", job.name, job.version, code, wait)
            return _Ended()
        return self._end(job, "inconclusive" if code == INCONCLUSIVE else "error", attempt)

    def _end(self, job: Job, outcome: str, attempt: "_Attempt", terms: str = "") -> "_Ended":
        ended = _Ended(outcome=outcome, terms=terms or attempt.terms)
        self._finish(job, outcome, ended.terms, exit_code=attempt.code, log=str(attempt.log))
        return ended

    def _finish(self, job: Job, outcome: str, terms: str, *, exit_code: int | None = None, log: str = "") -> None:
        ended = self._queue.finish(
            job,
            state="failed" if outcome == "error" else "done",
            outcome=outcome,
            terms=terms,
            exit_code=exit_code,
            log=log,
            now=time.time(),
        )
        LOGGER.info("%s version %s: %s%s", job.name, job.version, outcome, "" if ended else " (by a worker too late)")

    def _postpone(self, job: Job, reason: str, *, until: float = 0.0, level: int = logging.WARNING) -> None:
        """Back to the queue; the attempt does not count, as the version has no part in what went wrong."""
        now = time.time()
        wait = backoff(job.waits + 1, first=self._settings.first_wait, longest=_AWAY)
        not_before = min(max(until, now + wait), now + _AWAY)
        self._queue.release(job, not_before=not_before, counted=False)
        LOGGER.log(level, "%s version %s waits %.0f s: %s", job.name, job.version, not_before - now, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """A gate that was started."""

    code: int | None
    """Exit code; None if it was stopped."""
    log: Path
    told: Path
    """The file of its outcome."""
    terms: str
    """Those of when it was started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """How a job ended; without an outcome it did not."""

    outcome: str = ""
    terms: str = ""


def backoff(times: int, *, first: float, longest: float = LONGEST_WAIT) -> float:
    """Seconds to wait after the n-th failure: doubling, capped, cut by up to a half so that receivers spread out."""
    full = min(longest, first * 2.0 ** min(times - 1, 40))
    return full * (1 - secrets.randbelow(1000) / 2000)
