"""The audit log on disk: signed verdicts are added under a lock, and held against a head that was kept elsewhere."""

from hashlib import sha256
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from invmm_gate.attestation.audit_log import EMPTY, Entry, Head, head_of, next_line, read_head, require_head, walk
from invmm_gate.attestation.statement import Statement
from invmm_gate.attestation.texts import as_text
from invmm_gate.attestation.verification import CLOCK_SKEW
from invmm_gate.errors import ConfigError, VerificationError
from invmm_gate.runs.files import append_line, drop_torn_line, read_whole, whole_lines

_WAIT: Final = 30.0
"""Seconds for another signer to write its line."""


def log_verdict(log: Path, said: Statement, *, attestation: str) -> Head:
    """Add a verdict, unless its attestation is in the log already; the head up to it.

    Raises ConfigError for a log that cannot be written, or that does not hold together: nothing is added to that.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(log.with_name(f".{log.name}.lock"), timeout=_WAIT):
            return _appended(log, said, attestation)
    except Timeout as error:
        raise ConfigError(f"{log} is held by another process", do="wait for it") from error
    except OSError as error:
        raise ConfigError(f"{log} cannot be written: {error.strerror or error}", do="give another --log") from error
    except VerificationError as error:
        raise ConfigError(f"{log}: {error.found}", expected=error.expected, do=error.do) from error


def _appended(log: Path, said: Statement, attestation: str) -> Head:
    found = _mended(log)
    for entry, head in found:
        if entry.attestation == attestation:
            return head
    last = found[-1][1] if found else EMPTY
    if found and said.issued_at < found[-1][0].signed_at - CLOCK_SKEW:
        raise VerificationError(
            f"line {last.number} is of {as_text(found[-1][0].signed_at)}, and the clock says {as_text(said.issued_at)}",
            expected="a verdict that is later than the one before it",
            do="set the clock",
        )
    line = next_line(last, said, attestation=attestation)
    append_line(log, line)
    return head_of(line, last.number + 1)


def _mended(log: Path) -> tuple[tuple[Entry, Head], ...]:
    """The log's entries; what a killed signer left is dropped, as its attestation was not written either.

    A whole last entry that lacks nothing but its end is kept.
    """
    lines, tail = whole_lines(log), read_whole(log).rpartition(b"\n")[2] if log.exists() else b""
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
    digest = sha256(attestation).hexdigest()
    return next((head for entry, head in _walked(log) if entry.attestation == digest), None)


def require_sound(log: Path) -> None:
    """Raise ConfigError for a log that nothing could be added to: before hours are spent on a verdict."""
    if log.exists():
        _walked(log)


def _walked(log: Path) -> tuple[tuple[Entry, Head], ...]:
    try:
        return walk(whole_lines(log))
    except OSError as error:
        raise ConfigError(f"{log} cannot be read: {error.strerror or error}") from error
    except VerificationError as error:
        raise ConfigError(f"{log}: {error.found}", expected=error.expected, do=error.do) from error


def verify_log(log: Path, *, head: str | None = None) -> tuple[tuple[Entry, ...], Head]:
    """All entries and the head, if the log holds together and, with `head`, still holds all that it held then.

    Raises VerificationError; ConfigError for a file or a head that cannot be read.
    """
    known = EMPTY if head is None else _parsed(head)
    if not log.is_file():
        raise ConfigError(f"there is no {log}", expected="a log that `sign --log` wrote", do="name it")
    try:
        data = read_whole(log)
    except OSError as error:
        raise ConfigError(f"{log} cannot be read: {error.strerror or error}") from error
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
