"""Which checkpoints the release gate is to look at, from the event that started the workflow.

A push: every entry of checkpoints/ that it changed and that is still there. All of checkpoints/ has to be files of the
repository, as git tells of a change of those alone: a link or a submodule is refused whatever was pushed. LoRA weights
that are released on top are a part of every checkpoint.
By hand: the checkpoint that was named. From the registry: the version that was announced, of which only the name and
the number are read.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
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
    """Changed entries of checkpoints/; all where the state before, or that of a LoRA, or git's reading is another."""
    before, after = str(event.get("before", "")), checked(event["after"], COMMIT)
    old, new = tree(before) if known(before) else {}, tree(after)
    refuse_unseen(new)
    changed = {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
    entries = entries_of(new, new)
    if all(same(old, new, lora) for lora in loras()) and not reread(changed):
        entries &= entries_of(changed, new)
    return [checked(entry, f"{FOLDER}/{NAME}") for entry in sorted(entries)]


def tree(commit: str) -> dict[str, str]:
    """Path -> mode, type and object of everything in a commit."""
    lines = (line.partition("\t") for line in git("ls-tree", "-r", "-z", commit).split("\0") if line)
    return {path: what for what, _, path in lines}


def refuse_unseen(files: dict[str, str]) -> None:
    """What lies behind a link or in a submodule changes without a change here, so that no push would gate it."""
    for path, what in files.items():
        if path == FOLDER or (path.startswith(f"{FOLDER}/") and not is_file(what)):
            kind = {LINK: "a link", SUBMODULE: "a submodule"}.get(what.split()[0], "a file")
            raise RefusedError(
                f"{path[:200]!r} is {kind}; expected a folder {FOLDER} with files of this repository alone, as a push"
                " that changes them elsewhere cannot be told; move the files there, and let a link point at them"
            )


def entries_of(paths: Iterable[str], files: Iterable[str]) -> set[str]:
    """The entries of checkpoints/ that the paths are a part of; `files` are all that are there after the push."""
    there = frozenset(files)
    inside = {tuple(path.split("/")) for path in paths if path.startswith(f"{FOLDER}/")}
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


def reread(changed: Iterable[str]) -> bool:
    """Whether the push changed what git makes of the files that it checks out, LFS pointers above all."""
    return any(PurePosixPath(path).name in (".gitattributes", ".lfsconfig") for path in changed)


def loras() -> list[str]:
    """The variable that the gate is given, one path a line."""
    lines = (line.strip() for line in os.environ.get("INVMM_GATE_LORA", "").splitlines())
    return [PurePosixPath(line).as_posix() for line in lines if line]


def same(old: dict[str, str], new: dict[str, str], path: str) -> bool:
    """Whether git knows the path as a file that did not change; of a path behind a link or elsewhere it knows none."""
    return path in new and is_file(new[path]) and old.get(path) == new[path]


def is_file(what: str) -> bool:
    """Whether this is a file, an LFS pointer included, whose change is a change of the weights."""
    return what.split()[0] not in (LINK, SUBMODULE)


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
    if not re.fullmatch(COMMIT, commit) or not commit.strip("0"):
        return False
    return subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], check=False).returncode == 0  # noqa: S603, S607


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
