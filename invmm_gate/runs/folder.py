"""The run folder of DESIGN 4: the only reader and writer of its records."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from filelock import FileLock, Timeout

from invmm_gate.errors import RunFolderError
from invmm_gate.records import Confirmation, Measurement, RunData, RunRecord, SelfCheck, Verdict
from invmm_gate.runs.files import (
    append_line,
    drop_torn_line,
    explained,
    remove_leftovers,
    whole_lines,
    write_whole,
)
from invmm_gate.runs.fingerprint import fingerprint
from invmm_gate.runs.jsonio import from_json, to_json

MEASUREMENTS: Final = "measurements.jsonl"
CONFIRMATIONS: Final = "confirmations.jsonl"
SELF_CHECKS: Final = "self_checks.jsonl"
TIMINGS: Final = "timings.jsonl"
_RECORDS: Final = (MEASUREMENTS, CONFIRMATIONS, SELF_CHECKS, TIMINGS)
_LOCK: Final = ".lock"
_HOLDER: Final = ".lock-holder"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timing:
    """A line of timings.jsonl."""

    probe: str
    seconds: float


Record = TypeVar("Record", Measurement, Confirmation, SelfCheck, _Timing)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's folder."""

    path: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. Raises RunFolderError at once if another holds it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / _LOCK, timeout=0)
            lock.acquire()
        except Timeout as error:
            raise RunFolderError(
                f"{self.path} is in use by {self._holder()}",
                expected="one run a folder",
                do="wait for that run, or give another --out",
            ) from error
        except OSError as error:
            raise explained(error, self.path) from error
        try:
            remove_leftovers(self.path)
            write_whole(self.path / _HOLDER, f"process {os.getpid()} on {socket.gethostname()}")
            yield
        finally:
            lock.release()

    def refuse_if_in_use(self) -> None:
        """Raise RunFolderError if another process holds the folder; found before minutes go into loading."""
        if (self.path / _LOCK).exists():
            with self.locked():
                return

    @contextmanager
    def existing_locked(self) -> Iterator[None]:
        """As `locked`, for a folder that must hold a run already: a mistyped name is not created."""
        self.run()
        with self.locked():
            yield

    def begin(self, run: RunRecord) -> RunRecord:
        """Write run.json, or return the one that is there. Raises RunFolderError if it is of other inputs."""
        path = self.path / "run.json"
        if not path.exists():
            self._refuse_orphans()
            write_whole(path, to_json(run, indent=2) + "\n")
            return run
        found = self.run()
        if found.fingerprint != run.fingerprint or fingerprint(found.inputs) != found.fingerprint:
            changed = [key for key in sorted(run.inputs | found.inputs) if run.inputs.get(key) != found.inputs.get(key)]
            raise RunFolderError(
                f"{self.path} holds a run with another {', '.join(changed) or 'fingerprint than its inputs give'}",
                expected="the same inputs as when it began",
                do="give another --out",
            )
        for name in _RECORDS:
            drop_torn_line(self.path / name)
        return found

    def _refuse_orphans(self) -> None:
        """Records without their run.json could be of any inputs. A crash cannot leave them: run.json comes first."""
        orphans = [name for name in _RECORDS if (self.path / name).exists()]
        if orphans:
            raise RunFolderError(
                f"{self.path} holds {', '.join(orphans)} without run.json",
                expected="the folder of one run, or an empty one",
                do="restore run.json, or give another --out",
            )

    def note(self, run: RunRecord) -> None:
        """Replace run.json, to add to its context."""
        write_whole(self.path / "run.json", to_json(run, indent=2) + "\n")

    def run(self) -> RunRecord:
        """run.json. Raises RunFolderError if there is none."""
        return from_json(RunRecord, self._read("run.json"), where=f"{self.path}/run.json")

    def append(self, record: Measurement | Confirmation | SelfCheck) -> None:
        """Add one record to its file, whole and flushed."""
        name = {Measurement: MEASUREMENTS, Confirmation: CONFIRMATIONS, SelfCheck: SELF_CHECKS}[type(record)]
        append_line(self.path / name, to_json(record))

    def note_seconds(self, probe: str, seconds: float) -> None:
        """Wall time of a probe; kept apart from its measurement, which is byte-identical when repeated."""
        append_line(self.path / TIMINGS, to_json(_Timing(probe=probe, seconds=round(seconds, 3))))

    def in_probe_order(self) -> None:
        """Rewrite measurements and confirmations in the probe set's order, so that equal runs give equal files."""
        order = {probe.id: index for index, probe in enumerate(self.run().probe_set.probes)}
        for name, records in ((MEASUREMENTS, self.measurements()), (CONFIRMATIONS, self.confirmations())):
            if records:
                ordered = sorted(records, key=lambda record: order.get(record.probe, len(order)))
                write_whole(self.path / name, "".join(to_json(record) + "\n" for record in ordered))

    def measurements(self) -> tuple[Measurement, ...]:
        """All complete lines of measurements.jsonl."""
        return self._records(Measurement, MEASUREMENTS)

    def confirmations(self) -> tuple[Confirmation, ...]:
        """All complete lines of confirmations.jsonl."""
        return self._records(Confirmation, CONFIRMATIONS)

    def self_checks(self) -> tuple[SelfCheck, ...]:
        """All complete lines of self_checks.jsonl."""
        return self._records(SelfCheck, SELF_CHECKS)

    def data(self) -> RunData:
        """Everything that was recorded. Raises RunFolderError if the folder holds no run."""
        verdict = self.path / "verdict.json"
        return RunData(
            run=self.run(),
            self_checks=self.self_checks(),
            measurements=self.measurements(),
            confirmations=self.confirmations(),
            seconds={timing.probe: timing.seconds for timing in self._records(_Timing, TIMINGS)},
            verdict=from_json(Verdict, verdict.read_bytes(), where=str(verdict)) if verdict.exists() else None,
        )

    def write_verdict(self, verdict: Verdict) -> None:
        """verdict.json."""
        write_whole(self.path / "verdict.json", to_json(verdict, indent=2) + "\n")

    def write(self, name: str, content: str | bytes) -> None:
        """Any other file of the run, such as the report or a generated copy."""
        write_whole(self.path / name, content)

    def forget(self, *names: str) -> None:
        """Remove files that further measuring has made out of date, such as a verdict and its reports."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def _records(self, kind: type[Record], name: str) -> tuple[Record, ...]:
        lines = whole_lines(self.path / name)
        where = self.path / name
        return tuple(from_json(kind, line, where=f"{where}:{number}") for number, line in enumerate(lines, start=1))

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError as error:
            raise RunFolderError(
                f"{self.path} holds no {name}", expected="the folder of a run", do="name a folder that `check` wrote"
            ) from error
        except OSError as error:
            raise explained(error, self.path / name) from error

    def _holder(self) -> str:
        holder = self.path / _HOLDER
        return holder.read_text() if holder.exists() else "another process"
