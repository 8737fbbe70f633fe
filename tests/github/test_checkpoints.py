"""Which checkpoints an event asks for: pushed ones in a real repository, named and announced ones from a payload."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.github import runner_files
from tests.github.conftest import ROOT

SCRIPT = ROOT / ".github" / "scripts" / "checkpoints.py"
ZEROS = "0" * 40


def planned(folder: Path, name: str, event: dict[str, Any]) -> tuple[int, list[str] | None, str]:
    """Exit code, the list and what was said."""
    payload, output = folder / "event.json", folder / "output"
    payload.write_text(json.dumps(event))
    output.write_text("")
    environment = {
        "PATH": os.environ["PATH"],
        "GITHUB_EVENT_NAME": name,
        "GITHUB_EVENT_PATH": str(payload),
        "GITHUB_OUTPUT": str(output),
    }
    command = [sys.executable, "-B", SCRIPT]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    written = runner_files.outputs(output.read_text())
    return done.returncode, json.loads(written["models"]) if "models" in written else None, done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    commit(tmp_path, "checkpoints/old/model_index.json", "README.md")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@git.example", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path, *paths: str) -> str:
    number = git(folder, "rev-list", "--all", "--count")
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"{path} {number}")
    git(folder, "add", *paths)
    git(folder, "commit", "--quiet", "--message", "a change")
    return git(folder, "rev-parse", "HEAD")


def test_a_push_of_several_commits_asks_for_every_checkpoint_that_it_changed(repository: Path) -> None:
    before = git(repository, "rev-parse", "HEAD")
    commit(repository, "checkpoints/faces/unet/weights.safetensors", "checkpoints/faces/model_index.json")
    after = commit(repository, "checkpoints/cats.safetensors", "README.md")
    expected = ["checkpoints/cats.safetensors", "checkpoints/faces"]
    assert planned(repository, "push", {"before": before, "after": after}) == (0, expected, "")


@pytest.mark.parametrize("before", [ZEROS, "f" * 40, "", "--output=x"])
def test_a_push_whose_past_is_not_known_asks_for_all_checkpoints(repository: Path, before: str) -> None:
    after = commit(repository, "checkpoints/new/model_index.json")
    code, models, _ = planned(repository, "push", {"before": before, "after": after})
    assert (code, models) == (0, ["checkpoints/new", "checkpoints/old"])


def test_a_checkpoint_that_was_removed_is_not_asked_for(repository: Path) -> None:
    before = git(repository, "rev-parse", "HEAD")
    git(repository, "rm", "-r", "--quiet", "checkpoints/old")
    after = commit(repository, "README.md")
    assert planned(repository, "push", {"before": before, "after": after})[:2] == (0, [])


def test_a_link_to_nowhere_is_asked_for_as_it_is_not_removed(repository: Path) -> None:
    before = git(repository, "rev-parse", "HEAD")
    (repository / "checkpoints" / "x").symlink_to("nowhere")
    git(repository, "add", "checkpoints/x")
    git(repository, "commit", "--quiet", "--message", "a link")
    after = git(repository, "rev-parse", "HEAD")
    assert planned(repository, "push", {"before": before, "after": after})[:2] == (0, ["checkpoints/x"])


def test_a_checkpoint_after_hundreds_of_other_files_is_found(repository: Path) -> None:
    before = git(repository, "rev-parse", "HEAD")
    after = commit(repository, *(f"a/{number}" for number in range(400)), "checkpoints/new/model_index.json")
    assert planned(repository, "push", {"before": before, "after": after})[:2] == (0, ["checkpoints/new"])


def test_a_pushed_checkpoint_with_a_name_that_is_not_allowed_stops_the_plan(repository: Path) -> None:
    before = git(repository, "rev-parse", "HEAD")
    after = commit(repository, "checkpoints/$(touch pwned)/model_index.json")
    code, models, said = planned(repository, "push", {"before": before, "after": after})
    assert (code, models) == (2, None)
    assert said.startswith("error: the event names no checkpoint: '")
    assert said.count("\n") == 1


@pytest.mark.parametrize("model", ["checkpoints/faces", "runs/ckpt", "models:/faces/3", "faces.safetensors"])
def test_a_checkpoint_is_named_by_hand(repository: Path, model: str) -> None:
    assert planned(repository, "workflow_dispatch", {"inputs": {"model": model}})[:2] == (0, [model])


@pytest.mark.parametrize(
    "model", ["", "/etc", "../x", "a/../../x", "-rf", "a b", "a\nb", "$(x)", "models:/a", "models:/a/b/c", "a//b", None]
)
def test_a_name_that_is_no_checkpoint_is_refused(repository: Path, model: str | None) -> None:
    code, models, said = planned(repository, "workflow_dispatch", {"inputs": {"model": model}})
    assert (code, models, said.count("\n")) == (2, None, 1)


def test_the_registrys_message_gives_name_and_version_and_nothing_else(repository: Path) -> None:
    payload = {"name": "faces", "version": "3", "source": "s3://elsewhere", "policy": "permissive", "ref": "evil"}
    assert planned(repository, "repository_dispatch", {"client_payload": payload})[:2] == (0, ["models:/faces/3"])


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"name": "faces"},
        {"name": "a/b", "version": "1"},
        {"name": "..", "version": "1"},
        {"name": "a", "version": "1; x"},
        {"name": "a", "version": "0"},
        {"name": ["a"], "version": "1"},
        {"name": "a" * 129, "version": "1"},
        None,
    ],
)
def test_a_message_that_names_no_version_is_refused(repository: Path, payload: Any) -> None:
    code, models, said = planned(repository, "repository_dispatch", {"client_payload": payload})
    assert (code, models, said.count("\n")) == (2, None, 1)


def test_an_event_of_another_kind_is_refused(repository: Path) -> None:
    assert planned(repository, "pull_request", {})[0] == 2
