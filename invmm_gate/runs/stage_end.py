"""The end record of a stage: the sha256 of every file that the stage wrote, as the last thing that it writes.

A stage without one was cut short: it goes on where it stopped, and no verdict passes on it. A file that was edited,
taken out or added since the end is refused wherever the run is taken up. No key is involved: whoever edits a file can
write the record anew, and only a signature tells.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import RunFolderError
from invmm_gate.files.atomic import explained, read_whole, write_whole
from invmm_gate.files.record_json import from_json, to_json
from invmm_gate.runs.digests import file_digest
from invmm_gate.runs.layout import STAGES, Stage

END_SCHEMA_VERSION: Final = 1
_MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEnd:
    """measure_end.json or confirm_end.json."""

    schema_version: int
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
        return read_whole(path)
    except OSError as error:
        raise explained(error, path) from error


def _files(folder: Path, stage: Stage) -> dict[str, str]:
    names = [stage.begins_with, *stage.records]
    for each in stage.folders:
        inside = (path for path in (folder / each).rglob("*") if path.is_file())
        names += [path.relative_to(folder).as_posix() for path in inside if not path.name.startswith(".")]
    return {name: file_digest(folder / name) for name in sorted(names) if (folder / name).exists()}
