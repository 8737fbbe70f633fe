"""How a step speaks to GitHub: outputs, the job summary and workflow commands. Python's standard library alone.

Whatever a checkpoint, a probe set or an option says is data: it can end no output, no line and no command.
"""

import os
import secrets
import sys
from pathlib import Path
from typing import Final

LINE_LIMIT: Final = 500


def write_output(name: str, value: str) -> None:
    """One output of the step; the value cannot end its own block, as the delimiter cannot be guessed."""
    delimiter = f"end-{secrets.token_hex(16)}"
    append(os.environ["GITHUB_OUTPUT"], f"{name}<<{delimiter}\n{value}\n{delimiter}\n")


def write_summary(text: str) -> None:
    """A part of the job's page."""
    append(os.environ["GITHUB_STEP_SUMMARY"], text)


def append(path: str, text: str) -> None:
    """Add to one of GitHub's files."""
    with Path(path).open("a", encoding="utf-8", newline="\n") as file:
        file.write(text)


def workflow_command(kind: str, message: str, **properties: str) -> None:
    """An annotation; foreign parts are escaped as the runner unescapes them."""
    given = ",".join(f"{name}={escaped(value, ':,')}" for name, value in properties.items())
    say(f"::{kind} {given}::{escaped(one_line(message))}\n".encode())


def say(line: bytes) -> None:
    """One line of the job's log, at once."""
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def escaped(text: str, more: str = "") -> str:
    """Percent-encoded where a workflow command would end, or its next property begin."""
    for char in f"%\r\n{more}":
        text = text.replace(char, f"%{ord(char):02X}")
    return text


def one_line(text: str) -> str:
    """Visible characters only, at most 500 of them."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split())[:LINE_LIMIT]


def inert(text: str) -> str:
    """Foreign text that Markdown and HTML show as it is."""
    return "".join(char if char.isalnum() or char in " ,-" else f"&#{ord(char)};" for char in one_line(text))
