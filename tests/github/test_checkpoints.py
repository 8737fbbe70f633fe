"""Which checkpoints an event asks for: pushed ones in a real repository, named and announced ones from a payload."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.github import runner_files
from tests.github.conftest import ROOT

SCRIPT = ROOT / ".github" / "scripts" / "checkpoints.py"
ZEROS = "0" * 40


def planned(folder: Path, name: str, event: dict[str, Any], **variables: str) -> tuple[int, list[str] | None, str]:
    """Exit code, the list and what was said."""
    payload, output = folder / ".git" / "event.json", folder / ".git" / "output"
    payload.write_text(json.dumps(event))
    output.write_text("")
    environment = {
        "PATH": os.environ["PATH"],
        "GITHUB_EVENT_NAME": name,
        "GITHUB_EVENT_PATH": str(payload),
        "GITHUB_OUTPUT": str(output),
    } | variables
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


@pytest.mark.parametrize("name", ["cats.config.json", "cats.scheduler_config.json"])
def test_a_configuration_is_a_part_of_the_single_file_that_it_lies_beside(repository: Path, name: str) -> None:
    before = commit(repository, "checkpoints/cats.safetensors", "checkpoints/dogs.safetensors")
    given = commit(repository, f"checkpoints/{name}")
    push = {"before": before, "after": given}
    assert planned(repository, "push", push) == (0, ["checkpoints/cats.safetensors"], "")
    git(repository, "rm", "--quiet", f"checkpoints/{name}")
    git(repository, "commit", "--quiet", "--message", "gone")
    push = {"before": given, "after": git(repository, "rev-parse", "HEAD")}
    assert planned(repository, "push", push) == (0, ["checkpoints/cats.safetensors"], "")


def test_what_is_written_about_checkpoints_is_none_but_a_folder_of_such_a_name_is(repository: Path) -> None:
    before = git(repository, "rev-parse", "HEAD")
    after = commit(repository, "checkpoints/README.md", "checkpoints/.gitkeep", "checkpoints/README/unet.bin")
    push = {"before": before, "after": after}
    assert planned(repository, "push", push) == (0, ["checkpoints/README"], "")


@pytest.mark.parametrize("folder", ["sd.config.json", "sd.scheduler_config.json", "sd"])
def test_a_folder_of_weights_is_a_checkpoint_whatever_lies_beside_it(repository: Path, folder: str) -> None:
    before = commit(repository, "checkpoints/sd.safetensors", "checkpoints/sd/model_index.json")
    after = commit(repository, f"checkpoints/{folder}/unet/model.safetensors")
    _, plan, _ = planned(repository, "push", {"before": before, "after": after})
    assert plan is not None
    assert f"checkpoints/{folder}" in plan


def test_a_folder_of_configurations_is_a_part_of_the_single_file_of_its_name(repository: Path) -> None:
    before = commit(repository, "checkpoints/sd.safetensors", "checkpoints/sd/model_index.json")
    after = commit(repository, "checkpoints/sd/unet/config.json", "checkpoints/sd/tokenizer/merges.txt")
    plan = (0, ["checkpoints/sd.safetensors"], "")
    assert planned(repository, "push", {"before": before, "after": after}) == plan
    git(repository, "rm", "--quiet", "-r", "checkpoints/sd")
    git(repository, "commit", "--quiet", "--message", "gone")
    gone = git(repository, "rev-parse", "HEAD")
    assert planned(repository, "push", {"before": after, "after": gone}) == plan


def test_a_configuration_that_is_left_behind_is_no_part_of_what_went(repository: Path) -> None:
    before = commit(repository, "checkpoints/cats.safetensors", "checkpoints/cats.config.json")
    git(repository, "rm", "--quiet", "checkpoints/cats.safetensors")
    git(repository, "commit", "--quiet", "--message", "gone")
    push = {"before": before, "after": git(repository, "rev-parse", "HEAD")}
    assert planned(repository, "push", push) == (0, [], "")


@pytest.mark.parametrize("path", [".gitattributes", "checkpoints/.gitattributes", ".lfsconfig"])
def test_another_reading_of_the_files_by_git_has_all_of_them_gated(repository: Path, path: str) -> None:
    before = commit(repository, "checkpoints/cats.safetensors")
    after = commit(repository, path)
    plan = (0, ["checkpoints/cats.safetensors", "checkpoints/old"], "")
    assert planned(repository, "push", {"before": before, "after": after}) == plan


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
    before = linked(repository, path, target)
    after = commit(repository, "models/x/weights.safetensors")
    code, models, said = planned(repository, "push", {"before": before, "after": after})
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
    before = submodule(repository, path)
    after = submodule(repository, path)
    code, models, said = planned(repository, "push", {"before": before, "after": after})
    assert (code, models) == (2, None)
    assert f"'{path}' is a submodule" in said


@pytest.mark.parametrize("kind", ["link", "submodule", "file"])
def test_checkpoints_that_are_no_folder_of_the_repository_are_refused(repository: Path, kind: str) -> None:
    git(repository, "rm", "-r", "--quiet", "checkpoints")
    if kind == "link":
        before = linked(repository, "checkpoints", "models")
    else:
        before = submodule(repository, "checkpoints") if kind == "submodule" else commit(repository, "checkpoints")
    after = commit(repository, "models/x/weights.safetensors")
    code, models, said = planned(repository, "push", {"before": before, "after": after})
    assert (code, models) == (2, None)
    assert f"'checkpoints' is a {kind}" in said


def test_links_elsewhere_hinder_nothing(repository: Path) -> None:
    before = linked(repository, "models/old", "../checkpoints/old")
    after = commit(repository, "checkpoints/old/model_index.json")
    assert planned(repository, "push", {"before": before, "after": after}) == (0, ["checkpoints/old"], "")


def test_a_checkpoint_that_was_moved_is_asked_for_under_its_new_name(repository: Path) -> None:
    before = commit(repository, "models/faces/model_index.json")
    git(repository, "mv", "models/faces", "checkpoints/faces")
    git(repository, "mv", "checkpoints/old", "checkpoints/older")
    git(repository, "commit", "--quiet", "--message", "a move")
    after = git(repository, "rev-parse", "HEAD")
    expected = ["checkpoints/faces", "checkpoints/older"]
    assert planned(repository, "push", {"before": before, "after": after})[:2] == (0, expected)


def test_a_file_that_was_taken_out_of_a_checkpoint_is_a_change_of_it(repository: Path) -> None:
    before = commit(repository, "checkpoints/old/scheduler.json")
    git(repository, "rm", "--quiet", "checkpoints/old/scheduler.json")
    after = commit(repository, "README.md")
    assert planned(repository, "push", {"before": before, "after": after})[:2] == (0, ["checkpoints/old"])


def test_a_push_that_rewrote_the_past_is_held_against_the_state_before_it(repository: Path) -> None:
    first = git(repository, "rev-parse", "HEAD")
    before = commit(repository, "checkpoints/old/model_index.json", "checkpoints/gone.safetensors")
    git(repository, "reset", "--quiet", "--hard", first)
    after = commit(repository, "README.md")
    assert planned(repository, "push", {"before": before, "after": after})[:2] == (0, ["checkpoints/old"])


@pytest.mark.parametrize("after", [ZEROS, "f" * 40, "HEAD", ""])
def test_a_push_whose_commit_is_not_there_is_refused(repository: Path, after: str) -> None:
    before = git(repository, "rev-parse", "HEAD")
    assert planned(repository, "push", {"before": before, "after": after})[:2] == (2, None)


def test_a_changed_lora_is_a_change_of_every_checkpoint(repository: Path) -> None:
    first = commit(repository, "checkpoints/new/model_index.json", "loras/a.safetensors", "loras/b.safetensors")
    event = {"before": first, "after": commit(repository, "loras/b.safetensors")}
    everything = ["checkpoints/new", "checkpoints/old"]
    assert planned(repository, "push", event)[1] == []
    assert planned(repository, "push", event, INVMM_GATE_LORA="loras/a.safetensors\n")[1] == []
    both = "loras/a.safetensors\n ./loras/b.safetensors"
    assert planned(repository, "push", event, INVMM_GATE_LORA=both)[1] == everything


@pytest.mark.parametrize("lora", ["/opt/loras/a.safetensors", "link/a.safetensors", "link", "loras/../loras/a.st"])
def test_a_lora_of_which_git_cannot_say_that_it_is_the_same_counts_as_changed(repository: Path, lora: str) -> None:
    commit(repository, "loras/a.safetensors", "loras/a.st")
    before = linked(repository, "link", "loras")
    after = commit(repository, "README.md")
    event = {"before": before, "after": after}
    assert planned(repository, "push", event, INVMM_GATE_LORA=lora)[:2] == (0, ["checkpoints/old"])


def test_a_name_that_is_not_utf_8_hinders_nothing_elsewhere_and_is_refused_as_a_checkpoint(repository: Path) -> None:
    before = git(repository, "rev-parse", "HEAD")
    after = commit(repository, "notes/caf\udce9.txt")
    assert planned(repository, "push", {"before": before, "after": after}) == (0, [], "")
    after = commit(repository, "checkpoints/caf\udce9.safetensors")
    code, models, said = planned(repository, "push", {"before": before, "after": after})
    assert (code, models, said.count("\n")) == (2, None, 1)


def test_every_push_to_main_starts_the_workflow_whatever_it_changed() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release-gate.yml").read_text())
    assert workflow[True]["push"] == {"branches": ["main"]}, "YAML reads `on` as true"
    (planner,) = [step for step in workflow["jobs"]["plan"]["steps"] if step.get("id") == "plan"]
    assert workflow["jobs"]["gate"]["steps"][0]["with"]["lfs"] is True, "of a pointer's change the weights are gated"
    assert planner["env"] == {"INVMM_GATE_LORA": "${{ vars.INVMM_GATE_LORA }}"}


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
