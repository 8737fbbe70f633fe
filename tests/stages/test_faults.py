"""What breaks on the way never leads to a pass, and every artefact is written all the same."""

import errno
import json
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from invmm_gate.models.adapters.unconditional import PixelModel
from invmm_gate.stages import confirm_work
from invmm_gate.stages import measure as measuring
from tests.stages.world import LENIENT, World, note_again, policy_with

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def spoilt(world: World) -> World:
    """A world with a checkpoint of its own, and a policy under which the sound checkpoint passes."""
    return world.copied_model()


def change_weights(world: World, change) -> None:
    tensors = load_file(world.model / WEIGHTS)
    change(tensors)
    save_file(tensors, world.model / WEIGHTS)


def overflow_at_late_timesteps(tensors: dict[str, torch.Tensor]) -> None:
    """Finite weights with which the time embedding overflows where there is almost nothing but noise.

    The slowest sine, the embedding's last entry, is 0.05 where signal and noise are equal and 0.18 at timestep 999.
    """
    weight, bias = tensors["time_embedding.linear_1.weight"], tensors["time_embedding.linear_1.bias"]
    weight[0], bias[0] = 0.0, -0.1 * 3e38
    weight[0, -1] = 3e38
    tensors["time_embedding.linear_2.weight"][:, 0] = 3e38


def test_a_flipped_prediction_type_is_caught_by_the_self_check_and_never_passes(spoilt):
    path = spoilt.model / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    assert config["prediction_type"] == "v_prediction"
    path.write_text(json.dumps(config | {"prediction_type": "epsilon"}))
    called = spoilt.check(policy=spoilt.policy(LENIENT))
    assert called.code == 11
    assert "INCONCLUSIVE" in called.out
    assert "self-check failed: denoising error" in called.err
    assert "the checkpoint does not denoise" in spoilt.verdict()["reasons"][0]
    assert spoilt.lines() == [], "no score of a model that does not denoise"
    assert (spoilt.run / "report.html").exists()
    assert (spoilt.run / "summary.md").exists()


def test_a_weight_that_is_not_a_number_is_refused_before_anything_is_measured(spoilt):
    change_weights(spoilt, lambda tensors: tensors["conv_in.bias"].fill_(float("nan")))
    called = spoilt.check()
    assert called.code == 2
    assert "conv_in.bias" in called.error
    assert not spoilt.run.exists()


def test_activations_that_overflow_everywhere_fail_the_self_check(spoilt):
    change_weights(spoilt, lambda tensors: tensors["conv_in.weight"].fill_(3e38))
    called = spoilt.check(policy=spoilt.policy(LENIENT))
    assert called.code == 11
    assert "NaN or infinity" in spoilt.verdict()["reasons"][0]


def test_activations_that_overflow_at_late_timesteps_fail_the_self_check_of_samples(spoilt):
    change_weights(spoilt, overflow_at_late_timesteps)
    assert spoilt.check(policy=spoilt.policy(LENIENT)).code == 11
    assert "samples from pure noise hold NaN or infinity" in " ".join(spoilt.verdict()["reasons"])


def test_nan_from_the_network_is_an_error_of_the_probe_and_the_run_is_inconclusive(spoilt, monkeypatch):
    real = measuring.measure

    def measure_on_a_device_that_fails(session, folder, progress):
        session.model.network.conv_out.bias.fill_(float("nan"))
        return real(session, folder, progress)

    monkeypatch.setattr(measuring, "measure", measure_on_a_device_that_fails)
    policy = LENIENT | {"rules": [*LENIENT["rules"], {"rule": "confirmed", "rate_limit": 0.0}]}
    called = spoilt.check(policy=spoilt.policy(policy))
    assert called.code == 11
    assert {line["outcome"] for line in spoilt.lines()} == {"error"}
    assert all("NaN or infinity from the network" in line["reason"] for line in spoilt.lines())
    assert all(line["invmm"] is None and line["share"] is None for line in spoilt.lines())
    assert "gave NaN or infinity" in called.err
    assert "p1 broke: NaN or infinity from the network" in " ".join(spoilt.verdict()["reasons"])
    assert (spoilt.run / "report.html").exists()
    assert spoilt.check(policy=spoilt.policy(policy)).code == 11, "going on changes nothing"


