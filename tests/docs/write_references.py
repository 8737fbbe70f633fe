"""The pages of docs/reference, which are written from the code: `python -m tests.docs.write_references`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from invmm_gate.cli.app import app
from invmm_gate.core import errors
from invmm_gate.core.errors import GateError
from tests.docs.fields import summary, table
from tests.docs.policy_keys import policy_keys
from tests.docs.record_fields import record_fields

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
WIDTH = 100
CODES = {
    "PASS": "The checkpoint passes, also where a valid waiver covers each finding. Release on this code alone.",
    "INTERNAL_ERROR": "The gate itself broke. `INVMM_GATE_DEBUG=1` shows where.",
    "BAD_INPUT": "Something that was given cannot be used. "
    "The line says what was found, what was expected and what to do.",
    "BLOCK": "A finding blocks the release. From `verify`: the attestation does not hold.",
    "INCONCLUSIVE": "The evidence does not suffice: a probe broke, too little was measured or confirmed, a self-check "
    "failed, the disk was full, or the registry did not answer.",
    "INTERRUPTED": "Ctrl-C or SIGTERM. The same command goes on from there.",
}


def commands() -> str:
    """docs/reference/commands.md: the help of each command."""
    parts = [
        "# Every command\nWritten by `python -m tests.docs.write_references` from the commands' own `--help`. Do not "
        "edit this page.\n\n[What the exit codes mean](exit-codes.md).\n"
    ]
    parts += [f"## {name}\n```\n{text}\n```\n" for name, text in helps(typer.main.get_command(app), "invmm-gate")]
    return "\n".join(parts)


def helps(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """(command, its help), each group before its commands."""
    context = command.context_class(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    yield name, "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    for part, inner in getattr(command, "commands", {}).items():
        yield from helps(inner, f"{name} {part}")


def exit_codes() -> str:
    """docs/reference/exit-codes.md: the codes, and the errors that end with each."""
    codes = [(f"`{value}`", CODES[name]) for name, value in code_names()]
    kinds = [
        (f"`{kind.__name__}`", f"`{kind.exit_code}`", summary(kind))
        for kind in GateError.__subclasses__()
        if kind.__module__ == errors.__name__
    ]
    return (
        "# Exit codes\nWritten by `python -m tests.docs.write_references` from `core/errors.py`. Do not edit this page."
        f"\n\nAnything but 0 must stop a release.\n\n{table(('code', 'meaning'), sorted(codes, key=_code))}\n"
        "## Errors\nEach failure that the gate foresees is one line on stderr and one of these errors.\n\n"
        f"{table(('error', 'code', 'when'), kinds)}"
    )


def code_names() -> list[tuple[str, int]]:
    """The constants of core/errors.py."""
    return [(name, value) for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)]


def _code(row: tuple[str, str]) -> int:
    return int(row[0].strip("`"))


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands,
    "policy.md": policy_keys,
    "records.md": record_fields,
    "exit-codes.md": exit_codes,
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
