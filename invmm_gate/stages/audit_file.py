"""The audit log on disk: signed verdicts are added under a lock, and held against a head that was kept elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from invmm_gate.attest.audit_log import EMPTY, Entry, Head, attempt_of, next_line, read_head, require_head, walk
from invmm_gate.attest.field_types import as_text
from invmm_gate.attest.statement import Statement
from invmm_gate.attest.verification import CLOCK_SKEW
from invmm_gate.core.errors import ConfigError, VerificationError
from invmm_gate.files.regular import append_line, drop_torn_line, read_records, whole_lines

_WAIT: Final = 30.0
"""Seconds for another signer to write its line."""
Seal = Callable[[Statement], bytes]
"""Signs a statement: the bytes of its attestation file."""


def log_verdict(log: Path, said: Statement, *, seal: Seal) -> tuple[Statement, bytes]:
    """Count the attempt, sign the statement that says so, and add it, unless its attestation is in the log already.

    The counted statement and its attestation. The lock is held all the while, so that no two are counted alike.
    Raises ConfigError for a log that cannot be written, or that does not hold together: nothing is added to that.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(log.with_name(f".{log.name}.lock"), timeout=_WAIT):
            return _appended(log, said, seal)
    except Timeout as error:
        raise ConfigError(f"{log} is held by another process", do="wait for it") from error
    except OSError as error:
        raise ConfigError(f"{log} cannot be written: {error.strerror or error}", do="give another --log") from error
    except VerificationError as error:
        raise ConfigError(f"{log}: {error.found}", expected=error.expected, do=error.do) from error


def _appended(log: Path, said: Statement, seal: Seal) -> tuple[Statement, bytes]:
    found = _mended(log)
    entries = [entry for entry, _ in found]
    attempt = attempt_of(entries, model_digest=said.subject_digest, results=said.results_digest)
    counted = replace(said, attempt=attempt)
    envelope = seal(counted)
    attestation = sha256(envelope).hexdigest()
    if not any(entry.attestation == attestation for entry in entries):
        last = found[-1][1] if found else EMPTY
        _require_later(entries, said)
        append_line(log, next_line(last, counted, attestation=attestation))
    return counted, envelope


def _require_later(entries: Sequence[Entry], said: Statement) -> None:
    if entries and said.issued_at < entries[-1].signed_at - CLOCK_SKEW:
        last = entries[-1]
        raise VerificationError(
            f"line {last.number} is of {as_text(last.signed_at)}, and the clock says {as_text(said.issued_at)}",
            expected="a verdict that is later than the one before it",
            do="set the clock",
        )


def _mended(log: Path) -> tuple[tuple[Entry, Head], ...]:
    """The log's entries; what a killed signer left is dropped, as its attestation was not written either.

    A whole last entry that lacks nothing but its end is kept.
    """
    lines, tail = whole_lines(log), read_records(log).rpartition(b"\n")[2] if log.exists() else b""
    if not tail:
        return walk(lines)
    try:
        found = walk([*lines, tail])
    except VerificationError:
        drop_torn_line(log)
        return walk(lines)
    append_line(log, "")
    return found


def logged_at(log: Path, attestation: bytes) -> Head | None:
    """Where the verdict of an attestation file stands in the log; None if it does not. Raises ConfigError."""
    found = entry_of(log, attestation)
    return None if found is None else found[1]


def entry_of(log: Path, attestation: bytes) -> tuple[Entry, Head] | None:
    """The line of an attestation file and the head up to it; None if it has none. Raises ConfigError."""
    digest = sha256(attestation).hexdigest()
    return next((found for found in _walked(log) if found[0].attestation == digest), None)


def require_sound(log: Path) -> None:
    """Raise ConfigError for a log that nothing could be added to: before hours are spent on a verdict."""
    if log.exists():
        _walked(log)


def _walked(log: Path) -> tuple[tuple[Entry, Head], ...]:
    try:
        return walk(whole_lines(log))
    except OSError as error:
        raise ConfigError(
            f"{log} cannot be read: {error.strerror or error}", expected="an audit log that this user may read"
        ) from error
    except VerificationError as error:
        raise ConfigError(f"{log}: {error.found}", expected=error.expected, do=error.do) from error


def verify_log(log: Path, *, head: str | None = None) -> tuple[tuple[Entry, ...], Head]:
    """All entries and the head, if the log holds together and, with `head`, still holds all that it held then.

    Raises VerificationError; ConfigError for a file or a head that cannot be read.
    """
    known = EMPTY if head is None else _parsed(head)
    if not log.is_file():
        raise ConfigError(f"there is no audit log at {log}", expected="a file that `sign --log` wrote")
    try:
        data = read_records(log)
    except OSError as error:
        raise ConfigError(
            f"{log} cannot be read: {error.strerror or error}", expected="an audit log that this user may read"
        ) from error
    if data and not data.endswith(b"\n"):
        raise VerificationError(
            f"{log}: its last line is cut off",
            expected="whole lines",
            do="sign once more with --log, which finishes a whole entry and drops a cut one",
        )
    found = walk(whole_lines(log))
    require_head([at for _, at in found], known)
    return tuple(entry for entry, _ in found), found[-1][1] if found else EMPTY


def _parsed(head: str) -> Head:
    known = read_head(head)
    if known is None:
        raise ConfigError(f"--head {head[:80]!a}", expected="NUMBER:DIGEST, as `audit-log verify` prints it")
    return known
