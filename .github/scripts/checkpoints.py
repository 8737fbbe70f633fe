"""Which checkpoints the release gate is to look at, from the event that started the workflow.

A push: every entry of checkpoints/ that it changed and that is still there, be it a link to nowhere, which the gate
refuses. By hand: the checkpoint that was named.
From the registry: the version that was announced, of which only the name and the number are read.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

FOLDER: Final = "checkpoints"
NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
VERSION: Final = r"[1-9][0-9]{0,9}"


class RefusedError(ValueError):
    """An event that names nothing that could be gated."""


def pushed(event: dict[str, Any]) -> list[str]:
    """Changed entries of checkpoints/; all of them where the state before is not known."""
    before, after = str(event.get("before", "")), str(event["after"])
    changed = git("diff", "--name-only", "--no-renames", "-z", before, after, "--", FOLDER) if known(before) else None
    if changed is None:
        changed = git("ls-tree", "-r", "--name-only", "-z", after, "--", FOLDER)
    entries = {"/".join(path.split("/")[:2]) for path in changed.split("\0") if path.count("/")}
    return [checked(entry, f"{FOLDER}/{NAME}") for entry in sorted(entries) if os.path.lexists(entry)]


def named(event: dict[str, Any]) -> list[str]:
    """A path in the repository, or a version in the registry."""
    return [checked(event["inputs"]["model"], f"models:/{NAME}/{VERSION}|{NAME}(/{NAME})*")]


def announced(event: dict[str, Any]) -> list[str]:
    """The version of the registry's message."""
    payload = event["client_payload"]
    name, version = checked(payload["name"], NAME), checked(str(payload["version"]), VERSION)
    return [f"models:/{name}/{version}"]


def checked(text: object, pattern: str) -> str:
    """The text, if it is wholly of the form that is allowed."""
    if not isinstance(text, str) or not re.fullmatch(pattern, text):
        raise RefusedError(f"{str(text)[:200]!r} is not of the form {pattern}")
    return text


def known(commit: str) -> bool:
    """Whether the commit is there; a new branch's `before` is forty zeros."""
    full = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit)
    if not full or not commit.strip("0"):
        return False
    return subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], check=False).returncode == 0  # noqa: S603, S607


def git(*arguments: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout  # noqa: S603, S607


EVENTS: Final = {"push": pushed, "workflow_dispatch": named, "repository_dispatch": announced}


def main() -> int:
    """Write the output `models`, a JSON list."""
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    try:
        models = EVENTS[os.environ["GITHUB_EVENT_NAME"]](event)
    except (ValueError, KeyError, TypeError, subprocess.CalledProcessError) as error:
        print(f"error: the event names no checkpoint: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
        file.write(f"models={json.dumps(models)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
