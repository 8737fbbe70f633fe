"""The stages one by one, as a pipeline gives them: what each leaves alone, and what makes way for other inputs."""

import json
import re
import shutil

import pytest

from invmm_gate.policy.coverage import OF_THE_MODEL
from invmm_gate.report.bands import score_band
from invmm_gate.runs.stage_files import CONFIRMING, MEASURE
from invmm_gate.stages import confirm as confirming
from invmm_gate.stages import measure as measuring
from invmm_gate.stages import self_checks
from tests.stages.world import LENIENT, World, add_picture, call, note_again, policy_with

CONFIRMED_RULE = {"rule": "confirmed", "rate_limit": 0.0}


def measure(world: World, *extra: object, policy=None):
    named = ("--model", world.model, "--policy", policy or world.policy(), "--probes", world.probes, "--out", world.run)
    return call("measure", *named, "--rows", "4", "--seed", "0", *extra)


def bytes_of(world: World, *stages) -> dict[str, bytes]:
    """The files of these stages."""
    files = {name for stage in stages for name in (stage.begins_with, *stage.records)}
    folders = tuple(f"{folder}/" for stage in stages for folder in stage.folders)
    paths = {path.relative_to(world.run).as_posix(): path for path in world.run.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if name in files or name.startswith(folders)}


@pytest.fixture
def no_network(monkeypatch):
    """Nothing may be measured or sampled."""

    def refuse(*_arguments, **_named):
        raise AssertionError("nothing is left to do on the device")

    for check in OF_THE_MODEL:
        monkeypatch.setitem(self_checks.CHECKS, check, refuse)
    monkeypatch.setattr(measuring, "Inverter", refuse)
    monkeypatch.setattr(confirming, "confirm_by_sampling", refuse)


def test_each_stage_leaves_the_files_of_those_before_it_as_they_were(world):
    assert measure(world).code == 0
    measured = bytes_of(world, MEASURE)
    assert call("confirm", world.run).code == 0
    assert bytes_of(world, MEASURE) == measured
    confirmed = bytes_of(world, MEASURE, CONFIRMING)
    judged = call("judge", world.run, "--policy", world.policy(), "--no-report", "--exit-zero")
    assert judged.code == 0, "whatever the verdict"
    assert judged.out.startswith("BLOCK")
    assert "report:" not in judged.out
    assert not (world.run / "report.html").exists()
    verdict = (world.run / "verdict.json").read_bytes()
    assert call("report", world.run).code == 0
    assert (world.run / "report.html").exists()
    assert (world.run / "verdict.json").read_bytes() == verdict
    assert bytes_of(world, MEASURE, CONFIRMING) == confirmed
    assert call("verdict", world.run).code == 10


def test_judging_without_a_report_removes_that_of_an_earlier_verdict(finished):
    policy = finished.policy(LENIENT, "lenient")
    assert call("judge", finished.run, "--policy", policy, "--no-report").code == 0
    assert not (finished.run / "report.html").exists()
    assert not (finished.run / "results.sarif").exists()


def test_a_threshold_in_bits_is_held_against_the_latent_of_the_finished_run(finished):
    run = json.loads((finished.run / "run.json").read_text())
    assert run["inputs"]["latent_shape"] == [3, *run["inputs"]["image_size"]]
    codes = {}
    for bits in (1e-3, 5000):
        rules = [{"rule": "invmm_below", "threshold_bits": bits}]
        policy = finished.policy(policy_with(name="bits", rules=rules), f"bits{bits:g}")
        judged = call("judge", finished.run, "--policy", policy, "--no-report")
        codes[bits] = judged.code
    assert codes == {1e-3: 0, 5000: 10}
    assert re.search(r"InvMM [0-9.]+ \([0-9.]+ bits\); invmm_below", judged.out)
    assert re.search(r"scores [0-9.]+ bits, at or below 5000 bits", (finished.run / "verdict.json").read_text())