def test_a_checkpoint_that_changes_during_the_run_leaves_no_verdict_standing(spoilt, monkeypatch):
    real = measuring.measure

    def measure_while_someone_saves(session, folder, progress):
        (spoilt.model / "unet" / "config.json").write_text((spoilt.model / "unet" / "config.json").read_text() + "\n")
        return real(session, folder, progress)

    monkeypatch.setattr(measuring, "measure", measure_while_someone_saves)
    assert spoilt.check(policy=spoilt.policy(LENIENT)).code == 11
    assert "model_unchanged failed: changed during the run: unet/config.json" in spoilt.verdict()["reasons"][0]


class Memory:
    """A device on which the network fits with so many rows; beyond that torch's own allocator fails."""

    def __init__(self, rows: int) -> None:
        self.rows, self.refused, self.largest = rows, 0, 0
        self._real = PixelModel.estimate_x_0

    def estimate(self, model, x_t, level, **named):
        if len(x_t) > self.rows:
            self.refused += 1
            torch.empty(2**60)
        self.largest = max(self.largest, len(x_t))
        return self._real(model, x_t, level, **named)


@pytest.fixture
def memory_for(monkeypatch):
    def limit(rows: int) -> Memory:
        memory = Memory(rows)
        monkeypatch.setattr(PixelModel, "estimate_x_0", lambda *given, **named: memory.estimate(*given, **named))
        return memory

    return limit


def test_out_of_memory_restarts_the_probes_in_flight_with_half_the_rows_and_says_so(world, memory_for):
    memory = memory_for(4)
    called = world.check("--rows", "16")
    assert called.code == 10
    assert (memory.refused, memory.largest) == (3, 4), "once before the probes, where the self-checks take fewer rows"
    assert "out of memory: the probes in flight start again with 8 rows" in called.err
    assert "start again with 4 rows" in called.err
    run = json.loads((world.run / "run.json").read_text())
    assert run["context"]["reduced_rows"] == [8, 4]
    assert run["inputs"]["rows"] == 16, "the run's identity is what was asked for"
    assert len(world.lines()) == 5
    assert len(world.lines("confirmations.jsonl")) == 2 * 5, "by both samplers"


def test_out_of_memory_while_sampling_halves_the_rows_too(world, memory_for):
    policy = world.policy(policy_with(settings={"test_samples": 2}))
    assert world.check("--rows", "16", policy=policy).code == 10
    (world.run / "confirmations.jsonl").unlink()
    note_again(world.run)
    memory_for(2)
    called = world.check("--rows", "16", policy=policy)
    assert called.code == 10
    assert "start again with 8 rows" in called.err
    assert len(world.lines("confirmations.jsonl")) == 2 * 5, "by both samplers"


def test_without_room_for_one_probe_the_run_ends_open_with_one_line_and_can_go_on(world, memory_for):
    memory = memory_for(4)
    policy = world.policy(policy_with(settings={"batch_size": 8, "test_samples": 4}))
    called = world.check("--rows", "8", policy=policy)
    assert called.code == 11
    assert "out of memory with 8 rows, the smallest batch" in called.error
    memory.rows = 8
    assert world.check("--rows", "8", policy=policy).code == 10


def test_a_model_that_does_not_fit_into_memory_at_all_is_no_internal_error(world, memory_for):
    memory_for(0)
    called = world.check()
    assert called.code == 11
    assert called.error.startswith("error: out of memory: ")


def test_a_disk_that_is_full_from_the_start_is_said_in_one_line(world, small_disk):
    disk = small_disk(16)
    (disk / "ballast").write_bytes(b"x" * 8_000)
    shutil.rmtree(world.run, ignore_errors=True)
    called = world.check("--out", disk / "run")
    assert called.code == 11
    assert called.error.startswith(f"error: the disk is full: {disk}/run")


