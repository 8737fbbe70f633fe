"""Which stage writes which files of a run folder. No other stage changes them, so a pipeline can declare them."""

from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Final

from invmm_gate.files.atomic import explained

RUN: Final = "run.json"
MEASUREMENTS: Final = "measurements.jsonl"
SELF_CHECKS: Final = "self_checks.jsonl"
TIMINGS: Final = "timings.jsonl"
CONFIRM: Final = "confirm.json"
CONFIRMATIONS: Final = "confirmations.jsonl"
VERDICT: Final = "verdict.json"
METRICS: Final = "metrics.json"


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
    """The file that the stage writes last: the sha256 of all others (`runs/stage_end.py`)."""

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
    rows=(CONFIRMATIONS,),
    records=(CONFIRMATIONS,),
    folders=("copies/confirmed",),
    end="confirm_end.json",
)
STAGES: Final = (MEASURE, CONFIRMING)