def test_stages_that_are_given_again_change_not_one_byte(finished, no_network):
    before = bytes_of(finished, MEASURE, CONFIRMING)
    assert measure(finished, "--replace").code == 0
    assert call("confirm", finished.run, "--replace").code == 0
    assert bytes_of(finished, MEASURE, CONFIRMING) == before


def test_a_run_of_another_setting_is_refused_and_makes_way_only_where_that_is_asked_for(finished):
    policy = finished.policy(policy_with(settings={"steps": 10}), "shorter")
    before = bytes_of(finished, MEASURE, CONFIRMING)
    refused = measure(finished, policy=policy)
    assert refused.code == 2
    assert "holds a run with another policy, settings" in refused.error
    assert bytes_of(finished, MEASURE, CONFIRMING) == before
    replaced = measure(finished, "--replace", policy=policy)
    assert replaced.code == 0
    assert "resuming" not in replaced.err
    assert max(line["steps"] for line in finished.lines()) == 10
    assert not (finished.run / "confirmations.jsonl").exists()
    assert not (finished.run / "confirm.json").exists()
    assert not (finished.run / "copies" / "confirmed").exists()
    assert not (finished.run / "verdict.json").exists()


def test_a_policy_with_other_rules_keeps_the_scores(finished, no_network):
    kept = {name: found for name, found in bytes_of(finished, MEASURE).items() if name != "run.json"}
    rules = [{"rule": "invmm_below", "threshold": 0.5}]
    policy = finished.policy(policy_with(name="fewer", rules=rules), "fewer")
    replaced = measure(finished, "--replace", policy=policy)
    assert replaced.code == 0
    assert "5 of 5 probes are already measured" in replaced.err
    after = {name: found for name, found in bytes_of(finished, MEASURE).items() if name != "run.json"}
    assert after == kept
    assert call("confirm", finished.run, "--policy", policy).code == 0
    assert len(finished.lines("confirmations.jsonl")) == 2 * 5, "made under the same plan, by both samplers"
    assert call("judge", finished.run, "--policy", policy).code == 10


def test_another_plan_confirms_anew_and_measures_nothing(finished, monkeypatch):
    monkeypatch.setattr(measuring, "Inverter", None)
    before = bytes_of(finished, MEASURE)
    plan = {"plain_sampling": {"trials": 24, "sampler_steps": 5, "confidence": 0.95, "probes": "all"}}
    policy = finished.policy(policy_with(name="longer", confirm=plan), "longer")
    refused = call("confirm", finished.run, "--policy", policy)
    assert refused.code == 2
    assert "holds confirmations under another confirm; " in refused.error
    assert "--replace" in refused.error
    assert call("confirm", finished.run, "--policy", policy, "--replace").code == 0
    assert {line["trials"] for line in finished.lines("confirmations.jsonl")} == {24}
    assert bytes_of(finished, MEASURE) == before
    judged = call("judge", finished.run, "--policy", policy)
    assert judged.code == 10, "the plan that confirmed is the plan that is judged, whatever run.json was begun with"
    verdict = finished.verdict()
    assert not [finding for finding in verdict["findings"] if finding["effect"] == "inconclusive"]
    assert verdict["fingerprint"] != json.loads((finished.run / "run.json").read_text())["fingerprint"]
    assert call("verdict", finished.run).code == 10


def test_a_raised_threshold_confirms_the_same_scores(finished):
    policy = finished.policy(policy_with(rules=[{"rule": "invmm_below", "threshold": 0.6}, CONFIRMED_RULE]), "raised")
    assert call("confirm", finished.run, "--policy", policy).code == 0
    assert call("judge", finished.run, "--policy", policy).code in {10, 11}


def test_a_run_that_is_not_measured_to_its_end_is_not_confirmed(finished):
    lines = (finished.run / "measurements.jsonl").read_bytes().splitlines(keepends=True)
    (finished.run / "measurements.jsonl").write_bytes(b"".join(lines[:2]))
    (finished.run / MEASURE.end).unlink()
    called = call("confirm", finished.run)
    assert called.code == 2
    assert "a run that was not measured to its end, with 3 probes left" in called.error
    assert "`invmm-gate measure` command again" in called.error


