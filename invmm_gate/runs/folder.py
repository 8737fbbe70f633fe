"""The run folder: the only reader and writer of its records."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from invmm_gate.core.errors import RunFolderError
from invmm_gate.core.likelihood_record import Likelihood
from invmm_gate.core.records import Confirmation, Measurement, SelfCheck
from invmm_gate.core.run_records import RunData, RunRecord
from invmm_gate.core.verdict_records import Verdict
from invmm_gate.files.lock import refuse_locked, run_folder_lock
from invmm_gate.files.regular import (
    append_line,
    drop_torn_line,
    read_records,
    remove_leftovers,
    unreadable,
    whole_lines,
    write_whole,
)
from invmm_gate.files.strict_json import from_json, to_json
from invmm_gate.runs.identity import (
    WITHOUT_SCORES,
    ConfirmRecord,
    another_run,
    as_confirmed,
    changed_for_confirming,
    changed_inputs,
    refuse_orphans,
)
from invmm_gate.runs.stage_files import (
    CONFIRM,
    CONFIRMATIONS,
    CONFIRMING,
    LIKELIHOODS,
    MEASURE,
    MEASUREMENTS,
    RUN,
    SELF_CHECKS,
    STAGES,
    TIMINGS,
    VERDICT,
    Stage,
    has_ended,
    record_digests,
    refuse_edited,
    reopen,
    unfinished,
    write_end,
)

_ONE_RECORD: Final = 200_000_000
"""Bytes of a file that is a single record; run.json with the largest probe set has half of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timing:
    """A line of timings.jsonl."""

    probe: str
    seconds: float


Record = TypeVar("Record", Measurement, Confirmation, Likelihood, SelfCheck, _Timing)


