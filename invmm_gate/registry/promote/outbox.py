"""The outbox: verdicts that could not be sent yet, one file each, in a folder that outlives the process."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, final

from filelock import FileLock, Timeout

from invmm_gate.core.errors import RegistryError, RunFolderError
from invmm_gate.core.options import Conditions
from invmm_gate.core.records import Weights
from invmm_gate.files.regular import read_records, remove_leftovers, write_whole
from invmm_gate.files.strict_json import from_json, to_json
from invmm_gate.registry.client.names import version_label

_SUFFIX: Final = ".json"
_LOCK: Final = ".lock"
_PARCEL_BYTES: Final = 256_000_000
"""Bytes of a file that this tool wrote: an attestation and its proofs."""


class OutboxBusyError(RegistryError):
    """Another process sends what is in the outbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A judged run that belongs to a version, and what is to become of the version if it passed."""

    name: str
    version: str
    run: str
    """Run folder, by its full path."""
    digest: str
    """sha256 over the version and its signed verdict: one of them is sent once, however often it is asked for."""
    policy: str
    """Shipped, by its name, or a file, by its full path."""
    roots: str | None
    """Trust roots; None = the run is unsigned, and nothing is promoted."""
    alias: str
    """Empty = nothing is promoted."""
    release_name: str | None = None
    weights: Weights | None = None
    conditions: Conditions = Conditions()  # noqa: RUF009  (frozen)
    """What the verdict must be to promote anything; its files by their full paths."""
    log_entry: str = ""
    """Where the verdict stands in the audit log (`Head`); empty for a verdict that is not signed."""
    proofs: dict[str, str] = field(default_factory=dict)
    """File -> text of what was signed of the version, as it was then: another version of the same files is judged and
    signed in the same run folder."""
    details: bool = False
    """Whether MLflow is told ids and exact scores."""
    created_at: str = ""
    attempts: int = 0
    last_error: str = ""


def parcel_digest(name: str, version: str, verdict: bytes) -> str:
    """The digest of a parcel; `verdict` is the attestation, or verdict.json where there is none."""
    return hashlib.sha256(f"{name}\n{version}\n".encode() + verdict).hexdigest()


@final
@dataclass(frozen=True, slots=True)
class Outbox:
    """A folder of parcels. Every file is there as a whole or not at all."""

    folder: Path

    def supersede(self, parcel: Parcel) -> None:
        """Keep the parcel in place of all others of its version: the last verdict is the one that counts."""
        self.add(parcel)
        for other in self.waiting_for(parcel.name, parcel.version):
            if other.digest != parcel.digest:
                self.remove(other)

    def add(self, parcel: Parcel) -> None:
        """Keep the parcel until it is removed; one with its digest is replaced."""
        write_whole(self._file(parcel), to_json(parcel, indent=2) + "\n")

    def remove(self, parcel: Parcel) -> None:
        """Forget a parcel that was sent."""
        self._file(parcel).unlink(missing_ok=True)

    def failed(self, parcel: Parcel, error: str) -> None:
        """Keep the parcel, with one more failed attempt."""
        self.add(replace(parcel, attempts=parcel.attempts + 1, last_error=error))

    def parcels(self) -> tuple[Parcel, ...]:
        """All parcels, oldest first. Raises RegistryError for a file that is none."""
        return self._read_all(re.compile(".*"))

    def waiting_for(self, name: str, version: str) -> tuple[Parcel, ...]:
        """The parcels of one version; whatever lies there for others is not read."""
        own = re.compile(rf"{re.escape(version_label(name, version))}\.[0-9a-f]{{64}}{re.escape(_SUFFIX)}")
        return tuple(parcel for parcel in self._read_all(own) if (parcel.name, parcel.version) == (name, version))

    @contextmanager
    def locked(self, *, wait: float = 0) -> Iterator[None]:
        """Hold the outbox: one sender at a time. Raises RegistryError if another process still does after `wait` s."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with FileLock(self.folder / _LOCK, timeout=wait):
                remove_leftovers(self.folder)
                yield
        except Timeout as error:
            raise OutboxBusyError(f"{self.folder} is being emptied by another process", do="wait for it") from error

    def _read_all(self, named: re.Pattern[str]) -> tuple[Parcel, ...]:
        found = (_read(path) for path in sorted(self.folder.glob(f"*{_SUFFIX}")) if named.fullmatch(path.name))
        return tuple(sorted(found, key=lambda parcel: (parcel.created_at, parcel.digest)))

    def _file(self, parcel: Parcel) -> Path:
        return self.folder / f"{version_label(parcel.name, parcel.version)}.{parcel.digest}{_SUFFIX}"


def _read(path: Path) -> Parcel:
    try:
        return from_json(Parcel, read_records(path, limit=_PARCEL_BYTES), where=str(path))
    except (OSError, RunFolderError) as error:
        raise RegistryError(
            f"{path} is no parcel of the outbox", expected="a file as the gate wrote it", do="remove it and gate again"
        ) from error
