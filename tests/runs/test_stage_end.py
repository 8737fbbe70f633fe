"""A stage's end record: what was edited since is refused wherever the run is taken up, and no end is no pass."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from invmm_gate.core.errors import RunFolderError
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stage_files import CONFIRMING, MEASURE, STAGES
from tests.runs.conftest import PLAN, PROBES, SELF_CHECK, confirmation, measurement, run_record


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that was measured and confirmed."""
    return written(tmp_path / "run")


def written(path: Path, **inputs: object) -> RunFolder:
    folder = RunFolder(path)
    path.mkdir()
    folder.begin(run_record(**inputs))
    folder.append(SELF_CHECK)
    for probe in reversed(PROBES):
        folder.write(f"inversions/{probe}.safetensors", b"mu")
        folder.append(measurement(probe))
    folder.end(MEASURE)
    folder.begin_confirming(run_record(**inputs), PLAN)
    for probe in reversed(PROBES):
        folder.write(f"copies/confirmed/{probe}/sampled-1.png", b"pixels")
        folder.append(confirmation(probe))
    folder.end(CONFIRMING)
    return folder


def edited(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def test_the_end_record_names_every_file_of_the_stage(folder):
    for stage, inside in (
        (MEASURE, "inversions/heron.safetensors"),
        (CONFIRMING, "copies/confirmed/reed/sampled-1.png"),
    ):
        named = json.loads((folder.path / stage.end).read_text())["files"]
        assert {stage.begins_with, *stage.records, inside} <= set(named)
        assert all(stage.owns(name) for name in named)


def test_what_was_written_is_accepted_and_a_run_without_changes_stays_ended(folder):
    folder.refuse_edited()
    folder.begin(run_record())
    folder.begin_confirming(run_record(), PLAN)
    assert folder.data().unfinished == ()


EDITS = {
    "a score": ("measurements.jsonl", '"invmm": 0.1', '"invmm": 0.9'),
    "an outcome": ("measurements.jsonl", '"outcome": "inverted"', '"outcome": "not_inverted"'),
    "a space": ("measurements.jsonl", '", "group"', '",  "group"'),
    "a self-check": ("self_checks.jsonl", '"passed": true', '"passed": false'),
    "a confirmation": ("confirmations.jsonl", '"hits": 0', '"hits": 3'),
    "the plan": ("confirm.json", '"rate_limit": 0.0', '"rate_limit": 1.0'),
    "an inversion": ("inversions/heron.safetensors", "mu", "nu"),
    "a copy": ("copies/confirmed/reed/sampled-1.png", "pixels", "pixies"),
    "the run's date": ("run.json", "2026-11-21T22:11:04", "2026-11-22T22:11:04"),
    "the end record": ("measure_end.json", '"inversions/heron.safetensors": "', '"inversions/heron.safetensors": "0'),
}


def assert_refused(folder: RunFolder, said: str) -> None:
    for taken_up in (
        lambda: folder.begin(run_record()),
        lambda: folder.begin_confirming(run_record(), PLAN),
        folder.refuse_edited,
    ):
        with pytest.raises(RunFolderError, match=said) as caught:
            taken_up()
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_file_is_refused_by_its_name_wherever_the_run_is_taken_up(folder, edit):
    name, before, after = EDITS[edit]
    edited(folder.path / name, before, after)
    if name == "confirm.json":  # another plan is refused as such, before
        with pytest.raises(RunFolderError, match=r"confirm\.json was edited"):
            folder.refuse_edited()
        return
    said = "inversions/heron.safetensors" if name == "measure_end.json" else name
    assert_refused(folder, rf"since the stage ended, {said} was edited; expected the files that")


def test_a_file_that_came_or_went_is_refused(folder):
    (folder.path / "inversions" / "egret.safetensors").write_bytes(b"")
    (folder.path / "inversions" / "reed.safetensors").unlink()
    (folder.path / "timings.jsonl").unlink()
    said = r"inversions/egret\.safetensors came, inversions/reed\.safetensors went, timings\.jsonl went"
    assert_refused(folder, said)


def test_of_many_edited_files_the_first_are_named(folder):
    shutil.rmtree(folder.path / "inversions")
    for number in range(9):
        (folder.path / "copies" / "inverted" / f"{number}.png").write_bytes(b"")
    assert_refused(folder, r"copies/inverted/4\.png came and 6 more")


def test_records_of_another_run_are_refused_even_with_that_runs_end_record(folder, tmp_path):
    other = written(tmp_path / "other", seed=1)
    for name in (*MEASURE.records, MEASURE.end):
        shutil.copy(other.path / name, folder.path)
    assert_refused(folder, r"run\.json was edited")


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 99, "files": {}}', "[1]"])
def test_an_end_record_that_says_nothing_is_refused(folder, content):
    (folder.path / MEASURE.end).write_text(content)
    assert_refused(folder, r"measure_end\.json (cannot be read|became one of version 99)")


