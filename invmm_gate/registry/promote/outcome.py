"""The outcome file of a gate that a worker started. An exit code alone does not say whose fault a failure was.

Exit code 2 is a slip in the gate's own configuration as well as an unusable checkpoint, and 10 is an attestation that
does not hold as well as a block. So the gate also writes a small file once its work on the version is done, and an exit
code is believed only with this file. A receiver that was killed never learns the exit code of the gate that it left
behind: the file alone then says how that gate ended.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from invmm_gate.core.errors import BAD_INPUT, BLOCK, INCONCLUSIVE, PASS, ModelError, RunFolderError
from invmm_gate.files.regular import read_records, write_whole
from invmm_gate.registry.promote.one_gate import SameFilesError

SAME_FILES: Final = "same_files"
"""No end: another process gates the same files now, and this version is to be gated after it."""
EXIT_CODES: Final = {
    "pass": PASS,
    "block": BLOCK,
    "inconclusive": INCONCLUSIVE,
    "bad_input": BAD_INPUT,
    SAME_FILES: INCONCLUSIVE,
}
"""`bad_input` = the version's own files cannot be used; nothing else is."""
_OUTCOME_BYTES: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An end of the gate's work on a version, or what it waits for."""

    name: str
    """One of EXIT_CODES."""
    terms: str = ""
    """What it was judged under (`terms_of`); empty where it was not judged."""


class Ended(Protocol):
    """The end of a gate on a version."""

    @property
    def outcome(self) -> str:
        """One of EXIT_CODES."""
        ...

    @property
    def terms(self) -> str:
        """The terms, as in `Outcome`."""
        ...


Done = TypeVar("Done", bound=Ended)


def telling(gate: Callable[[], Done], file: Path | None) -> Done:
    """What `gate` returns or raises, with its outcome in the file, where there is one to write."""
    try:
        done = gate()
    except SameFilesError:
        if file is not None:
            _write(file, Outcome(name=SAME_FILES))
        raise
    except ModelError as error:
        if file is not None and not _is_of_this_machine(error):
            _write(file, Outcome(name="bad_input"))
        raise
    if file is not None:
        _write(file, Outcome(name=done.outcome, terms=done.terms))
    return done


def read_outcome(file: Path, exit_code: int | None = None) -> Outcome | None:
    """The outcome that was written, if it is one of this exit code; of any, where the code was lost with a receiver."""
    try:
        found = Outcome(**json.loads(read_records(file, limit=_OUTCOME_BYTES)))
    except (OSError, ValueError, TypeError, RecursionError, RunFolderError):
        return None  # nothing whole was written, so nothing ended
    expected = EXIT_CODES.get(found.name)
    return found if expected is not None and exit_code in (None, expected) else None


def _write(file: Path, outcome: Outcome) -> None:
    write_whole(file, json.dumps(asdict(outcome)) + "\n")


def _is_of_this_machine(error: BaseException | None) -> bool:
    """A missing package or an unreadable disk, told as a checkpoint's fault because the checkpoint needed it."""
    while error is not None:
        if isinstance(error, (ImportError, OSError, MemoryError)):
            return True
        error = error.__cause__
    return False
