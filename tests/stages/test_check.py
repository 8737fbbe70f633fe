"""`check` end to end on a trained checkpoint: the verdict, its exit code and every artefact."""

import json
import os
import stat
from hashlib import sha256
from importlib import resources

import jsonschema
import pytest

from invmm_gate.policy.coverage import OF_THE_MODEL
from invmm_gate.stages import confirm as confirming
from invmm_gate.stages import measure as measuring
from invmm_gate.stages import self_checks
from invmm_gate.stages.report import REPORTS
from tests.stages.world import CAPTION, LENIENT, SOURCE, World, call, note_again, onnx_encoder, policy_with, torchscript

CONTRACT = {
    "run.json",
    "measurements.jsonl",
    "confirmations.jsonl",
    "likelihoods.jsonl",
    "verdict.json",
    "report.html",
    "summary.md",
    "results.sarif",
    "junit.xml",
    "scores.csv",
    "scores.parquet",
    "public/report.html",
    "public/summary.md",
    "public/verdict.json",
    "public-ids.key",
    "inversions/p1.safetensors",
    "inversions/p2.safetensors",
}
"""What users script against."""
BESIDES = {
    "self_checks.jsonl",
    "timings.jsonl",
    "measure_end.json",
    "confirm.json",
    "confirm_end.json",
    "metrics.json",
    "judged/policy.json",
    ".lock",
    ".lock-holder",
}
COPIES = {f"copies/inverted/{probe}/inverted-{number}.png" for probe in ("p1", "p2") for number in range(1, 5)}


def files(world: World) -> set[str]:
    return {path.relative_to(world.run).as_posix() for path in world.run.rglob("*") if path.is_file()}


