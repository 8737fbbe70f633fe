"""The shipped pipeline with the real DVC: what it runs, what it skips, and how it ends."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from invmm_gate.runs.stages import CONFIRMING, MEASURE
from tests.dvc.project import POLICY, STAGES, Project, Ran, new_project
from tests.gate.world import call

pytest.importorskip("dvc", reason="DVC is in the extra `data`")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CLEAN, MEMORIZING = "examples/demo/models/clean", "examples/demo/models/memorizing"
LENIENT = [{"rule": "invmm_below", "threshold": 0.001}]


@dataclass(frozen=True)
class Story:
    """One project, step after step: a step takes seconds, as each command imports torch or Great Expectations."""

    project: Project
    blocked: Ran
    again: Ran
    git_status: str
    files: dict[str, bytes]
    """The run folder after the block."""
    lenient: Ran
    unchanged: Ran
    files_when_lenient: dict[str, bytes]
    other_settings: Ran
    killed: Ran
    lines_at_kill: list[dict[str, object]]
    resumed: Ran
    metrics: Ran


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    project = new_project(tmp_path_factory.mktemp("dvc") / "project", model=MEMORIZING)
    blocked = project.repro()
    files = project.files()
    again = project.repro()
    git_status = project.git("status", "--short", "--untracked-files=all")
    project.commit()
    project.policy(rules=LENIENT)
    lenient, unchanged = project.repro(), project.repro()
    files_when_lenient = project.files()
    other_settings = _status_with_other_settings(project)
    project.params(model=CLEAN)
    killed, lines_at_kill = _killed_in_the_middle(project)
    resumed = project.repro()
    return Story(
        project=project,
        blocked=blocked,
        again=again,
        git_status=git_status,
        files=files,
        lenient=lenient,
        unchanged=unchanged,
        files_when_lenient=files_when_lenient,
        other_settings=other_settings,
        killed=killed,
        lines_at_kill=lines_at_kill,
        resumed=resumed,
        metrics=project.call("dvc", "metrics", "diff"),
    )


def _status_with_other_settings(project: Project) -> Ran:
    measure = POLICY["measure"] | {"settings": POLICY["measure"]["settings"] | {"steps": 15}}
    project.policy(rules=LENIENT, measure=measure)
    status = project.call("dvc", "status")
    project.policy(rules=LENIENT)
    return status


def _killed_in_the_middle(project: Project) -> tuple[Ran, list[dict[str, object]]]:
    """`dvc repro` whose measuring gets SIGKILL once it has written some, but not all, of its lines."""
    before = (project.run / "run.json").read_bytes()
    process = project.start("dvc", "repro")
    while process.poll() is None:
        if (project.run / "run.json").read_bytes() != before and len(project.lines()) >= 2:
            os.kill(_holder(project), signal.SIGKILL)
            break
        time.sleep(0.01)
    text, _ = process.communicate()
    return Ran(process.returncode, text), project.lines()


def _holder(project: Project) -> int:
    """The process that measures, as the run folder's lock names it."""
    return int((project.run / ".lock-holder").read_text().split()[1])


def test_a_block_fails_the_last_stage_after_the_report_was_written(story):
    assert story.blocked.code == 255
    assert story.blocked.stages == list(STAGES)
    assert "failed to reproduce 'verdict'" in story.blocked.text
    assert "exited with 10" in story.blocked.text
    assert {"verdict.json", "metrics.json", "report.html", "summary.md", "results.sarif"} <= set(story.files)


def test_a_block_is_said_again_without_anything_else_being_run(story):
    assert story.again.code == 255
    assert story.again.stages == ["verdict"]
    assert story.again.skipped == list(STAGES[:-1])


def test_git_sees_only_what_is_meant_to_be_committed(story):
    assert story.git_status.split("\n")[:-1] == ["?? dvc.lock", "?? pipeline/run/metrics.json"]


def test_dvc_keeps_no_copy_of_captions_or_images(story):
    cached = [path for path in (story.project.folder / ".dvc" / "cache").rglob("*") if path.is_file()]
    assert not [path for path in cached if b"a private heron" in path.read_bytes()]
    assert not [path for path in cached if path.read_bytes().startswith(b"\x89PNG")]


def test_another_rule_judges_and_reports_again_and_measures_nothing(story):
    assert story.lenient.code == 0, story.lenient.text
    assert story.lenient.stages == ["judge", "report", "verdict"]
    kept = [name for name in story.files if any(owns(name) for owns in (_measured, _confirmed))]
    assert len(kept) > 6
    assert {name: story.files_when_lenient[name] for name in kept} == {name: story.files[name] for name in kept}


def _measured(name: str) -> bool:
    return name in (MEASURE.begins_with, *MEASURE.records) or name.startswith(tuple(f"{f}/" for f in MEASURE.folders))


def _confirmed(name: str) -> bool:
    begins = tuple(f"{folder}/" for folder in CONFIRMING.folders)
    return name in (CONFIRMING.begins_with, *CONFIRMING.records) or name.startswith(begins)


def test_a_pass_is_skipped_as_a_whole(story):
    assert story.unchanged.code == 0
    assert story.unchanged.stages == []
    assert story.unchanged.skipped == list(STAGES)


def test_another_setting_of_the_measure_asks_for_measuring_again_and_for_no_new_probe_set(story):
    changed = [line.rstrip(":") for line in story.other_settings.text.splitlines() if line[:1].strip()]
    assert "measure" in changed
    assert not {"probes", "validate", "confirm"} & set(changed), "confirm follows once the records are others"


def test_a_measuring_that_was_killed_goes_on_where_it_was(story):
    assert story.killed.code == 255
    assert story.killed.stages[-1] == "measure"
    kept = len(story.lines_at_kill)
    assert 2 <= kept < 5
    assert story.resumed.stages == ["measure", "confirm", "judge", "report", "verdict"], story.resumed.text
    assert f"{kept} of 5 probes are already measured" in story.resumed.text
    assert story.resumed.code == 0, story.resumed.text


def test_a_measuring_that_was_killed_ends_with_the_bytes_of_one_that_was_not(story, tmp_path, monkeypatch):
    project, out = story.project, tmp_path / "undisturbed"
    monkeypatch.chdir(project.folder)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        named = ("--model", CLEAN, "--probes", "pipeline/probes", "--policy", "small.yaml", "--out", out)
        assert call("measure", *named).code == 0
    finally:
        torch.set_num_threads(before)
    for name in ("measurements.jsonl", "self_checks.jsonl"):
        assert (out / name).read_bytes() == (project.run / name).read_bytes()


def test_two_models_are_compared_by_their_metrics(story):
    rows = [line.split() for line in story.metrics.text.splitlines()]
    found = {row[1]: row[2:4] for row in rows if row and row[0].endswith("metrics.json")}
    assert found["decision"] == ["block", "pass"]
    assert found["exit_code"] == ["10", "0"]
    assert int(found["counts.inverted"][0]) > 0
    assert found["lowest_invmm"][0] != "-"


def test_the_record_names_no_place_outside_the_project(story):
    assert str(story.project.folder) not in (story.project.run / "run.json").read_text()


def test_the_lock_holds_no_more_than_hashes_and_parameters(story):
    text = Path(story.project.folder / "dvc.lock").read_text()
    assert "a private heron" not in text
    assert list(yaml.safe_load(text)["stages"]) == list(STAGES)
