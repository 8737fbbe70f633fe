"""Which checkpoints an event asks for: all of a pushed commit's, in a real repository, or the one in a payload."""

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


def pushed(folder: Path) -> tuple[int, list[str] | None, str]:
    """What a push of the commit that is checked out asks for."""
    return planned(folder, "push", {"after": git(folder, "rev-parse", "HEAD")})


def planned(folder: Path, name: str, event: dict[str, Any]) -> tuple[int, list[str] | None, str]:
    """Exit code, the list and what was said."""
    payload, output = folder / ".git" / "event.json", folder / ".git" / "output"
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
        (folder / path).write_text(f"{path!a} {number}")
    git(folder, "add", *paths)
    git(folder, "commit", "--quiet", "--message", "a change")
    return git(folder, "rev-parse", "HEAD")


def remove(folder: Path, *paths: str) -> None:
    git(folder, "rm", "-r", "--quiet", *paths)
    git(folder, "commit", "--quiet", "--message", "gone")


@pytest.mark.parametrize("name", ["cats.config.json", "cats.scheduler_config.json"])
def test_a_configuration_is_a_part_of_the_single_file_that_it_lies_beside(repository: Path, name: str) -> None:
    commit(repository, "checkpoints/cats.safetensors", f"checkpoints/{name}")
    assert pushed(repository) == (0, ["checkpoints/cats.safetensors", "checkpoints/old"], "")


def test_what_is_written_about_checkpoints_is_none_but_a_folder_of_such_a_name_is(repository: Path) -> None:
    commit(repository, "checkpoints/README.md", "checkpoints/.gitkeep", "checkpoints/README/unet.bin")
    assert pushed(repository) == (0, ["checkpoints/README", "checkpoints/old"], "")


@pytest.mark.parametrize("folder", ["sd.config.json", "sd.scheduler_config.json", "sd"])
def test_a_folder_of_weights_is_a_checkpoint_whatever_lies_beside_it(repository: Path, folder: str) -> None:
    commit(repository, "checkpoints/sd.safetensors", f"checkpoints/{folder}/unet/model.safetensors")
    _, plan, _ = pushed(repository)
    assert plan is not None
    assert {f"checkpoints/{folder}", "checkpoints/sd.safetensors"} <= set(plan)


def test_a_folder_of_configurations_is_a_part_of_the_single_file_of_its_name(repository: Path) -> None:
    commit(repository, "checkpoints/sd.safetensors", "checkpoints/sd/model_index.json", "checkpoints/sd/merges.txt")
    assert pushed(repository) == (0, ["checkpoints/old", "checkpoints/sd.safetensors"], "")
    remove(repository, "checkpoints/sd.safetensors")
    assert pushed(repository) == (0, ["checkpoints/old", "checkpoints/sd"], ""), (
        "a checkpoint without weights is refused"
    )


@pytest.mark.parametrize("change", ["README.md", ".gitattributes", "probes/manifest.csv", "policies/ours.yaml"])
def test_a_push_that_changes_no_checkpoint_has_all_of_them_gated(repository: Path, change: str) -> None:
    """One that was blocked, or that `[skip ci]` brought, is in the commit all the same."""
    before = commit(repository, "checkpoints/blocked.safetensors")
    after = commit(repository, change)
    everything = ["checkpoints/blocked.safetensors", "checkpoints/old"]
    for said in (before, after, ZEROS, "f" * 40, "", None):
        assert planned(repository, "push", {"before": said, "after": after}) == (0, everything, "")


def test_a_checkpoint_that_was_removed_is_not_asked_for(repository: Path) -> None:
    remove(repository, "checkpoints/old")
    commit(repository, "README.md")
    assert pushed(repository) == (0, [], "")


def test_the_commit_that_was_pushed_counts_and_not_what_lies_around(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    commit(repository, "checkpoints/later.safetensors")
    (repository / "checkpoints" / "stray.safetensors").write_text("never committed")
    assert planned(repository, "push", {"after": first}) == (0, ["checkpoints/old"], "")


def linked(repository: Path, path: str, target: str) -> str:
    (repository / path).parent.mkdir(parents=True, exist_ok=True)
    (repository / path).symlink_to(target)
    git(repository, "add", path)
    git(repository, "commit", "--quiet", "--message", "a link")
    return git(repository, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("checkpoints/x", "../models/x"),
        ("checkpoints/x", "nowhere"),
        ("checkpoints/latest", "old"),
        ("checkpoints/x.safetensors", "../models/x/weights.safetensors"),
        ("checkpoints/x/unet", "../../models/x"),
    ],
)
def test_a_link_is_refused_at_every_push_as_the_weights_behind_it_change_elsewhere(
    repository: Path, path: str, target: str
) -> None:
    commit(repository, "models/x/weights.safetensors")
    linked(repository, path, target)
    code, models, said = pushed(repository)
    assert (code, models) == (2, None)
    assert said.startswith(f"error: the event names no checkpoint: '{path}' is a link; expected a folder checkpoints")
    assert said.count("\n") == 1


def submodule(repository: Path, path: str) -> str:
    """As `git submodule add` leaves it in the tree, with what hides its changes from `git diff`."""
    (repository / ".gitmodules").write_text(f'[submodule "x"]\n\tpath = {path}\n\turl = x\n\tignore = all\n')
    entry = f"160000,{git(repository, 'rev-parse', 'HEAD')},{path}"
    git(repository, "add", ".gitmodules")
    git(repository, "update-index", "--add", "--cacheinfo", entry)
    git(repository, "commit", "--quiet", "--message", "a submodule")
    return git(repository, "rev-parse", "HEAD")


@pytest.mark.parametrize("path", ["checkpoints/x", "checkpoints/old/unet"])
def test_a_submodule_is_refused_as_the_gates_checkout_has_none(repository: Path, path: str) -> None:
    submodule(repository, path)
    code, models, said = pushed(repository)
    assert (code, models) == (2, None)
    assert f"'{path}' is a submodule" in said


@pytest.mark.parametrize("kind", ["link", "submodule", "file"])
def test_checkpoints_that_are_no_folder_of_the_repository_are_refused(repository: Path, kind: str) -> None:
    git(repository, "rm", "-r", "--quiet", "checkpoints")
    if kind == "link":
        linked(repository, "checkpoints", "models")
    else:
        (submodule if kind == "submodule" else commit)(repository, "checkpoints")
    code, models, said = pushed(repository)
    assert (code, models) == (2, None)
    assert f"'checkpoints' is a {kind}" in said


def test_links_elsewhere_hinder_nothing(repository: Path) -> None:
    linked(repository, "models/old", "../checkpoints/old")
    assert pushed(repository) == (0, ["checkpoints/old"], "")


@pytest.mark.parametrize("after", [ZEROS, "f" * 40, "HEAD", ""])
def test_a_push_whose_commit_is_not_there_is_refused(repository: Path, after: str) -> None:
    assert planned(repository, "push", {"after": after})[:2] == (2, None)


def test_a_name_that_is_not_utf_8_hinders_nothing_elsewhere_and_is_refused_as_a_checkpoint(repository: Path) -> None:
    commit(repository, "notes/caf\udce9.txt")
    assert pushed(repository) == (0, ["checkpoints/old"], "")
    commit(repository, "checkpoints/caf\udce9.safetensors")
    code, models, said = pushed(repository)
    assert (code, models, said.count("\n")) == (2, None, 1)


def test_a_pushed_checkpoint_with_a_name_that_is_not_allowed_stops_the_plan(repository: Path) -> None:
    commit(repository, "checkpoints/$(touch pwned)/model_index.json")
    code, models, said = pushed(repository)
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