def schema_errors(world: World, verdict: str = "verdict.json") -> list[str]:
    schema = json.loads(resources.files("invmm_gate").joinpath("policy", "verdict.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    said = json.loads((world.run / verdict).read_text())
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(said)]


def test_the_memorizing_checkpoint_is_blocked_with_exit_code_10_and_its_evidence(checked):
    world, called = checked
    assert called.code == 10
    assert called.out.startswith("BLOCK  policy small: 5 of 5 probes measured, 2 inverted")
    assert {line["probe"]: line["outcome"] for line in world.lines()} == {
        "p1": "inverted",
        "p2": "inverted",
        "p16": "not_inverted",
        "p100000": "not_inverted",
        "p100001": "not_inverted",
    }
    assert {finding["probe"] for finding in world.verdict()["findings"]} == {"p1", "p2"}
    assert f"{world.run}/report.html" in called.out


def test_the_run_folder_holds_the_files_of_the_contract_and_no_others(checked):
    copied = {name for name in files(checked[0]) if name.startswith("copies/confirmed/")}  # as luck has it
    assert files(checked[0]) - copied == CONTRACT | BESIDES | COPIES
    confirmed = {record["probe"] for record in checked[0].lines("confirmations.jsonl") if record["hits"]}
    assert {name.split("/")[2] for name in copied} == confirmed


def test_the_verdict_obeys_the_shipped_schema(checked):
    world, _ = checked
    assert schema_errors(world) == schema_errors(world, "public/verdict.json") == []
    assert world.verdict()["decision"] == "block"
    assert world.verdict()["fingerprint"] == json.loads((world.run / "run.json").read_text())["fingerprint"]


def test_run_json_says_what_was_run_on_what(checked):
    world, _ = checked
    run = json.loads((world.run / "run.json").read_text())
    assert run["inputs"]["rows"] == 4
    assert run["inputs"]["settings"]["steps"] == 20
    assert (run["inputs"]["seed"], run["inputs"]["image_size"]) == (0, [16, 16])
    assert {"torch", "diffusers", "invmm-gate"} <= set(run["inputs"]["versions"])
    assert len(run["inputs"]["policy"]) == len(run["model"]["digest"]) == len(run["probe_set"]["digest"]) == 64
    assert "NaN" not in (world.run / "measurements.jsonl").read_text()
    assert "Infinity" not in (world.run / "measurements.jsonl").read_text()


@pytest.mark.parametrize(
    ("policy", "decision", "code"),
    [
        (None, "block", 10),
        (LENIENT, "pass", 0),
        (LENIENT | {"coverage": {"min_probes": 1, "min_controls": 3}}, "inconclusive", 11),
    ],
)
def test_the_same_records_are_judged_by_another_policy_and_every_artefact_says_so(finished, policy, decision, code):
    records = {name: (finished.run / name).read_bytes() for name in ("measurements.jsonl", "confirmations.jsonl")}
    called = call("judge", finished.run, "--policy", finished.policy(policy, "other"))
    assert called.code == code
    assert called.err == ""
    assert finished.verdict()["decision"] == decision
    assert schema_errors(finished) == []
    assert decision in (finished.run / "report.html").read_text().lower()
    assert decision in (finished.run / "summary.md").read_text().lower()
    assert {name: (finished.run / name).read_bytes() for name in records} == records


def test_a_policy_that_asks_for_other_settings_is_not_answered_by_old_records(finished):
    longer = policy_with(rules=LENIENT["rules"], settings={"steps": 40})
    other = finished.policy(longer, "longer")
    assert call("judge", finished.run, "--policy", other).code == 11
    assert "other settings than the policy's: steps" in finished.verdict()["reasons"][0]


def test_judging_again_gives_the_same_bytes(finished):
    before = (finished.run / "verdict.json").read_bytes()
    assert call("judge", finished.run, "--policy", finished.policy()).code == 10
    assert (finished.run / "verdict.json").read_bytes() == before


def test_report_renders_again_from_the_records_with_the_same_bytes(finished):
    before = {name: (finished.run / name).read_bytes() for name in REPORTS}
    for name in before:
        (finished.run / name).unlink()
    called = call("report", finished.run)
    assert called.code == 0
    assert called.out.split() == [str(finished.run / name) for name in before]
    assert {name: (finished.run / name).read_bytes() for name in before} == before


def test_reveal_shows_pictures_in_the_report_and_no_reveal_takes_them_out_again(finished):
    assert "data:image/png" not in (finished.run / "report.html").read_text()
    assert call("report", finished.run, "--reveal").code == 0
    revealed = (finished.run / "report.html").read_text()
    copies = len(list(finished.run.glob("copies/*/*/*.png")))
    assert copies >= 8, "four of each inverted probe"
    assert revealed.count("data:image/png") == 5 + copies, "every probe and every copy"
    assert call("report", finished.run).code == 0
    assert "data:image/png" not in (finished.run / "report.html").read_text()


def test_the_same_command_again_measures_nothing_twice_and_comes_to_the_same_verdict(finished, monkeypatch):
    before = {name: (finished.run / name).read_bytes() for name in files(finished) - {".lock-holder"}}

    def refuse(*_arguments, **_named):
        raise AssertionError("nothing is left to measure")

    for check in OF_THE_MODEL:
        monkeypatch.setitem(self_checks.CHECKS, check, refuse)
    monkeypatch.setattr(measuring, "Inverter", refuse)
    monkeypatch.setattr(confirming, "confirm_by_sampling", refuse)
    called = finished.check()
    assert called.code == 10
    assert "resuming" in called.err
    assert "5 of 5 probes are already measured" in called.err
    assert {name: (finished.run / name).read_bytes() for name in before} == before


def test_measure_confirm_and_judge_make_what_check_makes(checked, world):
    policy = world.policy()
    measured = call("measure", *world.arguments()[1:-1])
    assert measured.code == 0
    assert measured.out == f"measured: {world.run}; next: invmm-gate confirm {world.run}\n"
    assert not (world.run / "confirmations.jsonl").exists()
    assert call("judge", world.run, "--policy", policy).code == 10, "blocked by the scores alone"
    assert call("confirm", world.run).code == 0
    assert not (world.run / "verdict.json").exists(), "the verdict was of an earlier state"
    assert not (world.run / "report.html").exists()
    assert call("judge", world.run, "--policy", policy).code == 10
    for name in ("measurements.jsonl", "confirmations.jsonl", "likelihoods.jsonl", "verdict.json"):
        assert (world.run / name).read_bytes() == (checked[0].run / name).read_bytes()


def test_records_without_a_confirmation_that_the_policy_asks_for_do_not_pass(finished):
    (finished.run / "confirmations.jsonl").unlink()
    note_again(finished.run)
    policy = LENIENT | {"rules": [*LENIENT["rules"], {"rule": "confirmed", "rate_limit": 0.0}]}
    assert call("judge", finished.run, "--policy", finished.policy(policy, "lenient")).code == 11
    said = finished.verdict()["reasons"]
    assert said[0] == "2 controls were not looked for in the samples: p100000, p100001"
    assert "was not confirmed by plain sampling" in said[1]


def test_the_default_folder_is_named_after_the_model_and_the_run(world):
    named = ("--model", world.model, "--policy", world.policy(), "--probes", world.probes, "--rows", "4")
    assert call("check", *named, "--seed", "0", "--no-track").code == 10
    (folder,) = (world.folder.parent / "reports").iterdir()
    run = json.loads((folder / "run.json").read_text())
    assert folder.name == f"memorizing-{run['run_id']}"
    assert run["run_id"] == run["fingerprint"][:12]


@pytest.mark.parametrize(
    ("metric", "name", "decision"),
    [
        ({"name": "pixel_aligned", "threshold": 0.05}, "pixel_aligned", {"pass", "block"}),
        (
            {"name": "pixel_rmse", "threshold": 0.1, "also": {"name": "pixel_aligned", "threshold": 0.05}},
            "pixel_rmse at 0.1 or pixel_aligned at 0.05",
            {"pass", "block"},
        ),
        ({"name": "pixel_l2_neighbours", "threshold": 1.0}, "pixel_l2_neighbours@2", {"pass", "block"}),
        ({"name": "sscd_tiny", "threshold": 0.5}, "sscd_tiny@16", {"inconclusive", "block"}),
    ],
)
def test_every_copy_metric_that_a_policy_can_name_is_used_and_recorded(world, metric, name, decision):
    sscd = torchscript(world.folder / "sscd.torchscript.pt")
    called = world.check("--sscd", sscd, "--json", policy=world.policy(policy_with(metric=[metric])))
    assert json.loads(called.out)["decision"] in decision
    recorded = json.loads((world.run / "run.json").read_text())["metric"]
    assert recorded["name"] == name
    assert recorded["threshold"] == (1.0 if "also" in metric else metric["threshold"])
    if name.startswith("sscd"):
        assert recorded["digest"] == sha256(sscd.read_bytes()).hexdigest()
        assert "is unfit" in (world.run / "verdict.json").read_text(), "SSCD at 16 pixels decides nothing by itself"


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ({"name": "onnx_means", "threshold": 0.97}, "onnx_means@16"),
        (
            {"name": "pixel_rmse", "threshold": 0.1, "also": {"name": "onnx_means", "threshold": 0.97}},
            "pixel_rmse at 0.1 or onnx_means@16 at 0.97",
        ),
    ],
)
def test_an_onnx_encoder_decides_and_its_declaration_is_a_part_of_the_run(world, metric, name):
    encoder = onnx_encoder(world.folder / "means.onnx")
    declaration = encoder.with_suffix(".yaml")
    policy = world.policy(policy_with(metric=[metric]))
    called = world.check("--sscd", encoder, "--json", policy=policy)
    assert json.loads(called.out)["decision"] in {"pass", "block"}
    recorded = json.loads((world.run / "run.json").read_text())["metric"]
    assert (recorded["name"], recorded["unfit"]) == (name, "")
    assert recorded["digest"] == sha256(declaration.read_bytes()).hexdigest()
    declaration.write_text(declaration.read_text().replace("bilinear", "bicubic"))
    again = world.check("--sscd", encoder, policy=policy)
    assert again.code == 2
    assert "another metric" in again.error


