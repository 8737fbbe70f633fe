"""`invmm-gate verdict`, and what a pipeline keeps of a validated probe set."""

import json
import shutil
from datetime import UTC, date, datetime, timedelta

import pytest

from invmm_gate.stages.read_verdict import standing_verdict
from tests.cli.test_imports import DEVICE, imported_by
from tests.stages.world import LENIENT, World, add_picture, call, policy_with

TODAY = datetime.now(UTC).date()


def test_it_explains_itself():
    called = call("verdict", "--help")
    assert called.code == 0
    assert "Example: invmm-gate verdict reports/first" in called.out


def test_it_says_what_the_run_was_found_to_be_and_ends_with_its_code(finished):
    called = call("verdict", finished.run)
    assert called.code == 10
    assert called.out.startswith("BLOCK  policy small: 5 of 5 probes measured")
    assert call("judge", finished.run, "--policy", finished.policy(LENIENT, "lenient")).code == 0
    assert call("verdict", finished.run).code == 0
    result = json.loads(call("verdict", finished.run, "--json").out)
    assert (result["decision"], result["exit_code"]) == ("pass", 0)


def test_it_changes_nothing(finished):
    before = {path: path.read_bytes() for path in finished.run.rglob("*") if path.is_file()}
    call("verdict", finished.run)
    assert {path: path.read_bytes() for path in finished.run.rglob("*") if path.is_file()} == before


def test_it_needs_no_model(finished):
    code, modules = imported_by("verdict", finished.run)
    assert code == 10
    assert modules & (DEVICE | {"great_expectations", "pandas"}) == set()


def waived(world: World, expires: date) -> None:
    """Judged with every finding waived until that day."""
    listed = world.folder / "waivers.yaml"
    rules = ("invmm_below", "confirmed")
    listed.write_text("".join(f"- {{rule: {rule}, reason: known, owner: Ada, expires: {expires}}}\n" for rule in rules))
    policy = world.policy(policy_with(waivers="owned"), "owned")
    assert call("judge", world.run, "--policy", policy, "--waivers", listed).code == 0


def test_a_waived_run_passes_until_its_waiver_expires_and_then_blocks(finished):
    waived(finished, TODAY + timedelta(days=1))
    assert call("verdict", finished.run).code == 0
    later = standing_verdict(finished.run, today=TODAY + timedelta(days=2))
    assert later.decision == "block"
    assert later.reasons[0].startswith("a waiver has expired since the run was judged")


def test_a_run_that_was_not_judged_is_bad_input(finished):
    (finished.run / "verdict.json").unlink()
    called = call("verdict", finished.run)
    assert called.code == 2
    assert f"holds no verdict.json; expected a run that was judged; invmm-gate judge {finished.run}" in called.error


def test_a_folder_that_is_no_run_is_bad_input(tmp_path):
    called = call("verdict", tmp_path)
    assert called.code == 2
    assert "holds no run.json" in called.error


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        (
            '"decision": "block"',
            '"decision": "pass"',
            "judged again, its records give other decision than verdict.json",
        ),
        ('"fingerprint": "', '"fingerprint": "0', "was made on other inputs"),
    ],
)
def test_a_verdict_that_was_edited_is_not_believed(finished, before, after, fault):
    path = finished.run / "verdict.json"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    called = call("verdict", finished.run)
    assert called.code == 2
    assert fault in called.error


@pytest.mark.parametrize("name", ["run.json", "measurements.jsonl", "self_checks.jsonl", "confirmations.jsonl"])
def test_a_verdict_of_other_records_than_the_folders_is_not_believed(finished, name):
    assert call("judge", finished.run, "--policy", finished.policy(LENIENT, "lenient")).code == 0
    path = finished.run / name
    text = path.read_text()
    path.write_text(text.replace('"group": "duplicated"', '"group": "control"') if name == "run.json" else text + " ")
    called = call("verdict", finished.run)
    assert called.code == 2
    assert f"verdict.json was made before {name} changed" in called.error


def test_a_verdict_that_was_written_before_it_named_its_records_is_not_believed(finished):
    path = finished.run / "verdict.json"
    found = json.loads(path.read_text())
    del found["records"]
    path.write_text(json.dumps(found))
    assert "was made before confirm.json" in call("verdict", finished.run).error