def test_a_model_that_changes_while_it_is_confirmed_leaves_no_verdict_standing(world, monkeypatch):
    spoilt = world.copied_model()
    assert measure(spoilt).code == 0
    real = confirming.confirm

    def confirm_while_someone_saves(*given, **named):
        path = spoilt.model / "unet" / "config.json"
        path.write_text(path.read_text() + "\n")
        return real(*given, **named)

    monkeypatch.setattr(confirming, "confirm", confirm_while_someone_saves)
    assert call("confirm", spoilt.run).code == 0
    assert call("judge", spoilt.run, "--policy", spoilt.policy(LENIENT, "lenient")).code == 11
    assert "model_unchanged_in_confirm failed: changed during the run" in " ".join(spoilt.verdict()["reasons"])


def test_copies_are_shown_with_their_own_probe(world):
    for number, identifier in ((1, "a"), (2, "a-b")):
        add_picture(world, number + 2, "duplicated", identifier=identifier)
    assert world.check().code in {10, 11}
    names = {path.relative_to(world.run / "copies").parts[1] for path in world.run.glob("copies/*/*/*.png")}
    assert names <= {"p1", "p2", "p16", "a", "a-b"}
    assert all(len(path.relative_to(world.run).parts) == 4 for path in world.run.glob("copies/**/*.png"))


def test_the_metrics_are_figures_of_the_verdict_and_nothing_private(finished):
    text = (finished.run / "metrics.json").read_text()
    found = json.loads(text)
    assert (found["decision"], found["exit_code"]) == ("block", 10)
    assert found["counts"] == finished.verdict()["counts"]
    scores = [line["invmm"] for line in finished.lines() if line["invmm"] is not None]
    assert found["lowest_invmm"] == score_band(min(scores)) != min(scores)
    assert found["highest_replication_share"] == 1.0
    assert found["evaluations"] == sum(line["evaluations"] for line in finished.lines())
    assert "heron" not in text


def test_a_figure_that_there_is_none_of_is_left_out_of_the_metrics(finished):
    for name in ("measurements.jsonl", "confirmations.jsonl"):
        (finished.run / name).write_text("")
    note_again(finished.run)
    assert call("judge", finished.run, "--policy", finished.policy()).code == 11
    found = json.loads((finished.run / "metrics.json").read_text())
    assert "lowest_invmm" not in found
    assert (found["decision"], found["evaluations"]) == ("inconclusive", 0)


def test_what_the_rule_regression_finds_is_confirmed_where_the_baseline_is_named(world, tmp_path):
    plan = {"plain_sampling": {"trials": 16, "sampler_steps": 5, "confidence": 0.95, "probes": "flagged"}}
    policy = world.policy(policy_with(confirm=plan, rules=[{"rule": "regression", "margin": 0.05}, CONFIRMED_RULE]))
    assert measure(world, policy=policy).code == 0
    lines = world.lines()
    inverted = {line["probe"] for line in lines if line["outcome"] == "inverted"}
    assert inverted
    approved = shutil.copytree(world.run, tmp_path / "approved")
    harder = [line | {"invmm": line["invmm"] and line["invmm"] + 1.0} for line in lines]
    (approved / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in harder))
    note_again(approved)
    assert call("judge", approved, "--policy", world.policy(LENIENT, "lenient")).code == 0
    assert call("confirm", world.run).code == 0
    assert world.lines("confirmations.jsonl") == []
    assert call("confirm", world.run, "--baseline", approved).code == 0
    controls = {line["probe"] for line in lines if line["group"] == "control"}
    assert {line["probe"] for line in world.lines("confirmations.jsonl")} == inverted | controls


def test_a_baseline_that_cannot_be_read_is_refused_before_anything_is_confirmed(finished, no_network, tmp_path):
    refused = call("confirm", finished.run, "--baseline", tmp_path / "none")
    assert refused.code == 2
    assert "none" in refused.error