_FILES: Final = {
    Measurement: MEASUREMENTS,
    Confirmation: CONFIRMATIONS,
    Likelihood: LIKELIHOODS,
    SelfCheck: SELF_CHECKS,
}
"""A record -> the file that it is a line of."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's folder."""

    path: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process. Raises RunFolderError within a second if another holds it."""
        with run_folder_lock(self.path):
            remove_leftovers(self.path)
            yield

    def refuse_if_in_use(self) -> None:
        """Raise RunFolderError if another process holds the folder; found before minutes go into loading."""
        refuse_locked(self.path)

    @contextmanager
    def existing_locked(self) -> Iterator[None]:
        """Lock a folder that must hold a run already, as `locked` does: a mistyped name is not created."""
        self.run()
        with self.locked():
            yield

    def begin(self, run: RunRecord, *, replacing: bool = False) -> RunRecord:
        """Write run.json, or return the one that is there. Raises RunFolderError if it is of other inputs.

        With `replacing` those make way instead, but for scores that do not depend on what has changed.
        """
        if not (self.path / RUN).exists():
            refuse_orphans(self.path)
            self.note(run)
            return run
        found = self.run()
        changed = changed_inputs(found, run)
        if changed and not replacing:
            raise another_run(self.path, changed, found=found, asked=run)
        if WITHOUT_SCORES.issuperset(changed):
            run = replace(run, created_at=found.created_at)
        else:  # records go first and run.json last: what a crash leaves is still a run, and an unfinished one
            CONFIRMING.clear(self.path)
            (self.path / CONFIRM).unlink(missing_ok=True)
            MEASURE.clear(self.path)
        self._go_on()
        if not changed:
            return found
        self.note(run)
        return run

    def begin_confirming(self, run: RunRecord, plan: ConfirmRecord, *, replacing: bool = False) -> None:
        """Write confirm.json, or go on under the one that is there. Raises RunFolderError if either is of other inputs.

        The policy may be another than the one that the run was measured under. With `replacing`, confirmations under
        another plan make way.
        """
        if changed := changed_for_confirming(measured := self.run(), run):
            raise another_run(self.path, changed, found=measured, asked=run)
        found = self.confirmed()
        changed = found.differences(plan) if found else [CONFIRM] if (self.path / CONFIRMATIONS).exists() else []
        if changed and not replacing:
            raise RunFolderError(
                f"{self.path} holds confirmations under another {', '.join(changed)}",
                expected="the plan that they were begun with",
                do="give --replace to begin them anew",
            )
        if changed:
            CONFIRMING.clear(self.path)
        self._go_on()
        kept = replace(found, policy=plan.policy) if found and not changed else plan
        if kept != found:
            self.note_confirmed(kept)

    def _go_on(self) -> None:
        """Mend what a kill can leave behind, and refuse the rest, before a stage is opened again and tells no more."""
        for stage in STAGES:
            if not self.has_ended(stage):
                for name in stage.records:
                    drop_torn_line(self.path / name)
        self.refuse_edited()

    def refuse_edited(self) -> None:
        """Raise RunFolderError for a file of a stage that ended, if it is not as the stage left it."""
        refuse_edited(self.path)

    def has_ended(self, stage: Stage) -> bool:
        """Whether the stage came to its end."""
        return has_ended(self.path, stage)

    def end(self, stage: Stage) -> None:
        """Records in the probe set's order, so that equal runs give equal files; the end record names all of them."""
        order = {probe.id: index for index, probe in enumerate(self.run().probe_set.probes)}
        of_probes: dict[str, Sequence[Measurement | Confirmation | Likelihood]] = {
            MEASUREMENTS: self.measurements(),
            CONFIRMATIONS: self.confirmations(),
            LIKELIHOODS: self.likelihoods(),
        }
        for name, records in of_probes.items():
            ordered = sorted(records, key=lambda record: order.get(record.probe, len(order)))
            if name in stage.records and ordered != list(records):
                write_whole(self.path / name, "".join(to_json(record) + "\n" for record in ordered))
        stage.complete(self.path)
        write_end(self.path, stage)

    def note(self, run: RunRecord) -> None:
        """Replace run.json, to add to its context."""
        reopen(self.path, MEASURE)
        write_whole(self.path / RUN, to_json(run, indent=2) + "\n")

    def run(self) -> RunRecord:
        """run.json. Raises RunFolderError if there is none."""
        return from_json(RunRecord, self._read(RUN), where=f"{self.path}/{RUN}")

    def note_confirmed(self, record: ConfirmRecord) -> None:
        """Replace confirm.json."""
        reopen(self.path, CONFIRMING)
        write_whole(self.path / CONFIRM, to_json(record, indent=2) + "\n")

    def confirmed(self) -> ConfirmRecord | None:
        """confirm.json; None before anything was to be confirmed."""
        path = self.path / CONFIRM
        return from_json(ConfirmRecord, self._read(CONFIRM), where=str(path)) if path.exists() else None

    def append(self, record: Measurement | Confirmation | Likelihood | SelfCheck) -> None:
        """Add one record to its file, whole and flushed."""
        name = _FILES[type(record)]
        row = to_json(record)
        reopen(self.path, CONFIRMING if name in CONFIRMING.rows else MEASURE)
        append_line(self.path / name, row)

    def note_seconds(self, probe: str, seconds: float) -> None:
        """Wall time of a probe; kept apart from its measurement, which is byte-identical when repeated."""
        append_line(self.path / TIMINGS, to_json(_Timing(probe=probe, seconds=round(seconds, 3))))

    def measurements(self) -> tuple[Measurement, ...]:
        """All complete lines of measurements.jsonl."""
        return self._records(Measurement, MEASUREMENTS)

    def confirmations(self) -> tuple[Confirmation, ...]:
        """All complete lines of confirmations.jsonl."""
        return self._records(Confirmation, CONFIRMATIONS)

    def likelihoods(self) -> tuple[Likelihood, ...]:
        """All complete lines of likelihoods.jsonl."""
        return self._records(Likelihood, LIKELIHOODS)

    def self_checks(self) -> tuple[SelfCheck, ...]:
        """All complete lines of self_checks.jsonl, and the checks in confirm.json."""
        confirmed = self.confirmed()
        return (*self._records(SelfCheck, SELF_CHECKS), *(confirmed.self_checks if confirmed else ()))

    def data(self) -> RunData:
        """Everything that was recorded. Raises RunFolderError if the folder holds no run."""
        verdict, run = self.path / VERDICT, as_confirmed(self.run(), self.confirmed())
        return RunData(
            run=run,
            self_checks=self.self_checks(),
            measurements=self.measurements(),
            confirmations=self.confirmations(),
            likelihoods=self.likelihoods(),
            seconds={timing.probe: timing.seconds for timing in self._records(_Timing, TIMINGS)},
            verdict=from_json(Verdict, self._read(VERDICT), where=str(verdict)) if verdict.exists() else None,
            digests=record_digests(self.path, run),
            unfinished=unfinished(self.path),
        )

    def write_verdict(self, verdict: Verdict) -> None:
        """verdict.json."""
        write_whole(self.path / VERDICT, to_json(verdict, indent=2) + "\n")

    def write(self, name: str, content: str | bytes) -> None:
        """Any other file of the run, such as the report or a generated copy."""
        for stage in STAGES:
            if stage.owns(name):
                reopen(self.path, stage)
        write_whole(self.path / name, content)

    def forget(self, *names: str) -> None:
        """Remove files that further measuring has made out of date, such as a verdict and its reports."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def _records(self, kind: type[Record], name: str) -> tuple[Record, ...]:
        where = self.path / name
        lines = enumerate(whole_lines(where), start=1)
        return tuple(from_json(kind, line, where=f"{where}:{number}") for number, line in lines)

    def _read(self, name: str) -> bytes:
        try:
            return read_records(self.path / name, limit=_ONE_RECORD)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunFolderError(
                f"{self.path} holds no {name}", expected="the folder of a run", do="name a folder that `check` wrote"
            ) from error
        except OSError as error:
            raise unreadable(error, self.path / name) from error