def test_a_verdict_is_of_the_model_that_is_about_to_be_released_or_of_none(finished):
    assert call("judge", finished.run, "--policy", finished.policy(LENIENT, "lenient")).code == 0
    assert call("verdict", finished.run, "--model", finished.model).code == 0
    own = finished.copied_model()
    assert call("verdict", own.run, "--model", own.model).code == 0, "the same bytes in another place"
    config = own.model / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + "\n")
    other = call("verdict", own.run, "--model", own.model)
    assert other.code == 2
    assert f"{own.run} is no run of {own.model}, whose files give " in other.error
    missing = call("verdict", own.run, "--model", own.folder / "none")
    assert missing.code == 2
    assert "none" in missing.error


def test_a_verdict_is_under_the_policy_that_is_demanded_or_of_no_use(finished):
    lenient = finished.policy(LENIENT, "lenient")
    assert call("judge", finished.run, "--policy", lenient).code == 0
    assert call("verdict", finished.run, "--policy", lenient).code == 0
    refused = call("verdict", finished.run, "--policy", finished.policy())
    assert refused.code == 2
    assert "was judged under 'lenient' with the digest" in refused.error
    assert call("verdict", finished.run, "--policy", "none.yaml").code == 2


def test_a_run_from_before_copies_were_kept_has_to_be_judged_again(finished):
    shutil.rmtree(finished.run / "judged")
    for command in (("verdict",), ("report",), ("bless", "--reason", "first"), ("publish",)):
        refused = call(command[0], finished.run, *command[1:])
        assert refused.code == 2
        assert "holds no judged/policy.json; expected a run as this version of `judge` leaves it" in refused.error
    assert call("judge", finished.run, "--policy", finished.policy()).code == 10
    assert call("verdict", finished.run).code == 10


def test_no_earlier_pass_outlives_a_refused_measure_with_replace(finished):
    assert call("judge", finished.run, "--policy", finished.policy(LENIENT, "lenient")).code == 0
    named = ("--policy", finished.policy(), "--probes", finished.probes, "--out", finished.run, "--rows", "4")
    assert call("measure", "--model", finished.folder / "none", *named).code == 2
    assert call("verdict", finished.run).code == 0, "nothing was to be replaced"
    assert call("measure", "--model", finished.folder / "none", *named, "--replace").code == 2
    assert call("verdict", finished.run).code == 2
    assert not (finished.run / "report.html").exists()
    assert (finished.run / "measurements.jsonl").exists(), "records make way only once the new inputs hold"


def test_replace_removes_nothing_from_a_folder_that_is_no_run(finished, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "report.html").write_text("mine")
    named = ("--policy", finished.policy(), "--probes", finished.probes, "--out", tmp_path / "docs", "--replace")
    assert call("measure", "--model", finished.folder / "none", *named).code == 2
    assert (tmp_path / "docs" / "report.html").read_text() == "mine"


def test_a_validated_probe_set_leaves_counts_and_digest(pristine, tmp_path):
    out = tmp_path / "deep" / "validated.json"
    called = call("probes", "validate", pristine.probes, "--policy", pristine.policy(), "--out", out)
    assert called.code == 0
    found = json.loads(out.read_text())
    assert (found["valid"], found["probes"], found["problems"]) == (True, 5, [])
    assert found["groups"] == {"control": 2, "duplicated": 2, "sensitive": 1}
    assert found["digest"] in called.out
    assert "heron" not in out.read_text()


def test_a_policy_says_how_many_controls_are_needed(world, tmp_path):
    policy = world.policy(policy_with(coverage={"min_probes": 1, "min_controls": 3}), "three")
    out = tmp_path / "validated.json"
    called = call("probes", "validate", world.probes, "--policy", policy, "--out", out)
    assert called.code == 2
    found = json.loads(out.read_text())
    assert (found["valid"], found["digest"]) == (False, None)
    assert len(found["problems"]) == 1
    add_picture(world, 100_002, "control")
    assert call("probes", "validate", world.probes, "--policy", policy, "--out", out).code == 0
