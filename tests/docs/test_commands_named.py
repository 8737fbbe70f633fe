"""Commands that the pages show exist, with the options that the pages give them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from invmm_gate.cli.app import app
from tests.docs.test_pages import pages

BLOCK = re.compile(r"^ *```[a-z]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(invmm-gate [^`\n]+)`")


def shown(text: str) -> Iterator[str]:
    """Each command line: of a block of code, one that goes on in the next line included, or within a sentence."""
    for block in BLOCK.findall(text):
        for line in block.split("\n"):
            yield from re.findall(r"invmm-gate [a-z][^#;|&)]*", line)
    yield from INLINE.findall(BLOCK.sub("", text))


def faults(line: str) -> list[str]:
    """The words of a command line that the gate does not know."""
    words = shlex.split(line.replace("'", " "))[1:]
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        if name not in command.commands:
            return [] if name.startswith("-") else [f"{line}: no command {name}"]
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = words[: words.index("--")] if "--" in words else words
    options = [word.split("=")[0].rstrip(",.") for word in given if word.startswith("--")]
    return [f"{line}: no option {option}" for option in options if option not in {*known, "--help"}]


def test_a_wrong_command_and_a_wrong_option_are_found() -> None:
    assert faults("invmm-gate judge RUN --policy strict") == []
    assert faults("invmm-gate registry guard --roots a.pub --policy strict -- --workers 1") == []
    assert faults("invmm-gate jugde RUN") == ["invmm-gate jugde RUN: no command jugde"]
    assert faults("invmm-gate judge RUN --polcy strict") == ["invmm-gate judge RUN --polcy strict: no option --polcy"]
    assert list(shown("a `invmm-gate judge RUN`\n```\n.venv/bin/invmm-gate sign RUN   # now\n```\n")) == [
        "invmm-gate sign RUN   ",
        "invmm-gate judge RUN",
    ]


def test_every_command_of_the_pages_is_one(root: Path) -> None:
    examples = sorted((root / "examples").rglob("*.md"))
    texts = [page.read_text() for page in (*pages(root), *examples) if page.parent.name != "reference"]
    lines = [line for text in texts for line in shown(text)]
    assert len(lines) > 60
    assert [fault for line in lines for fault in faults(line)] == []
