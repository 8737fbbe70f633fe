"""A check that stops anywhere goes on with the same command, and never mixes with another."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from invmm_gate.stages import check as gate_check
from invmm_gate.stages import confirm as confirming
from invmm_gate.stages import measure as measuring
from invmm_gate.stages import on_device, self_checks
from tests.stages.world import LENIENT, ROOT, World, add_picture, call

INTERRUPTED = "interrupted: what was finished is kept; give the same command to go on"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
KILLS = 3


@pytest.fixture(scope="module")
def kills():
    """Checks that were killed at random moments and given again, in forked children of a process without threads."""
    command = [sys.executable, ROOT / "benchmarks" / "kill_resume.py", "--json", "--kills", str(KILLS)]
    done = subprocess.run(
        [*command, "--steps", "20", "--probes", "3", "--trials", "8", "--seed", "1"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)["kills"]


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_check_goes_on_to_records_and_a_verdict_with_the_same_bytes(kills, number):
    assert kills[number]["different"] == []


def test_a_killed_check_leaves_no_temporary_files_once_it_has_gone_on(kills):
    assert [found["leftovers_at_end"] for found in kills] == [0] * KILLS


def test_the_kills_fell_into_different_stages(kills):
    assert len({(found["measured"], found["confirmed"]) for found in kills}) > 1


def started(world: World) -> subprocess.Popen[str]:
    """`check` in a process of its own, with its first probe on disk."""
    process = subprocess.Popen(
        [sys.executable, "-m", "invmm_gate", *map(str, world.arguments())],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not world.lines() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    return process


def test_a_check_that_is_told_to_end_keeps_what_is_finished_and_ends_with_130_and_one_line(world):
    process = started(world)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines() == [f"loading DDPMPipeline from {world.model}", INTERRUPTED]
    kept = world.lines()
    assert 1 <= len(kept) < 5
    resumed = world.check()
    assert resumed.code == 10
    assert f"{len(kept)} of 5 probes are already measured" in resumed.err
    assert [line for line in world.lines() if line in kept] == kept
    assert len(world.lines()) == 5


def test_ctrl_c_at_any_stage_is_one_line_and_the_same_command_goes_on(world, monkeypatch):
    def pressed(*_given, **_named):
        raise KeyboardInterrupt

    stages = ((self_checks, "self_check", 0), (confirming, "confirm", 5), (measuring, "model_unchanged", 5))
    for module, stage, lines in stages:
        with monkeypatch.context() as patched:
            patched.setattr(module, stage, pressed)
            called = world.check()
        assert called.code == 130
        assert called.err.splitlines()[-1] == INTERRUPTED
        assert len(world.lines()) == lines
        assert not (world.run / "verdict.json").exists()
    assert world.check().code == 10


@pytest.mark.parametrize(
    ("module", "missing", "first"),
    [(measuring, "", "run.json"), (on_device, "_in_confirm", "confirm.json")],
)
def test_a_run_that_was_cut_short_before_its_last_check_is_judged_inconclusive(
    world, monkeypatch, module, missing, first
):
    policy = world.policy()

    def pressed(*_given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, f"model_unchanged{missing}", pressed)
        assert world.check(policy=policy).code == 130
    judged = call("judge", world.run, "--policy", policy)
    assert judged.code == 11
    reasons = world.verdict()["reasons"]
    assert f"the self-check model_unchanged{missing} is missing" in reasons
    assert f"the stage that begins with {first} did not end: give the same command again" in reasons
    assert world.check(policy=policy).code == 10


CHANGES = {
    "another model": ("model", lambda world: _touch_weights(world)),
    "another policy": ("policy", lambda world: world.policy(LENIENT)),
    "another probe set": ("probe_set", lambda world: add_picture(world, 77, "sensitive")),
}


def _touch_weights(world: World) -> None:
    path = world.model / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the lowest bit of a weight's exponent byte: finite, and another model
    path.write_bytes(content)


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_holds_another_run_is_refused_with_the_name_of_what_differs(finished, change):
    named, arrange = CHANGES[change]
    world = finished.copied_model()
    assert world.check().code == 10, "a copy of the checkpoint is the same model"
    records = (world.run / "measurements.jsonl").read_bytes()
    policy = world.policy()
    arrange(world)
    called = world.check(policy=policy)
    assert called.code == 2
    assert re.search(rf"holds a run with another .*\b{named}\b.*; expected the same inputs", called.error)
    assert "give another --out" in called.error
    assert (world.run / "measurements.jsonl").read_bytes() == records
    assert (world.run / "verdict.json").exists(), "the verdict of the run that is there stays"


@pytest.mark.parametrize(("extra", "named"), [(("--seed", "1"), "seed"), (("--rows", "8"), "rows")])
def test_another_seed_or_row_count_is_another_run(finished, extra, named):
    called = finished.check(*extra)
    assert called.code == 2
    assert f"holds a run with another {named}; expected" in called.error


def test_confirm_refuses_a_model_that_is_no_longer_the_one_that_was_measured(finished):
    world = finished.copied_model()
    shutil.rmtree(world.run)
    assert call("measure", *world.arguments()[1:-1]).code == 0
    _touch_weights(world)
    called = call("confirm", world.run)
    assert called.code == 2
    assert "holds a run with another model" in called.error


HOLDER = """
import sys, time
from pathlib import Path
from invmm_gate.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(120)
"""


def test_a_folder_in_use_is_refused_at_once_and_free_once_its_holder_was_killed(finished, monkeypatch):
    def load(_options):
        raise AssertionError("nothing is loaded before the folder is known to be free")

    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, finished.run], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(gate_check, "prepare", load)
        for called in (finished.check(), call("report", finished.run), call("publish", finished.run)):
            assert called.code == 2
            assert f"is in use by process {holder.pid} on " in called.error
    finally:
        holder.kill()
        holder.communicate()
        monkeypatch.undo()
    assert finished.check().code == 10
