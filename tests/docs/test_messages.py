"""The messages of errors: all of them on one page, and each says what to do or what was expected."""

import re

import pytest

from tests.docs.messages import messages
from tests.report.goldens import assert_golden

PASSED_ON = re.compile(r"\{(error|found|first|more|shape|unfit|said or .*|changed\(.*)\}")
"""The message of another error or check, which says both by itself."""


def test_the_messages_are_those_of_the_golden_page() -> None:
    """After a change that is meant: INVMM_GATE_UPDATE_GOLDENS=1, and read the difference."""
    assert_golden("messages.txt", messages())


def lines() -> list[str]:
    return messages().splitlines()


def test_there_are_hundreds() -> None:
    assert len(lines()) > 400


@pytest.mark.parametrize("line", [line for line in lines() if not PASSED_ON.search(line)])
def test_a_message_says_what_was_expected_or_what_to_do(line: str) -> None:
    assert "; expected: " in line or "; do: " in line