def test_json_is_the_only_thing_on_stdout(finished):
    called = finished.check("--json")
    result = json.loads(called.out)
    assert (result["decision"], result["exit_code"], called.code) == ("block", 10, 10)
    assert result["report"] == f"{finished.run}/report.html"
    assert called.err == ""
    judged = call("judge", finished.run, "--policy", finished.policy(LENIENT, "lenient"), "--json")
    assert json.loads(judged.out)["decision"] == "pass"


def test_everything_in_the_run_folder_is_for_its_owner_alone(checked):
    world, _ = checked
    for path in (world.run, *world.run.rglob("*")):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path} has mode {mode:o}"


def test_private_texts_appear_in_nothing_that_is_shown_or_handed_on(checked):
    world, called = checked
    shown = [(world.run / name).read_text() for name in ("report.html", "summary.md", "verdict.json")]
    shown += [(world.run / name).read_text() for name in ("measurements.jsonl", "confirmations.jsonl")]
    for text in (called.out, called.err, *shown):
        assert CAPTION not in text
        assert SOURCE not in text


def test_a_reveal_is_private_too_but_captions_stay_out_of_what_is_printed(finished):
    called = finished.check("--reveal")
    assert CAPTION not in called.out + called.err
    assert stat.S_IMODE((finished.run / "report.html").stat().st_mode) == 0o600
