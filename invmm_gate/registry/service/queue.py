"""The durable queue of versions to gate: what was accepted outlives a kill, no version is worked on twice at once."""

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

from invmm_gate.core.errors import INCONCLUSIVE, ConfigError, GateError
from invmm_gate.registry.service.disks import refuse_network_disk
from invmm_gate.registry.service.queue_tables import AGAIN, CLAIM, COLUMNS, SCHEMA, TABLES

State = Literal["queued", "running", "done", "failed"]
Offered = Literal["queued", "known", "replay", "full"]

LONGEST_WAIT: Final = 3600.0
"""Seconds that a job waits at most; one that is to wait longer was written before the clock was set back."""
KEEP_DELIVERIES: Final = 7 * 86_400.0
"""Seconds; far above any window of timestamps, after which a replay is refused by its age."""


class QueueError(GateError):
    """A queue that cannot be read or written, such as on a full disk: nothing is accepted meanwhile."""

    exit_code = INCONCLUSIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One version to gate, or gated."""

    id: int
    name: str
    version: str
    created_at_ms: int | None
    """When the registry says that the version was made; a model that is deleted and made again begins at 1 again."""
    state: State
    attempts: int
    """Starts of the gate, this one included; those that the registry's absence spoilt are not counted."""
    waits: int
    """Waits in a row for a registry that did not answer."""
    token: str | None
    """Proves that a worker still holds the job."""
    outcome: str | None
    exit_code: int | None
    log: str | None
    terms: str
    """What an ended job was judged under (`terms_of`)."""


