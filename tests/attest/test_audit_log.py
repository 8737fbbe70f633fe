"""The log of signed verdicts: a line that is changed, added or left out is found."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invmm_gate.attest.audit_log import EMPTY, Head, attempt_of, head_of, next_line, require_head, walk
from invmm_gate.core.errors import VerificationError
from tests.attest.material import STATEMENT, digest

DECISIONS = ("pass", "block", "pass", "inconclusive", "block")


def log_of(*names: str) -> list[bytes]:
    lines, head = [], EMPTY
    for number, name in enumerate(names, start=1):
        said = replace(STATEMENT, results_digest=digest(name), attempt=number)
        line = next_line(head, said, attestation=digest(name)).encode()
        head = head_of(line, number)
        lines.append(line)
    return lines


LINES = log_of(*(f"attestation {number}" for number in range(5)))
HEADS = [head for _, head in walk(LINES)]


def test_every_entry_names_its_attestation_and_the_line_before():
    found = walk(LINES)
    assert [entry.attestation for entry, _ in found] == [digest(f"attestation {number}") for number in range(5)]
    assert [entry.previous for entry, _ in found] == [None, *(sha256(line).hexdigest() for line in LINES[:-1])]
    assert found[-1][1] == Head(number=5, digest=sha256(LINES[-1]).hexdigest())
    assert walk([]) == ()


def test_a_log_is_written_as_earlier_versions_wrote_it():
    assert str(HEADS[-1]) == "5:f958191a57e8729f110a3248e294661a35cc51fc837ace12c8b92d99a2d459c3"


def test_a_line_that_is_left_out_anywhere_but_at_the_end_is_found():
    for place in range(4):
        with pytest.raises(VerificationError, match=f"line {place + 1}: it follows another line"):
            walk(LINES[:place] + LINES[place + 1 :])


@given(st.integers(0, len(b"\n".join(LINES[:-1])) - 1), st.integers(1, 255))
def test_a_changed_byte_in_any_line_but_the_last_breaks_the_log(place, change):
    text = bytearray(b"\n".join(LINES))
    text[place] ^= change
    with pytest.raises(VerificationError, match=r"line [1-5]: "):
        walk(bytes(text).split(b"\n"))


def test_the_head_that_is_kept_elsewhere_finds_what_the_chain_cannot():
    require_head(HEADS, EMPTY)
    for known in HEADS:
        require_head(HEADS, known)
    with pytest.raises(VerificationError, match="the log ends at line 4; expected at least the 5 lines"):
        require_head(HEADS[:4], HEADS[4])
    other = [head for _, head in walk(log_of("another", "log"))]
    with pytest.raises(VerificationError, match="line 2 has the digest"):
        require_head(other, HEADS[1])


def test_an_attempt_is_a_result_of_the_model_that_the_log_does_not_have_yet():
    entries = [entry for entry, _ in walk(LINES)]
    assert [entry.attempt for entry in entries] == [1, 2, 3, 4, 5]
    model = STATEMENT.subject_digest
    assert attempt_of(entries, model_digest=model, results=digest("a sixth draw")) == 6
    assert attempt_of(entries, model_digest=model, results=digest("attempt")) == 6
    again = entries[2].results
    assert attempt_of(entries, model_digest=model, results=again) == 3, "signed again, it is no new attempt"
    assert attempt_of(entries, model_digest=digest("other model"), results=digest("a sixth draw")) == 1
    assert attempt_of([], model_digest=model, results=again) == 1


@pytest.mark.parametrize("attempt", [1, 3, 99])
def test_a_line_that_counts_the_attempts_wrongly_is_named(attempt):
    first, head = LINES[0], HEADS[0]
    said = replace(STATEMENT, results_digest=digest("luckier"), attempt=attempt)
    with pytest.raises(
        VerificationError, match=f"line 2: attempt {attempt}; expected 2, as the lines before it have 1"
    ):
        walk([first, next_line(head, said, attestation=digest("luckier")).encode()])


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "fine"},
        {"number": 2},
        {"number": "1"},
        {"more": 1},
        {"attestation": "x"},
        {"attempt": 0},
        {"results": ""},
        {"kind": "other"},
    ],
)
def test_a_line_that_is_no_entry_is_named(change):
    line = json.dumps(json.loads(LINES[0]) | change).encode()
    with pytest.raises(VerificationError, match="line 1: "):
        walk([line])
    with pytest.raises(VerificationError, match="line 1: "):
        walk([b"not JSON"])