def test_an_end_record_that_is_no_file_is_one_clear_line(folder):
    (folder.path / MEASURE.end).unlink()
    (folder.path / MEASURE.end).mkdir()
    assert_refused(folder, r"measure_end\.json is a folder, pipe or device|measure_end\.json cannot be")
    with pytest.raises(RunFolderError, match=r"measure_end\.json cannot be written"):
        folder.append(measurement("egret"))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.begins_with)
def test_a_stage_without_its_end_record_is_unfinished_and_goes_on(folder, stage):
    (folder.path / stage.end).unlink()
    assert folder.data().unfinished == (stage.begins_with,)
    folder.begin(run_record())
    folder.begin_confirming(run_record(), PLAN)
    folder.end(stage)
    assert folder.data().unfinished == ()


def test_whatever_a_stage_writes_makes_it_unfinished_first(folder):
    def ended() -> tuple[bool, bool]:
        return folder.has_ended(MEASURE), folder.has_ended(CONFIRMING)

    writes = (
        (MEASURE, lambda: folder.append(measurement("egret"))),
        (MEASURE, lambda: folder.append(SELF_CHECK)),
        (MEASURE, lambda: folder.write("copies/inverted/egret/inverted-1.png", b"")),
        (MEASURE, lambda: folder.note(folder.run())),
        (CONFIRMING, lambda: folder.append(confirmation("egret"))),
        (CONFIRMING, lambda: folder.note_confirmed(PLAN)),
    )
    for stage, write in writes:
        assert ended() == (True, True)
        write()
        assert ended() == (stage is not MEASURE, stage is not CONFIRMING)
        folder.end(stage)
    folder.write("report.html", "")
    assert ended() == (True, True), "a file of no stage"


def test_another_policy_keeps_the_records_and_the_stage_ends_anew(folder):
    changed = folder.begin(run_record(policy="q" * 64), replacing=True)
    assert changed.fingerprint != run_record().fingerprint
    assert folder.data().unfinished == ("run.json",)
    folder.end(MEASURE)
    folder.refuse_edited()


def test_no_edit_slips_in_where_the_policy_changes_and_the_records_are_kept(folder):
    edited(folder.path / "confirmations.jsonl", '"hits": 0', '"hits": 3')
    with pytest.raises(RunFolderError, match=r"confirmations\.jsonl was edited"):
        folder.begin(run_record(policy="q" * 64), replacing=True)
    with pytest.raises(RunFolderError, match=r"confirmations\.jsonl was edited"):
        folder.begin_confirming(run_record(policy="q" * 64), replace(PLAN, policy="q" * 64))
    assert folder.has_ended(CONFIRMING)
    other = run_record(seed=1)
    assert folder.begin(other, replacing=True) == other, "what makes way as a whole may be edited"


def test_files_that_an_operating_system_leaves_are_none_of_the_stage(folder):
    (folder.path / "inversions" / ".DS_Store").write_bytes(b"")
    folder.refuse_edited()


def test_the_end_records_of_equal_runs_are_equal(folder, tmp_path):
    again = written(tmp_path / "again")
    for stage in STAGES:
        assert (again.path / stage.end).read_bytes() == (folder.path / stage.end).read_bytes()