@final
class Queue:
    """SQLite file with the deliveries that were accepted and one job a version. For many threads and processes.

    `owner` names this file among the receivers of a registry, across restarts.
    Times are seconds since 1970, given by the caller. Raises ConfigError where the file cannot be used, QueueError
    where it fails later.
    """

    def __init__(self, path: Path, *, depth: int = 10_000) -> None:
        self.path, self._depth, self._lock = path, depth, threading.Lock()
        try:
            refuse_network_disk(_made_private(path))
            self._database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            self._database.row_factory = sqlite3.Row
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")  # what was answered with 202 outlives a power cut
            with self._transaction() as database:
                self._make_tables()
                self.owner: str = database.execute("SELECT id FROM owner").fetchone()["id"]
        except (sqlite3.Error, OSError, QueueError) as error:
            raise ConfigError(
                f"cannot use {path}: {error}",
                expected="a queue that serve or sync of this version made",
                do="move it away: every version is then found and gated anew",
            ) from error

    def close(self) -> None:
        """The queue cannot be used afterwards."""
        with self._lock:
            self._database.close()

    def offer(self, name: str, version: str, *, delivery: str, now: float) -> Offered:
        """Take a delivery in, durably. A known delivery changes nothing; a full queue keeps no trace of it."""
        with self._transaction() as database:
            if database.execute("SELECT 1 FROM deliveries WHERE id = ?", (delivery,)).fetchone():
                return "replay"
            known = self._find(name, version)
            if known is None and self._count("queued") >= self._depth:
                return "full"
            database.execute("INSERT INTO deliveries (id, received) VALUES (?, ?)", (delivery, now))
            if known is None:
                self._insert(name, version, created_at_ms=None, now=now)
            return "known" if known else "queued"

    def notice(
        self, name: str, version: str, *, created_at_ms: int, terms: str, now: float, again: bool = False
    ) -> bool:
        """Queue a version that the registry lists, unless this very version is queued, running or ended already.

        What ended under other terms counts as not ended. `again` also queues what failed or stayed inconclusive.
        Returns whether it was queued. No depth limit: what exists must be gated.
        """
        with self._transaction() as database:
            job = self._find(name, version)
            if job is None:
                self._insert(name, version, created_at_ms=created_at_ms, now=now)
                return True
            same = job.created_at_ms == created_at_ms and job.outcome != "gone" and job.terms == terms
            if job.state in ("queued", "running") or (same and not (again and job.outcome not in ("pass", "block"))):
                return False
            database.execute(AGAIN, (created_at_ms, now, job.id))
            return True

    def claim(self, owner: str, *, now: float, lease: float) -> Job | None:
        """The next job whose turn it is, for `lease` seconds; one whose holder let its lease run out is taken again."""
        values = {"token": secrets.token_hex(16), "owner": owner, "until": now + lease, "now": now}
        with self._transaction() as database:
            row = database.execute(CLAIM, values | {"far": now + LONGEST_WAIT}).fetchone()
            return Job(**row) if row else None

    def renew(self, job: Job, *, until: float) -> bool:
        """Hold a claimed job until that time; False if somebody else has it by now."""
        return self._held(job, "lease_until = ?", (until,))

    def identify(self, job: Job, created_at_ms: int) -> bool:
        """Note which version of that number it is; False if somebody else has the job by now."""
        return self._held(job, "created_at_ms = ?", (created_at_ms,))

    def release(self, job: Job, *, not_before: float, counted: bool) -> bool:
        """Put a claimed job back; `counted` says whether the attempt was a fair one. False if it is not held."""
        change = "waits = 0" if counted else "waits = waits + 1, attempts = attempts - 1"
        return self._held(job, f"state = 'queued', token = NULL, not_before = ?, {change}", (not_before,))

    def finish(
        self,
        job: Job,
        *,
        state: Literal["done", "failed"],
        outcome: str,
        terms: str,
        exit_code: int | None,
        log: str,
        now: float,
    ) -> bool:
        """End a claimed job for good; False if somebody else has it by now, and nothing is changed."""
        change = "state = ?, outcome = ?, terms = ?, exit_code = ?, log = ?, ended_at = ?, token = NULL"
        return self._held(job, change, (state, outcome, terms, exit_code, log, now))

    def find(self, name: str, version: str) -> Job | None:
        """The job of a version."""
        with self._transaction():
            return self._find(name, version)

    def jobs(self) -> tuple[Job, ...]:
        """All jobs, oldest first."""
        with self._transaction() as database:
            return tuple(Job(**row) for row in database.execute(f"SELECT {COLUMNS} FROM jobs ORDER BY id"))  # noqa: S608

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        states: tuple[State, ...] = ("queued", "running", "done", "failed")
        with self._transaction():
            return {state: self._count(state) for state in states}

    def prune(self, *, now: float) -> None:
        """Forget deliveries that any receiver would refuse for their age."""
        with self._transaction() as database:
            database.execute("DELETE FROM deliveries WHERE received < ?", (now - KEEP_DELIVERIES,))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time, from the first read on; on disk when the block has ended."""
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    yield self._database
                    self._database.execute("COMMIT")
                except BaseException:
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise QueueError(f"the queue {self.path} failed: {error}", do="see that its disk has room") from error

    def _make_tables(self) -> None:
        found = self._database.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            for statement in TABLES.split(";\n"):
                self._database.execute(statement)
            self._database.execute("INSERT INTO owner (id) VALUES (?)", (secrets.token_hex(8),))
            self._database.execute(f"PRAGMA user_version = {SCHEMA}")
        elif found != SCHEMA:
            raise QueueError(f"its layout is number {found}, not {SCHEMA}")

    def _find(self, name: str, version: str) -> Job | None:
        query = f"SELECT {COLUMNS} FROM jobs WHERE name = ? AND version = ?"  # noqa: S608
        row = self._database.execute(query, (name, version)).fetchone()
        return Job(**row) if row else None

    def _count(self, state: State) -> int:
        return int(self._database.execute("SELECT count(*) FROM jobs WHERE state = ?", (state,)).fetchone()[0])

    def _insert(self, name: str, version: str, *, created_at_ms: int | None, now: float) -> None:
        columns = "INSERT INTO jobs (name, version, created_at_ms, not_before, queued_at) VALUES (?, ?, ?, 0, ?)"
        self._database.execute(columns, (name, version, created_at_ms, now))

    def _held(self, job: Job, change: str, values: tuple[Any, ...]) -> bool:
        with self._transaction() as database:
            query = f"UPDATE jobs SET {change} WHERE id = ? AND state = 'running' AND token = ?"  # noqa: S608
            return database.execute(query, (*values, job.id, job.token)).rowcount == 1


def _made_private(path: Path) -> Path:
    """The folder of the file, which is there afterwards, readable by nobody else; SQLite's side files take its mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
    return path.parent
