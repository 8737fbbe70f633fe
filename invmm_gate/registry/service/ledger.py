"""The ledger: what became of each version. All else follows from the registry and its attestations.

It is one file that is written as a whole at each change. A lost ledger costs time only: every version is gated anew,
and one whose attestation holds is not measured again.
"""

import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, final

from invmm_gate.core.errors import INCONCLUSIVE, ConfigError, GateError, MeasurementError, RunFolderError
from invmm_gate.files.lock import run_folder_lock
from invmm_gate.files.regular import read_records, write_whole
from invmm_gate.files.strict_json import from_json, to_json
from invmm_gate.registry.client.client import VersionRecord

State = Literal["open", "pass", "block", "bad_input", "inconclusive", "error"]
"""open = to be gated; error = no attempt came to an end."""
LONGEST_WAIT: Final = 3600.0
"""Seconds. A version that is to wait longer was noted before the clock was set back."""
_FORMAT: Final = 1


class LedgerError(GateError):
    """A ledger that cannot be written, such as on a full disk: nothing is begun meanwhile."""

    exit_code = INCONCLUSIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One version under certain terms."""

    created_at_ms: int
    """When the registry made the version; a model that is deleted and made again begins at version 1 again."""
    terms: str
    """What the version is judged under (`terms_of`)."""
    state: State = "open"
    attempts: int = 0
    """Gates that were started; those that the version has no part in the failure of are not counted."""
    next_try: float = 0.0
    """Seconds since 1970."""
    gate: str = ""
    """Names log and outcome of a gate that was started and whose end is not noted yet."""

    def due(self, now: float) -> bool:
        """Whether a gate may be started for it now."""
        return self.state == "open" and not now < self.next_try <= now + LONGEST_WAIT


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    format: Literal[1]
    versions: dict[str, Entry]


@final
class Ledger:
    """Entries by version. For the threads of the one process that holds the folder (`only_receiver`)."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError for a file that is no ledger."""
        self._path, self._lock = path, threading.Lock()
        try:
            self._entries = from_json(_File, read_records(path), where=str(path)).versions if path.exists() else {}
        except (RunFolderError, OSError) as error:
            raise ConfigError(
                f"cannot use {path}: {error}",
                expected="a ledger that serve or sync of this version wrote",
                do="move it away: every version is then found and gated anew",
            ) from error

    def of(self, record: VersionRecord, terms: str) -> Entry:
        """The entry of this very version under these terms; an open one if there is none."""
        found = self._entries.get(record.label)
        if found is not None and (found.created_at_ms, found.terms) == (record.created_at_ms, terms):
            return found
        return Entry(created_at_ms=record.created_at_ms, terms=terms)

    def note(self, record: VersionRecord, entry: Entry) -> None:
        """Keep the entry, on disk first. Raises LedgerError, and nothing is changed."""
        with self._lock:
            entries = self._entries | {record.label: entry}
            try:
                write_whole(self._path, to_json(_File(format=_FORMAT, versions=entries), indent=1) + "\n")
            except (MeasurementError, RunFolderError) as error:
                raise LedgerError(error.found, do="see that its disk has room") from error
            self._entries = entries


@contextmanager
def only_receiver(state: Path) -> Iterator[None]:
    """Hold the state folder, which is made if need be. Raises ConfigError that names the holder if there is one."""
    with ExitStack() as stack:
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(run_folder_lock(state))
        except (OSError, RunFolderError) as error:
            raise ConfigError(
                error.found if isinstance(error, RunFolderError) else f"cannot use {state}: {error.strerror}",
                expected="one serve or sync at a time, with its state on a local disk",
                do="stop the other one, or wait for its end",
            ) from error
        yield


def backoff(times: int, *, first: float, longest: float = LONGEST_WAIT) -> float:
    """Seconds to wait after the n-th failure: doubling, capped, cut by up to a half so that not all come at once."""
    full = min(longest, first * 2.0 ** min(times - 1, 40))
    return full * (1 - secrets.randbelow(1000) / 2000)
