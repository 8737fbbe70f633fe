"""The log of signed verdicts: a line that is changed, added or left out is found."""

import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invmm_gate.attestation.audit_log import EMPTY, Head, head_of, next_line, require_head, walk
from invmm_gate.errors import VerificationError
from tests.attestation.material import STATEMENT, digest

DECISIONS = ("pass", "block", "pass", "inconclusive", "block")


def log_of(*names: str) -> list[bytes]:
    lines, head = [], EMPTY
    for number, name in enumerate(names, start=1):
        line = next_line(head, STATEMENT, attestation=digest(name))
        head = head_of(line, number)
        lines.append(line.encode())
    return lines


LINES = log_of(*(f"attestation {number}" for number in range(5)))
HEADS = [head for _, head in walk(LINES)]


def test_every_entry_names_its_attestation_and_the_line_before():
    found = walk(LINES)
    assert [entry.attestation for entry, _ in found] == [digest(f"attestation {number}") for number in range(5)]
    assert [entry.previous for entry, _ in found] == [None, *(sha256(line).hexdigest() for line in LINES[:-1])]
    assert found[-1][1] == Head(number=5, digest=sha256(LINES[-1]).hexdigest())
    assert walk([]) == ()


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


@pytest.mark.parametrize(
    "change",
    [{"verdict": "fine"}, {"number": 2}, {"number": "1"}, {"more": 1}, {"attestation": "x"}, {"kind": "other"}],
)
def test_a_line_that_is_no_entry_is_named(change):
    line = json.dumps(json.loads(LINES[0]) | change).encode()
    with pytest.raises(VerificationError, match="line 1: "):
        walk([line])
    with pytest.raises(VerificationError, match="line 1: "):
        walk([b"not JSON"])
