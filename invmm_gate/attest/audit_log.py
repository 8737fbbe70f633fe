"""The audit log: a line for each signed verdict, with the digest of the line before.

Nobody signs the log. What makes it tell is its head, the number and digest of the last line, kept where the log is not:
in the registry beside each version, in a commit, in a ticket. A line that is changed, added in between or left out, a
block above all, then gives another head.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from invmm_gate.attest.field_types import Hex, Instant, Line
from invmm_gate.attest.statement import AttestedDecision, Positive, Statement
from invmm_gate.core.errors import VerificationError
from invmm_gate.files.strict_json import parse_plain

AUDIT_LOG: Final = "verdicts.jsonl"
"""The log's usual name."""
_HEAD: Final = re.compile(r"([1-9][0-9]{0,9}):([0-9a-f]{64})|0:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A place in the log: everything up to it is as it was."""

    number: int
    """The number of the line, from 1; 0 = an empty log."""
    digest: str
    """sha256 of the line without its end; empty for an empty log."""

    def __str__(self) -> str:
        """`12:DIGEST`, as `audit-log verify --head` takes it."""
        return f"{self.number}:{self.digest}"


EMPTY: Final = Head(number=0, digest="")


def read_head(text: str) -> Head | None:
    """The head that is written so; None for any other text."""
    match = _HEAD.fullmatch(text)
    if match is None:
        return None
    return Head(number=int(match[1]), digest=match[2]) if match[1] else EMPTY


def is_head(text: str) -> bool:
    """Whether a log that has lines can have this head."""
    return read_head(text) not in (None, EMPTY)


@dataclass(frozen=True, slots=True)
class _Said:
    """Marks what an entry takes from its statement."""

    field: str


class Entry(BaseModel):
    """One verdict."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["urn:invmm-gate:audit:v1"] = "urn:invmm-gate:audit:v1"
    number: Positive
    signed_at: Annotated[Instant, _Said("issued_at")]
    verdict: Annotated[AttestedDecision, _Said("decision")]
    model: Annotated[Line, _Said("subject_name")]
    model_digest: Annotated[Hex, _Said("subject_digest")]
    policy_digest: Annotated[Hex, _Said("policy_digest")]
    probe_set_digest: Annotated[Hex, _Said("probe_set_digest")]
    results: Annotated[Hex, _Said("results_digest")]
    """The attestation's results digest: verdicts on the same measurements and confirmations share it."""
    attempt: Annotated[Positive, _Said("attempt")]
    """Which of the different results of this model it is in the log, whatever policy, probe set and seed."""
    attestation: Hex
    """sha256 of the attestation file."""
    previous: Hex | None
    """sha256 of the line before; None for the first."""


def attempt_of(entries: Iterable[Entry], *, model_digest: str, results: str) -> int:
    """Which of the different results of a model these are, from 1. Signed again, for longer or under another policy,
    the same results are no new attempt; a model that is measured anew is one, as it may be a luckier draw.
    """
    seen = dict.fromkeys(entry.results for entry in entries if entry.model_digest == model_digest)
    return [*seen, results].index(results) + 1


def next_line(head: Head, said: Statement, *, attestation: str) -> str:
    """The line that follows `head`, without its end; the statement has its attempt."""
    taken = {
        name: getattr(said, mark.field)
        for name, field in Entry.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, _Said)
    }
    entry = Entry(number=head.number + 1, attestation=attestation, previous=head.digest or None, **taken)
    return json.dumps(entry.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def head_of(line: bytes, number: int) -> Head:
    """The head that a log has with this line as its last."""
    return Head(number=number, digest=sha256(line).hexdigest())


def walk(lines: Sequence[bytes]) -> tuple[tuple[Entry, Head], ...]:
    """Every entry with the head up to it. Raises VerificationError that names the first line that does not fit."""
    found: list[tuple[Entry, Head]] = []
    head = EMPTY
    for number, line in enumerate(lines, start=1):
        entry = _entry(line, number)
        if (entry.number, entry.previous or "") != (number, head.digest):
            raise VerificationError(
                f"line {number}: it follows another line than the one before it",
                expected=f"number {number} after {head.digest or 'nothing'}",
                do="compare the log with a copy of it: a line was changed, added or left out",
            )
        head = head_of(line, number)
        found.append((entry, head))
    _require_counted([entry for entry, _ in found])
    return tuple(found)


def require_head(heads: Sequence[Head], known: Head) -> None:
    """Raise VerificationError unless the log was once exactly at the head that is known from elsewhere."""
    if known == EMPTY:
        return
    if len(heads) < known.number:
        raise VerificationError(
            f"the log ends at line {len(heads)}",
            expected=f"at least the {known.number} lines that it once had",
            do="find out who took the last ones away",
        )
    found = heads[known.number - 1]
    if found != known:
        raise VerificationError(
            f"line {known.number} has the digest {found.digest}",
            expected=f"{known.digest}, which it once had",
            do="compare the log with a copy of it: a line up to this one was changed, added or left out",
        )


def _require_counted(entries: Sequence[Entry]) -> None:
    """Raise VerificationError for the first entry that counts the model's attempts wrongly."""
    seen: dict[str, dict[str, int]] = {}
    for entry in entries:
        own = seen.setdefault(entry.model_digest, {})
        counted = own.setdefault(entry.results, len(own) + 1)
        if entry.attempt != counted:
            raise VerificationError(
                f"line {entry.number}: attempt {entry.attempt}",
                expected=f"{counted}, as the lines before it have {counted - 1} other results of this model",
                do="compare the log with a copy of it",
            )


def _entry(line: bytes, number: int) -> Entry:
    try:
        return Entry.model_validate_json(json.dumps(parse_plain(line)))
    except VerificationError as error:
        raise VerificationError(f"line {number}: {error.found}", expected="a verdict as `sign` logs it") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise VerificationError(
            f"line {number}: {where}: {first['msg']}", expected="a verdict as `sign` logs it"
        ) from error
