"""The shipped pipeline with the real DVC: what it runs, what it skips, and how it ends.

That a killed measuring ends with the same bytes is tested in tests/stages/test_resume.py.
"""

import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from invmm_gate.runs.stage_files import CONFIRMING, MEASURE
from tests.dvc.project import POLICY, STAGES, Project, Ran, new_project

pytest.importorskip("dvc", reason="DVC is in the extra `data`")
pytestmark = pytest.mark.timeout(1800)

CLEAN, MEMORIZING = "examples/demo/models/clean", "examples/demo/models/memorizing"
LENIENT = [{"rule": "invmm_below", "threshold": 0.001}]


@dataclass(frozen=True)
class Story:
    """One project, step after step: a step takes seconds, as most commands import torch."""

    project: Project
    killed: Ran
    lines_at_kill: list[dict[str, object]]
    blocked: Ran
    again: Ran
    git_status: str
    files: dict[str, bytes]
    """The run folder after the block."""
    lenient: Ran
    unchanged: Ran
    metrics: Ran
    files_when_lenient: dict[str, bytes]
    with_other_settings: set[str]
    with_another_model: set[str]
    with_another_gate: set[str]
    with_another_library: set[str]
    with_the_gate_from_before: set[str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    project = new_project(tmp_path_factory.mktemp("dvc") / "project", model=MEMORIZING)
    killed, lines_at_kill = _killed_in_the_middle(project)
    blocked = project.repro()
    files = project.files()
    again = project.repro()
    git_status = project.git("status", "--short", "--untracked-files=all")
    project.commit()
    project.policy(rules=LENIENT)
    lenient, unchanged = project.repro(), project.repro()
    return Story(
        project=project,
        killed=killed,
        lines_at_kill=lines_at_kill,
        blocked=blocked,
        again=again,
        git_status=git_status,
        files=files,
        lenient=lenient,
        unchanged=unchanged,
        metrics=project.call("dvc", "metrics", "diff"),
        files_when_lenient=project.files(),
        with_other_settings=_changed_with_other_settings(project),
        with_another_model=_changed_with_another_model(project),
        with_another_gate=_changed_with_another_gate(project),
        with_another_library=_changed_with_another_library(project),
        with_the_gate_from_before=_asked(project, "dvc", "repro", "--force", "--single-item", "gate"),
    )


def _changed_with_other_settings(project: Project) -> set[str]:
    measure = POLICY["measure"] | {"settings": POLICY["measure"]["settings"] | {"steps": 15}}
    project.policy(rules=LENIENT, measure=measure)
    changed = project.changed()
    project.policy(rules=LENIENT)
    return changed


def _changed_with_another_model(project: Project) -> set[str]:
    project.params(model=CLEAN)
    changed = project.changed()
    project.params(model=MEMORIZING)
    return changed


def _changed_with_another_gate(project: Project) -> set[str]:
    """One rule is corrected, and put back afterwards."""
    rules = project.folder / "invmm_gate" / "policy" / "rules" / "invmm_below.py"
    before = rules.read_bytes()
    rules.write_bytes(before + b"\n# corrected\n")
    changed = _asked(project, "dvc", "repro", "gate")
    rules.write_bytes(before)
    return changed


def _changed_with_another_library(project: Project) -> set[str]:
    """pip has left no trace in any file of the repository; `make pipeline` asks so."""
    library = project.folder / "xformers-9.9.dist-info"
    library.mkdir()
    (library / "METADATA").write_text("Name: xformers\nVersion: 9.9\n")
    changed = _asked(project, "dvc", "repro", "--force", "--single-item", "gate")
    shutil.rmtree(library)
    return changed


def _asked(project: Project, *command: str) -> set[str]:
    asked = project.call(*command)
    assert (asked.code, asked.stages) == (0, ["gate"]), asked.text
    return project.changed()


def _killed_in_the_middle(project: Project) -> tuple[Ran, list[dict[str, object]]]:
    """`dvc repro` whose measuring gets SIGKILL once it has written some, but not all, of its lines."""
    process = project.start("dvc", "repro")
    while process.poll() is None:
        if len(project.lines()) >= 2:
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
    assert story.blocked.stages[-1] == "verdict"
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
    assert "measure" in story.with_other_settings
    assert not {"probes", "validate", "confirm"} & story.with_other_settings, "confirm follows once the records differ"


def test_another_model_asks_for_measuring_and_confirming_again(story):
    assert {"measure", "confirm"} <= story.with_another_model
    assert not {"probes", "validate"} & story.with_another_model


def test_an_upgraded_gate_leaves_no_stale_pass(story):
    assert {"validate", "measure", "confirm", "judge", "report"} <= story.with_another_gate
    assert "probes" not in story.with_another_gate
    assert story.with_another_library == story.with_another_gate


def test_a_gate_that_is_the_same_runs_nothing_again(story):
    assert story.with_the_gate_from_before == set()


def test_a_measuring_that_was_killed_goes_on_where_it_was(story):
    assert story.killed.code == 255
    assert story.killed.stages[-1] == "measure"
    kept = len(story.lines_at_kill)
    assert 2 <= kept < 5
    assert story.blocked.stages == ["measure", "confirm", "judge", "report", "verdict"], story.blocked.text
    assert f"{kept} of 5 probes are already measured" in story.blocked.text


def test_two_verdicts_are_compared_by_their_metrics(story):
    rows = [line.split() for line in story.metrics.text.splitlines()]
    found = {row[1]: row[2:4] for row in rows if row and row[0].endswith("metrics.json")}
    assert found["decision"] == ["block", "pass"]
    assert found["exit_code"] == ["10", "0"]


def test_the_record_names_no_place_outside_the_project(story):
    assert str(story.project.folder) not in (story.project.run / "run.json").read_text()


def test_the_lock_holds_no_more_than_hashes_and_parameters(story):
    text = Path(story.project.folder / "dvc.lock").read_text()
    assert "a private heron" not in text
    assert set(yaml.safe_load(text)["stages"]) == set(STAGES)
