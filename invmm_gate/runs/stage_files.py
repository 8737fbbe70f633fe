"""Which stage writes which files of a run folder, and the end record that holds their sha256.

A stage without an end record was cut short: it goes on where it stopped, and no verdict passes on it. A file that was
edited, taken out or added since the end is refused wherever the run is taken up. No key is involved: whoever edits a
file can write the record anew, and only a signature tells.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Final

from invmm_gate.core.errors import RunFolderError
from invmm_gate.core.run_records import RunRecord
from invmm_gate.files.regular import explained, read_records, unreadable, write_whole
from invmm_gate.files.strict_json import from_json, to_json

RUN: Final = "run.json"
MEASUREMENTS: Final = "measurements.jsonl"
SELF_CHECKS: Final = "self_checks.jsonl"
TIMINGS: Final = "timings.jsonl"
CONFIRM: Final = "confirm.json"
CONFIRMATIONS: Final = "confirmations.jsonl"
LIKELIHOODS: Final = "likelihoods.jsonl"
VERDICT: Final = "verdict.json"
METRICS: Final = "metrics.json"
JUDGED: Final = (SELF_CHECKS, MEASUREMENTS, CONFIRM, CONFIRMATIONS, LIKELIHOODS)
"""The files that `judge` decides by, beside run.json."""
END_SCHEMA_VERSION: Final = 1
_MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The files of one stage."""

    begins_with: str
    """Says what the stage was begun on; the other files are of the same."""
    rows: tuple[str, ...]
    """The files that grow by a row and that `judge` decides by."""
    records: tuple[str, ...]
    """All files but the first and the last."""
    folders: tuple[str, ...]
    end: str
    """The file that the stage writes last: the sha256 of all others (`runs/stage_files.py`)."""

    def owns(self, name: str) -> bool:
        """Whether the stage writes this file of the run folder, its end record aside."""
        return name in (self.begins_with, *self.records) or name.startswith(tuple(f"{each}/" for each in self.folders))

    def clear(self, folder: Path) -> None:
        """Remove the records, so that the stage can begin anew; its first file stays until it is replaced."""
        for name in (self.end, *self.records, *self.folders):
            path = folder / name
            try:
                if path.is_dir() and not path.is_symlink():
                    rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise explained(error, path) from error

    def complete(self, folder: Path) -> None:
        """Make the files that nothing was written to: a pipeline cannot tell an empty file from a missing one."""
        try:
            for name in self.records:
                (folder / name).open("ab").close()
            for name in self.folders:
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explained(error, folder) from error


MEASURE: Final = Stage(
    begins_with=RUN,
    rows=(SELF_CHECKS, MEASUREMENTS),
    records=(SELF_CHECKS, MEASUREMENTS, TIMINGS),
    folders=("inversions", "copies/inverted"),
    end="measure_end.json",
)
CONFIRMING: Final = Stage(
    begins_with=CONFIRM,
    rows=(CONFIRMATIONS, LIKELIHOODS),
    records=(CONFIRMATIONS, LIKELIHOODS),
    folders=("copies/confirmed",),
    end="confirm_end.json",
)
STAGES: Final = (MEASURE, CONFIRMING)


def record_digests(folder: Path, run: RunRecord) -> dict[str, str]:
    """The sha256 of all that `judge` decides by. Taken after the records were read, it shows a change in between."""
    return {RUN: _run_digest(run)} | {name: file_digest(folder / name) for name in JUDGED}


def _run_digest(run: RunRecord) -> str:
    """The digest of run.json without its date, context and paths, so that equal runs have equal verdicts."""
    model = replace(run.model, path="", adapters=())
    probe_set = replace(run.probe_set, folder="")
    decisive = asdict(replace(run, created_at="", model=model, probe_set=probe_set)) | {"context": {}}
    return sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of the file; a missing one has the digest of an empty one, as it holds as many records."""
    try:
        return sha256(read_records(path) if path.exists() else b"").hexdigest()
    except OSError as error:
        raise unreadable(error, path) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEnd:
    """measure_end.json or confirm_end.json."""

    schema_version: int
    """Of this file."""
    files: dict[str, str]
    """sha256 of each file by its name in the run folder, sorted."""


def write_end(folder: Path, stage: Stage) -> None:
    """Write the end record, unless it says so already. Raises RunFolderError, MeasurementError."""
    text = to_json(StageEnd(schema_version=END_SCHEMA_VERSION, files=_files(folder, stage)), indent=2) + "\n"
    path = folder / stage.end
    if not path.exists() or _read(path) != text.encode():
        write_whole(path, text)


def reopen(folder: Path, stage: Stage) -> None:
    """Before the stage writes anything: it is unfinished until it ends again. Raises RunFolderError."""
    path = folder / stage.end
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise explained(error, path) from error


def has_ended(folder: Path, stage: Stage) -> bool:
    """Whether the stage wrote its end record."""
    return (folder / stage.end).exists()


def unfinished(folder: Path) -> tuple[str, ...]:
    """The stages that were begun and did not end, by their first file."""
    return tuple(stage.begins_with for stage in STAGES if _begun(folder, stage) and not has_ended(folder, stage))


def _begun(folder: Path, stage: Stage) -> bool:
    return any((folder / name).exists() for name in (stage.begins_with, *stage.records))


def refuse_edited(folder: Path) -> None:
    """Raise RunFolderError unless the files of each stage that has ended are those that its end record names."""
    for stage in STAGES:
        if has_ended(folder, stage):
            found = list(_faults(folder, stage))
            if found:
                more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
                raise RunFolderError(
                    f"{folder}: since the stage ended, {', '.join(found[:_MOST_NAMED])}{more}",
                    expected=f"the files that {stage.end} names, as this run wrote them",
                    do="restore them, or begin anew with another --out",
                )


def _faults(folder: Path, stage: Stage) -> Iterator[str]:
    path = folder / stage.end
    said = from_json(StageEnd, _read(path), where=str(path))
    if said.schema_version != END_SCHEMA_VERSION:
        yield f"{stage.end} became one of version {said.schema_version}"
    found = _files(folder, stage)
    for name in sorted(said.files.keys() | found.keys()):
        if name not in found:
            yield f"{name} went"
        elif name not in said.files:
            yield f"{name} came"
        elif said.files[name] != found[name]:
            yield f"{name} was edited"


def _read(path: Path) -> bytes:
    try:
        return read_records(path)
    except OSError as error:
        raise unreadable(error, path) from error


def _files(folder: Path, stage: Stage) -> dict[str, str]:
    names = [stage.begins_with, *stage.records]
    for each in stage.folders:
        inside = (path for path in (folder / each).rglob("*") if path.is_file())
        names += [path.relative_to(folder).as_posix() for path in inside if not path.name.startswith(".")]
    return {name: file_digest(folder / name) for name in sorted(names) if (folder / name).exists()}