def test_a_disk_that_fills_up_keeps_what_was_measured_and_the_run_goes_on_after_room_was_made(
    world, checked, small_disk, monkeypatch
):
    disk = small_disk(1024)
    ballast, real = disk / "ballast", measuring.measure

    def room_that_others_take(*given):
        ballast.write_bytes(b"x" * (shutil.disk_usage(disk).free - 8192))
        return real(*given)

    monkeypatch.setattr(measuring, "measure", room_that_others_take)
    called = world.check("--out", disk / "run")
    assert called.code == 11
    assert re.search(rf"the disk is full: {disk}/run/\S+ could not be written, which takes \d+ bytes;", called.error)
    assert "give the same command again; what was measured is kept" in called.error
    kept = (disk / "run" / "self_checks.jsonl").read_bytes()
    ballast.unlink()
    monkeypatch.undo()
    assert world.check("--out", disk / "run").code == 10
    assert (disk / "run" / "self_checks.jsonl").read_bytes().startswith(kept)
    for name in ("measurements.jsonl", "confirmations.jsonl", "likelihoods.jsonl", "verdict.json", "summary.md"):
        assert (disk / "run" / name).read_bytes() == (checked[0].run / name).read_bytes()


@pytest.fixture(scope="module")
def copied(pristine, tmp_path_factory) -> World:
    """An undisturbed check in which probes are inverted and confirmed, so that there are copies of both kinds."""
    world = pristine.copy(tmp_path_factory.mktemp("copied") / "world")
    policy = world.policy(policy_with(metric=[{"name": "pixel_rmse", "threshold": 0.3}]))
    assert world.check(policy=policy).code == 10
    return world


@pytest.mark.parametrize(("stage", "kind"), [(measuring, "inverted"), (confirm_work, "confirmed")])
def test_a_disk_that_is_full_when_a_copy_is_written_ends_in_one_line_and_the_run_goes_on_later(
    copied, small_disk, monkeypatch, stage, kind
):
    policy, undisturbed = copied.folder / "small.yaml", files_of(copied.run)
    disk = small_disk(1024)
    ballast, real, stored = disk / "ballast", stage.store_copies, []

    def others_take_the_room(folder, place, copies):
        copies = list(copies)
        if copies and stored:
            (disk / "run" / place).parent.mkdir(parents=True)
            ballast.write_bytes(b"x" * shutil.disk_usage(disk).free)
        names = real(folder, place, copies)
        stored.extend(names)
        return names

    monkeypatch.setattr(stage, "store_copies", others_take_the_room)
    called = copied.check("--out", disk / "run", policy=policy)
    assert called.code == 11
    said = re.match(rf"error: the disk is full: {disk}/run/(copies/{kind}/p\d+/\S+) could not be written", called.error)
    assert said, called.error
    kept = files_of(disk / "run")
    assert not (disk / "run" / said[1]).exists()
    assert not (disk / "run" / "verdict.json").exists()
    assert {name: kept.get(name) for name in stored} == {name: undisturbed[name] for name in stored}
    ballast.unlink()
    monkeypatch.undo()
    assert copied.check("--out", disk / "run", policy=policy).code == 10
    assert files_of(disk / "run") == undisturbed


def files_of(run) -> dict[str, bytes]:
    """Records and copies, and whatever a stopped writer would leave among them."""
    kinds = ("*.jsonl", "copies/*/*/*", "copies/*/*/.*", "inversions/*", "verdict.json")
    paths = [path for kind in kinds for path in run.glob(kind) if path.name != "timings.jsonl"]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths}


def test_a_disk_that_fails_while_a_verdict_is_written_leaves_no_pass_behind(finished, monkeypatch):
    real = os.replace

    def fail(source, target):
        if str(target).endswith("verdict.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    called = finished.check()
    assert called.code == 2
    assert "verdict.json cannot be written" in called.error
    assert not (finished.run / "verdict.json").exists()
    assert not (finished.run / "report.html").exists()
    assert not list(finished.run.glob("*.tmp"))
