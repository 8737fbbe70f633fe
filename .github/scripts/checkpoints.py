"""Which checkpoints a workflow is to gate, from the event that started it.

A push: every entry of checkpoints/ in the commit that was pushed, whatever the push changed. So the required check says
of every checkpoint of its commit that it has passed, with the probes, the policy and the LoRA weights of that commit.
All of checkpoints/ has to be files of the repository: a link or a submodule is refused.
By hand: the checkpoint that was named. From the registry: the version that was announced, of which only the name and
the number are read.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

FOLDER: Final = "checkpoints"
NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
VERSION: Final = r"[1-9][0-9]{0,9}"
CONFIGURATION: Final = r"\.(scheduler_)?config\.json$"
DOCUMENT: Final = rf"{FOLDER}/(README(\.md|\.txt)?|\.gitattributes|\.gitignore|\.gitkeep)"
"""No checkpoint, and no part of one."""
TEXTS: Final = (".json", ".txt", ".md", ".model")
"""What a folder of configurations holds; `.model` is a tokenizer's."""
COMMIT: Final = "[0-9a-f]{40}|[0-9a-f]{64}"
LINK: Final = "120000"
SUBMODULE: Final = "160000"


class RefusedError(ValueError):
    """An event that names nothing that could be gated."""


def pushed(event: dict[str, Any]) -> list[str]:
    """All entries of checkpoints/ in the commit, also what an earlier push brought: it may have been blocked."""
    files = tree(checked(event["after"], COMMIT))
    refuse_unseen(files)
    return [checked(entry, f"{FOLDER}/{NAME}") for entry in sorted(entries_of(files))]


def tree(commit: str) -> dict[str, str]:
    """Path -> mode, type and object of everything in a commit."""
    lines = (line.partition("\t") for line in git("ls-tree", "-r", "-z", commit).split("\0") if line)
    return {path: what for what, _, path in lines}


def refuse_unseen(files: dict[str, str]) -> None:
    """What lies behind a link is not in the commit, and a checkout leaves a submodule's folder empty."""
    for path, what in files.items():
        mode = what.split()[0]
        if path == FOLDER or (path.startswith(f"{FOLDER}/") and mode in (LINK, SUBMODULE)):
            kind = {LINK: "a link", SUBMODULE: "a submodule"}.get(mode, "a file")
            raise RefusedError(
                f"{path[:200]!r} is {kind}; expected a folder {FOLDER} with files of this repository alone, as the"
                " commit says nothing of any others; move the files there, and let a link point at them"
            )


def entries_of(files: Iterable[str]) -> set[str]:
    """The entries of checkpoints/ that are checkpoints."""
    there = frozenset(files)
    inside = {tuple(path.split("/")) for path in there if path.startswith(f"{FOLDER}/")}
    return {entry for _, name, *below in inside for entry in parts_of(f"{FOLDER}/{name}", bool(below), there)}


def parts_of(entry: str, is_folder: bool, files: frozenset[str]) -> Iterable[str]:
    """A single file's configuration lies beside it: as two files, or as a folder without weights, of its name."""
    stem = entry if is_folder else re.sub(CONFIGURATION, "", entry)
    single = f"{stem}.safetensors"
    if single in files and (is_folder or stem != entry):
        return {single} if not is_folder or holds_no_weights(entry, files) else {single, entry}
    return set() if not is_folder and re.fullmatch(DOCUMENT, entry) else {entry}


def holds_no_weights(folder: str, files: frozenset[str]) -> bool:
    """Whether all files of the folder are text."""
    return all(path.endswith(TEXTS) for path in files if path.startswith(f"{folder}/"))


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


def git(*arguments: str) -> str:
    """What git prints; a file's name may be of any bytes."""
    done = subprocess.run(["git", *arguments], check=True, stdout=subprocess.PIPE)  # noqa: S603, S607
    return os.fsdecode(done.stdout)


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
