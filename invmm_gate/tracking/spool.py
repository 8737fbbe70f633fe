"""publish.json: whether a run folder has been sent to the tracker, so that it can be sent later."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

from invmm_gate.core.errors import PublishError

MARKER: Final = "publish.json"
_BYTES: Final = 1_000_000
"""Of a marker; what is longer is cut off, and no JSON then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishState:
    """The contents of publish.json."""

    state: Literal["pending", "published"]
    """Whether MLflow has the run."""
    uri: str
    """Tracking server or database, without credentials; empty for the default."""
    place: str = ""
    """Where the run can be seen, once it is published."""
    attempts: int = 0
    """Attempts that failed since the run was last published."""
    last_error: str = ""
    """Why the last attempt failed."""


def spool(folder: Path, *, uri: str | None, error: str = "") -> PublishState:
    """Marks the run as not sent yet; with an error, counts a failed attempt. Raises PublishError."""
    before = read(folder)
    failed = before.attempts if before and before.state == "pending" else 0
    state = PublishState(
        state="pending", uri=without_credentials(uri or ""), attempts=failed + bool(error), last_error=error
    )
    _write(folder, state)
    return state


def mark_published(folder: Path, *, uri: str | None, place: str) -> PublishState:
    """Marks the run as sent. Raises PublishError."""
    state = PublishState(state="published", uri=without_credentials(uri or ""), place=place)
    _write(folder, state)
    return state


def read(folder: Path) -> PublishState | None:
    """The state of a run folder, None where it was never to be sent. Raises PublishError for a broken marker."""
    path = folder / MARKER
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_BYTES))
        state = PublishState(**found)
        if state.state not in ("pending", "published"):
            raise ValueError(state.state)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise PublishError(
            f"{path} is not a publish record",
            expected="the file as the gate wrote it",
            do="delete it and publish again",
        ) from error
    return state


def pending(root: Path) -> tuple[Path, ...]:
    """The run folders at or directly below `root` that wait to be sent, sorted by name."""
    markers = [root / MARKER, *sorted(root.glob(f"*/{MARKER}"))]
    folders = [marker.parent for marker in markers if marker.is_file()]
    return tuple(folder for folder in folders if (state := read(folder)) is not None and state.state == "pending")


def without_credentials(uri: str) -> str:
    """The URI with `user:password@` taken out."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def _write(folder: Path, state: PublishState) -> None:
    """Through a temporary file, so that a crash leaves the old marker or the new one."""
    target = folder / MARKER
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{MARKER}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(asdict(state), file, indent=2, sort_keys=True)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise PublishError(
            f"cannot write {target}: {error.strerror}", expected="a writable run folder with room left"
        ) from error
