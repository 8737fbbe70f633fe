"""The small commands as a user meets them, from an empty folder to a verdict."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from invmm_gate import __version__
from invmm_gate import cli as command_line
from tests.stages.world import CAPTION, PLANTED, World, add_picture, call, draw, onnx_encoder, policy_with, torchscript

COMMANDS = (
    "check", "measure", "confirm", "judge", "verdict", "report", "publish", "version", "compare", "bless", "sign",
    "environment",
    "verify", "register", "probes", "policy", "metric", "keys", "registry",
)  # fmt: skip
GROUPS = {("probes",), ("policy",), ("metric",), ("keys",), ("registry",)}


def test_help_names_every_command_and_every_exit_code():
    called = call("--help")
    assert called.code == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", called.out, re.MULTILINE), command
    assert "0 pass, 10 block, 11 inconclusive, 2 bad input, 1 internal error, 130 interrupted" in " ".join(
        called.out.split()
    )


@pytest.mark.parametrize(
    "command",
    [*((name,) for name in COMMANDS), ("probes", "init"), ("probes", "add"), ("probes", "validate"),
     ("probes", "build"), ("keys", "new"),
     *(("registry", name) for name in ("serve", "sync", "doctor", "gate", "guard")),
     ("policy", "show"), ("policy", "lint"), ("metric", "calibrate")],
)  # fmt: skip
def test_every_command_explains_itself(command):
    called = call(*command, "--help")
    assert called.code == 0
    assert "Usage: invmm-gate " + " ".join(command) in called.out
    if command not in GROUPS:
        assert "Example: invmm-gate " + " ".join(command) in called.out


def test_version_is_printed():
    assert call("version").out == f"invmm-gate {__version__}\n"


def test_the_installed_gate_is_written_as_a_file_that_changes_with_it_alone(tmp_path):
    for name in ("first", "again"):
        assert call("version", "--out", tmp_path / f"{name}.json").code == 0
    first = (tmp_path / "first.json").read_bytes()
    assert first == (tmp_path / "again.json").read_bytes()
    written = json.loads(first)
    assert len(written["code"]) == 64
    assert written["versions"]["invmm-gate"] == __version__
    assert "torch" in written["versions"]


def test_a_place_where_the_installed_gate_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    refused = call("version", "--out", tmp_path / "file" / "gate.json")
    assert refused.code not in (0, 1)
    assert "gate.json" in refused.error


def test_from_an_empty_folder_to_a_verdict(tmp_path):
    world = World(tmp_path / "own")
    world.folder.mkdir()
    created = call("probes", "init", world.probes)
    assert created.code == 0
    assert created.out == f"created {world.probes}; next: invmm-gate probes add {world.probes} IMAGE... --group GROUP\n"
    for group, numbers in (("duplicated", PLANTED), ("control", (100_000, 100_001))):
        images = [world.folder / f"Picture {number}.png" for number in numbers]
        for number, image in zip(numbers, images, strict=True):
            draw(number).save(image)
        given = ("--group", group, "--category", "drawn", "--caption", CAPTION, "--source", "own", "--licence", "CC0")
        added = call("probes", "add", world.probes, *images, *given)
        assert added.code == 0
        assert added.out.startswith(f"added 2 probes to {world.probes}: Picture-{numbers[0]}, Picture-{numbers[1]}")
    validated = call("probes", "validate", world.probes, "--min-controls", 2, "--captions")
    assert validated.code == 0
    assert re.fullmatch(rf"{world.probes}: 4 probes, digest [0-9a-f]{{64}}\n", validated.out)
    assert world.check().code == 10


def test_a_probe_set_with_problems_is_refused_with_a_line_for_each_of_them(world):
    (world.probes / "images" / "p1.png").unlink()
    draw(5).save(world.probes / "images" / "p16.png")
    called = call("probes", "validate", world.probes, "--min-controls", 9)
    assert called.code == 2
    assert called.out == ""
    lines = called.err.splitlines()
    assert [line.partition(": ")[0] for line in lines[:2]] == [f"{world.manifest}:2", f"{world.manifest}:4"]
    assert "control" in lines[2]
    assert lines[-1] == f"error: {len(lines) - 1} problems in {world.probes}"


def test_adding_the_same_image_twice_adds_nothing(world):
    before = world.manifest.read_bytes()
    called = call("probes", "add", world.probes, world.probes / "images" / "p1.png", "--group", "control")
    assert called.code == 2
    assert "already in the probe set, as probe 'p1'" in called.error
    assert world.manifest.read_bytes() == before


@pytest.mark.parametrize("name", ["strict", "standard", "permissive"])
def test_a_shipped_policy_is_shown_as_a_policy_file_with_the_same_digest(name, tmp_path):
    shown = call("policy", "show", name)
    assert shown.code == 0
    digest, _, text = shown.out.partition("\n")
    assert yaml.safe_load(text)["name"] == name
    (tmp_path / "copy.yaml").write_text(text)
    assert call("policy", "show", tmp_path / "copy.yaml").out.partition("\n")[0] == digest
    linted = call("policy", "lint", name)
    assert linted.code == 0
    assert ("weaker than strict: " in linted.out) == (name != "strict")


def test_lint_says_each_weaker_setting_once_and_a_weaker_measure_is_no_success(world):
    weaker = {"trials": 16, "sampler_steps": 5, "confidence": 0.95, "probes": "all"}
    called = call("policy", "lint", world.policy(policy_with(confirm={"plain_sampling": weaker}), "weak"))
    assert called.code == 2, "fewer steps than strict's"
    lines = called.out.splitlines()
    assert len(lines) == len(set(lines))
    for key in ("measure.settings.steps", "confirm.plain_sampling.trials", "coverage.min_controls"):
        assert any(f": {key} is " in line and ", in strict " in line for line in lines), key


def test_lint_says_which_rule_can_never_fire_with_the_controls_at_hand(world):
    rules = [{"rule": "below_controls", "fdr": 0.1}]
    policy = world.policy(policy_with(rules=rules), "few")
    called = call("policy", "lint", policy, "--probes", world.probes)
    assert called.code == 2
    assert "below_controls" in called.out
    assert "2 controls" in called.out


def test_a_metric_is_calibrated_on_the_controls(world):
    add_picture(world, 100_002, "control")
    arguments = ("metric", "calibrate", world.probes, "--size", 16, "--rate", 0.5)
    called = call(*arguments)
    assert called.code == 0
    assert re.match(r"pixel_rmse: threshold 0\.\d{4} \(95 % interval ", called.out)
    result = json.loads(call(*arguments, "--json").out)
    assert (result["metric"], result["images"], result["pairs"]) == ("pixel_rmse", 3, 3)
    assert 0 < result["threshold"] < 1


def test_sscd_is_calibrated_from_its_file(world):
    add_picture(world, 100_002, "control")
    sscd = torchscript(world.folder / "sscd.torchscript.pt")
    arguments = ("metric", "calibrate", world.probes, "--size", 16, "--rate", 0.5, "--metric", "sscd_tiny")
    called = call(*arguments, "--sscd", sscd, "--json")
    assert called.code == 0
    assert json.loads(called.out)["metric"] == "sscd_tiny@16"
    assert "'psnr'" in call(*arguments[:-1], "psnr").error


def test_an_onnx_encoder_is_calibrated_from_its_file(world):
    add_picture(world, 100_002, "control")
    arguments = ("metric", "calibrate", world.probes, "--size", 16, "--rate", 0.5, "--metric", "onnx_means", "--json")
    called = call(*arguments, "--sscd", onnx_encoder(world.folder / "means.onnx"))
    assert called.code == 0
    result = json.loads(called.out)
    assert result["metric"] == "onnx_means@16"
    assert 0 < result["threshold"] < 1
    refused = call(*arguments, "--sscd", onnx_encoder(world.folder / "broken.onnx", factor=float("nan")))
    assert refused.code == 2
    assert "broken.onnx gives NaN" in refused.error


@pytest.mark.parametrize(("arguments", "code"), [(["version"], 0), (["chekc"], 2)])
def test_the_process_ends_with_the_commands_exit_code(monkeypatch, arguments, code, capsys):
    monkeypatch.setattr(sys, "argv", ["invmm-gate", *arguments])
    monkeypatch.setattr(command_line.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == code
    capsys.readouterr()


def test_a_ctrl_c_while_the_program_is_still_loading_is_one_line_too(monkeypatch, capsys):
    def pressed(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "run", pressed)
    monkeypatch.setattr(command_line.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted: what was finished is kept; give the same command to go on\n"


def test_waivers_in_the_working_folder_are_not_used_unasked(finished):
    Path("waivers.yaml").write_text("- {rule: invmm_below, reason: known, owner: Ada, expires: 2030-01-01}\n")
    assert call("judge", finished.run, "--policy", finished.policy()).code == 10
