"""The composite action on the demo's checkpoints: every step carried out here, the gate run for real."""

import base64
import importlib.util
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.github import runner_files
from tests.github.conftest import GATE, ROOT, Checkout
from tests.github.run_action import ACTION, Job, Step
from tests.stages.world import CAPTION, SOURCE, call

Replay = Callable[..., Job]
Published = Callable[..., Step]


def _job_module() -> Any:
    spec = importlib.util.spec_from_file_location("action_job", ACTION / "job.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


job_module = _job_module()


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_a_memorizing_checkpoint_fails_the_job_after_its_evidence_is_published(blocked: Job) -> None:
    assert blocked.failed
    assert (blocked.outputs["verdict"], blocked.outputs["exit-code"]) == ("block", "10")
    assert int(blocked.outputs["findings"]) >= 2
    assert blocked.outputs["waived"] == "0"
    assert Path(blocked.outputs["report-path"]).read_text().startswith("<!doctype html>")
    assert [step.name for step in blocked.steps if step.outcome == "failure"] == [blocked.steps[-1].name]
    for step in ("upload", "Upload the SARIF file", "Send the findings to code scanning"):
        assert blocked.step(step).outcome == "success"
    assert "BLOCK" in blocked.summary
    assert f"({blocked.outputs['report-url']}), SHA-256 {blocked.outputs['report-digest']}" in blocked.summary


def test_a_clean_checkpoint_succeeds(passed: Job) -> None:
    assert not passed.failed
    expected = {"verdict": "pass", "exit-code": "0", "findings": "0", "waived": "0"}
    assert passed.outputs | expected == passed.outputs
    assert "PASS" in passed.summary
    assert passed.commands == []


def test_findings_are_annotated_at_the_probes_line_of_the_manifest(blocked: Job, pristine: Checkout) -> None:
    lines = (pristine.folder / "probes" / "manifest.csv").read_text().splitlines()
    annotations = [command for command in blocked.commands if command.name == "error"]
    named = [annotation.data.split()[0] for annotation in annotations]
    assert 1 <= len(named) == len(set(named)) <= int(blocked.outputs["findings"])
    assert sum(annotation.data.count(" breaks ") for annotation in annotations) == int(blocked.outputs["findings"])
    for annotation in annotations:
        assert annotation.properties["file"] == "probes/manifest.csv"
        probe = annotation.data.split()[0]
        assert lines[int(annotation.properties["line"]) - 1].startswith(f"{probe},")


def secrets_in(content: str, checkout: Checkout) -> list[str]:
    """What of the probe set's content is in it; an image would be embedded, as it is or encoded anew."""
    images = sorted((checkout.folder / "probes" / "images").iterdir())
    encoded = [base64.b64encode(image.read_bytes()).decode().rstrip("=")[:-1] for image in images]
    return [
        secret
        for secret in (CAPTION, SOURCE, "data:image/", "canary-", "canary caption", *encoded)
        if secret in content
    ]


def test_what_leaves_the_runner_holds_no_caption_source_or_image(blocked: Job, pristine: Checkout) -> None:
    uploads = [path for path in pristine.artifacts if "memorizing" in path.name]
    assert {path.name.rpartition("-")[2] for path in uploads} == {"report.html", "results.sarif"}
    for content in (*(path.read_text() for path in uploads), blocked.log, blocked.summary):
        assert secrets_in(content, pristine) == []


def test_a_report_that_shows_images_would_be_noticed(
    recorded: Path, pristine: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pristine.folder)
    assert call("report", recorded, "--reveal").code == 0
    found = secrets_in((recorded / "report.html").read_text(), pristine)
    assert {CAPTION, "data:image/"} < set(found)
    assert [secret for secret in found if len(secret) > 200], "a probe's image as it is"


def test_without_details_neither_a_probe_nor_a_figure_of_one_leaves_the_runner(
    replay: Replay, recorded: Path, checkout: Checkout
) -> None:
    record = json.loads((recorded / "verdict.json").read_text())
    scores = [json.loads(line)["invmm"] for line in (recorded / "measurements.jsonl").read_text().splitlines()]
    job = replay(recorded, says="p1 scores 0.0123456", details="false", upload_sarif="true")
    assert job.failed
    public = job.log + job.summary
    assert not re.search(r"\bp(1|2|100000|100001)\b|0\.0123456", public)
    for score in filter(None, scores):
        assert f"{score:.3g}" not in public
    assert checkout.artifacts == []
    assert job.step("Send the findings to code scanning").outcome == "skipped"
    for digest in ("model_digest", "policy_digest", "probe_set_digest", "fingerprint"):
        assert record[digest] in job.summary
    rules = Counter(finding["rule"] for finding in record["findings"])
    assert {command.data for command in job.commands} == {f"{rule}: {count} findings" for rule, count in rules.items()}
    assert all(set(command.properties) == {"title"} for command in job.commands)
    assert "p1 scores 0.0123456" in Path(job.outputs["log-path"]).read_text()
    assert Path(job.outputs["report-path"]).is_file(), "for a later step of the same job"


def test_without_details_more_rules_than_github_shows_are_nine_and_a_count(replay: Replay, recorded: Path) -> None:
    def many(record: dict[str, Any]) -> None:
        record["findings"] = [record["findings"][0] | {"rule": f"rule-{number}"} for number in range(12)]

    edited(recorded / "verdict.json", many)
    job = replay(recorded, details="false")
    assert [command.name for command in job.commands] == ["error"] * 9 + ["notice"]
    assert job.commands[-1].data == "3 more rules have findings"


def test_of_several_faults_the_job_shows_each(published: Callable[..., Step]) -> None:
    says = "error: 2 things stand in the way:\n  1. 'app.py' is code\n  2. unet/ holds no weights\nafterwards"
    step = published(None, 2, says=says, details="false")
    shown = step.log + step.summary
    assert "2 things stand in the way: 1. 'app.py' is code 2. unet/ holds no weights" in shown
    assert "afterwards" not in shown


@pytest.mark.parametrize(
    ("exit_code", "says", "shown"),
    [
        (2, "error: no policy stirct", True),
        (2, "error: probes/manifest.csv:3: probe p1 has no caption", False),
        (1, "internal error: ValueError: of p1", False),
        (11, "error: p1 could not be measured", False),
        (130, "interrupted: what was finished is kept", True),
    ],
)
def test_without_details_a_reason_is_shown_where_it_cannot_name_a_probe(
    published: Published, exit_code: int, says: str, shown: bool
) -> None:
    step = published(None, exit_code, says=says, details="false")
    assert step.outputs["conclusion"] == str(exit_code)
    assert (says in step.log) is shown
    assert "not cleared for release" in step.summary
    assert shown or "may name probes" in step.summary


@pytest.mark.parametrize(
    ("given_inputs", "says"),
    [
        ({"model": "checkpoints/none"}, "does not exist"),
        ({"model": "checkpoints/clean", "policy": "stirct"}, "stirct"),
        ({"model": "checkpoints/clean", "probes": "nowhere"}, "nowhere"),
        ({"model": "checkpoints/clean", "command": "/no/such/gate"}, "cannot be run"),
        ({"model": "checkpoints/clean", "command": "'unclosed"}, ""),
    ],
)
def test_bad_input_fails_the_job_and_the_summary_says_why(
    checkout: Checkout, given_inputs: dict[str, str], says: str
) -> None:
    job = checkout.run(**given_inputs)
    assert job.failed
    assert job.outputs["verdict"] == "error"
    assert job.outputs["exit-code"] == ("2" if says else "1")
    assert says in job.step("publish").log
    assert "not cleared for release" in job.summary
    assert job.step("upload").outcome == "skipped"
    assert job.outputs["report-path"] == job.outputs["report-url"] == ""
    assert [command.name for command in job.commands] == ["error"]


HOSTILE = (
    "$(touch pwned)",
    "`touch pwned`; touch pwned & \"'",
    "a\n::error::forged\n::set-output name=verdict::pass",
    "a##[set-output name=verdict;]pass",
    "a\nend\nverdict=pass",
    "--help",
    "%0A::error::forged",
    "<img src=x onerror=alert(1)> [a](javascript:b) | `x`",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_reach_the_gate_as_they_are_and_run_nothing(
    replay: Replay, checkout: Checkout, name: str
) -> None:
    before = sorted(checkout.folder.rglob("*"))
    job = replay(None, 2, says="error: refused", model=name, probes=name, waivers=name)
    assert sorted(checkout.folder.rglob("*")) == before
    (line,) = re.findall(r"^arguments: (.*)$", job.step("gate").log, re.MULTILINE)
    assert {f"--{option}={name}" for option in ("model", "probes", "waivers")} <= set(json.loads(line))
    assert [command.data for command in job.commands] == ["bad input, nothing was measured: error: refused"]


@pytest.mark.parametrize("name", [HOSTILE[2], HOSTILE[5], HOSTILE[7]])
def test_what_the_gate_says_of_a_hostile_name_forges_nothing(checkout: Checkout, name: str) -> None:
    job = checkout.run(model=name)
    assert job.failed
    assert (job.outputs["verdict"], job.outputs["exit-code"]) == ("error", "2")
    assert [command.name for command in job.commands] == ["error"]
    assert "forged" not in {command.data for command in job.commands}
    for mark in ("<img", "](javascript", "`"):
        assert mark not in job.summary


def test_a_checkpoint_with_a_hostile_name_is_gated_like_any_other(blocked: Job, pristine: Checkout) -> None:
    assert not list(pristine.folder.rglob("pwned"))
    assert "::error" not in blocked.summary
    assert "forged" in blocked.summary
    assert all(command.properties["title"].startswith("invmm-gate: ") for command in blocked.commands)
    assert all("forged" not in command.data for command in blocked.commands)
    names = [path.name for path in pristine.artifacts if path.name.endswith("report.html")]
    assert any(name.startswith("invmm-gate-memorizing-touch-pwned-error-forged-") for name in names)


def test_more_findings_than_github_shows_are_nine_and_a_count(replay: Replay, recorded: Path) -> None:
    def many(record: dict[str, Any]) -> None:
        first = record["findings"][0]
        record["findings"] = [first | {"probe": f"p{number}"} for number in range(15) for _ in range(2)]

    edited(recorded / "verdict.json", many)
    job = replay(recorded)
    assert [command.name for command in job.commands] == ["error"] * 9 + ["notice"]
    assert job.commands[0].data.count("p0 breaks") == 2, "one annotation has all findings of an image"
    assert job.commands[-1].data == "12 more findings are in the report"
    assert job.outputs["findings"] == "30"


def test_waived_findings_are_counted_apart_and_not_annotated(replay: Replay, recorded: Path) -> None:
    def waive(record: dict[str, Any]) -> None:
        record["decision"] = "pass"
        for finding in record["findings"]:
            finding["waiver"] = {"reason": "known", "owner": "Ada", "expires": "2030-01-01"}

    edited(recorded / "verdict.json", waive)
    job = replay(recorded, 0)
    assert not job.failed
    assert job.outputs["findings"] == "0"
    assert int(job.outputs["waived"]) >= 2
    assert job.commands == []


def test_fields_of_findings_cannot_leave_their_annotation(replay: Replay, recorded: Path) -> None:
    hostile = "x,file=/etc/passwd::\r\n::error::forged %0A::error::forged ##[error]forged"
    finding = {"rule": hostile, "effect": "block", "probe": hostile, "message": "m", "value": 1, "waiver": None}
    edited(recorded / "verdict.json", lambda record: record.update(findings=[finding]))
    job = replay(recorded)
    (annotation,) = job.commands
    assert set(annotation.properties) == {"title"}
    assert annotation.data.startswith("x,file=/etc/passwd:: ::error::forged %0A::error::forged")


@pytest.mark.parametrize(
    ("decision", "exit_code", "expected"),
    [
        ("block", 0, ("error", "1")),
        ("pass", 10, ("error", "1")),
        ("pass", 11, ("error", "1")),
        ("pass", 1, ("error", "1")),
        ("pass", 130, ("error", "130")),
        ("block", 2, ("error", "2")),
        (None, 0, ("error", "1")),
        (None, 10, ("error", "1")),
        (None, 11, ("inconclusive", "11")),
        ("inconclusive", 11, ("inconclusive", "11")),
    ],
)
def test_a_verdict_that_the_exit_code_does_not_confirm_is_none(
    published: Published, recorded: Path, decision: str | None, exit_code: int, expected: tuple[str, str]
) -> None:
    if decision is None:
        (recorded / "verdict.json").unlink()
    else:
        edited(recorded / "verdict.json", lambda record: record.update(decision=decision))
    step = published(recorded, exit_code, fail_on_block="false")
    assert (step.outputs["verdict"], step.outputs["exit-code"]) == expected
    assert step.outputs["conclusion"] != "0"


@pytest.mark.parametrize(("ended", "again"), [(0, "10"), (0, "2"), (0, "11"), (10, "0")])
def test_a_verdict_that_the_records_do_not_give_again_is_none(
    replay: Replay, recorded: Path, ended: int, again: str
) -> None:
    edited(recorded / "verdict.json", lambda record: record.update(decision={0: "pass", 10: "block"}[ended]))
    job = replay(recorded, ended, again=again, fail_on_block="false")
    assert job.failed
    assert (job.outputs["verdict"], job.outputs["exit-code"]) == ("error", "1")
    assert "judged again, its records give another decision" in job.step("publish").log


def test_what_is_shown_is_judged_and_rendered_again(
    published: Published, recorded: Path, pristine: Checkout, blocked: Job
) -> None:
    for name in ("summary.md", "report.html", "results.sarif"):
        (recorded / name).write_text("tampered")
    given = {"command": GATE, "policy": str(pristine.folder / "small.yaml"), "details": "true"}
    step = published(recorded, 10, **given)
    for name in ("verdict", "exit-code", "findings", "waived"):
        assert step.outputs[name] == blocked.outputs[name]
    assert [command.data for command in step.commands] == [command.data for command in blocked.commands]
    assert "tampered" not in step.summary
    for upload in ("report-upload", "sarif-upload"):
        assert "tampered" not in Path(step.outputs[upload]).read_text()


EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    "no finding": lambda record: record.update(findings=[]),
    "one finding less": lambda record: record["findings"].pop(),
    "another value": lambda record: record["findings"][0].update(value=0.9),
    "another probe": lambda record: record["findings"][0].update(probe="p2"),
    "another effect": lambda record: record["findings"][-1].update(effect="warn"),
    "a waiver": lambda record: record["findings"][0].update(waiver={"probe": "p1"}),
    "another count": lambda record: record["counts"].update(confirmed=99),
    "another model": lambda record: record.update(model_digest="0" * 64),
    "another policy": lambda record: record.update(policy="strict"),
    "pass": lambda record: record.update(decision="pass", findings=[]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_verdict_changes_nothing_that_is_shown(
    published: Published, recorded: Path, pristine: Checkout, edit: str
) -> None:
    edited(recorded / "verdict.json", EDITS[edit])
    given = {"command": GATE, "policy": str(pristine.folder / "small.yaml"), "fail_on_block": "false"}
    step = published(recorded, 10, details="true", **given)
    expected = {"verdict": "error", "exit-code": "1", "conclusion": "1", "findings": "0", "waived": "0"}
    assert step.outputs | expected == step.outputs
    assert step.outputs["report-upload"] == step.outputs["sarif-upload"] == ""
    assert [command.properties["title"] for command in step.commands] == ["invmm-gate"]
    assert "not cleared for release" in step.summary


def test_a_verdict_under_another_policy_is_none(published: Published, recorded: Path) -> None:
    step = published(recorded, 10, command=GATE, policy="strict", details="true", fail_on_block="false")
    assert (step.outputs["verdict"], step.outputs["conclusion"]) == ("error", "1")


def test_a_command_that_is_no_gate_never_passes(checkout: Checkout) -> None:
    job = checkout.run(model="checkpoints/clean", command="true")
    assert job.failed
    assert job.outputs["verdict"] == "error"


@pytest.mark.parametrize(("asked", "concluded"), [("false", "0"), ("true", "10"), ("no", "10"), ("", "10")])
def test_a_block_is_let_through_only_where_that_is_asked_for(
    published: Published, recorded: Path, asked: str, concluded: str
) -> None:
    step = published(recorded, 10, fail_on_block=asked)
    assert step.outputs["conclusion"] == concluded
    assert step.outputs["exit-code"] == "10"


def test_a_block_that_is_let_through_is_still_said(replay: Replay, recorded: Path) -> None:
    job = replay(recorded, fail_on_block="false")
    assert not job.failed
    assert job.outputs["verdict"] == "block"


def test_the_gates_log_holds_no_workflow_commands_and_sees_none_of_githubs_files(replay: Replay) -> None:
    says = "::error::forged\n  ::set-output name=exit-code::0\n##[add-path]/tmp\n::stop-commands::x\n::x::\n::error::y"
    job = replay(None, 2, says=says)
    assert "::error::forged" in job.step("gate").log
    assert [command.name for command in job.commands] == ["error"]
    assert job.outputs["exit-code"] == "2"
    environment = next(line for line in job.step("gate").log.splitlines() if line.startswith("environment: "))
    assert "PATH" in environment.split()
    assert not [name for name in environment.split() if name.startswith(("GITHUB_", "ACTIONS_", "INPUT_"))]


def test_a_summary_that_github_would_drop_is_replaced(replay: Replay, recorded: Path) -> None:
    (recorded / "summary.md").write_text("x" * 2_000_000)
    assert "too long for this page" in replay(recorded).summary


def test_without_a_sarif_file_its_output_is_empty_and_nothing_is_sent(replay: Replay, recorded: Path) -> None:
    (recorded / "results.sarif").unlink(missing_ok=True)
    job = replay(recorded, upload_sarif="true")
    assert job.outputs["sarif-path"] == ""
    assert job.step("Upload the SARIF file").outcome == "skipped"
    assert job.step("Send the findings to code scanning").outcome == "skipped"


@pytest.mark.parametrize("refuse", ["true", "false"])
def test_code_scanning_never_changes_how_the_job_ends(replay: Replay, recorded: Path, refuse: str) -> None:
    (recorded / "results.sarif").write_text('{"version": "2.1.0", "runs": []}')
    edited(recorded / "verdict.json", lambda record: record.update(decision="pass", findings=[]))
    job = replay(recorded, 0, upload_sarif="true", refuse_sarif=refuse)
    assert not job.failed
    assert Path(job.outputs["sarif-path"]).name == "results.sarif"
    assert job.step("Upload the SARIF file").outcome == "success"
    assert job.step("Send the findings to code scanning").outcome == {"true": "failure", "false": "success"}[refuse]


def test_nothing_is_uploaded_where_that_is_not_wanted(replay: Replay, recorded: Path, checkout: Checkout) -> None:
    job = replay(recorded, upload_report="false")
    assert checkout.artifacts == []
    assert Path(job.outputs["report-path"]).is_file()
    assert job.failed


def test_an_upload_that_fails_fails_the_job(replay: Replay, recorded: Path) -> None:
    edited(recorded / "verdict.json", lambda record: record.update(decision="pass", findings=[]))
    job = replay(recorded, 0, retention_days="for ever")
    assert job.failed
    assert job.outputs["verdict"] == "pass"


def test_a_job_that_is_cancelled_or_out_of_time_says_how_the_gate_ended(checkout: Checkout) -> None:
    job = checkout.run(
        model="checkpoints/clean", policy="long.yaml", details="false", cancel_once="invmm-gate-*/run/run.json"
    )
    assert job.cancelled
    assert job.failed
    assert job.step("gate").outcome == "success", "the gate ended in its own way"
    assert (job.outputs["verdict"], job.outputs["exit-code"]) == ("error", "130")
    assert "interrupted" in job.summary
    assert "not cleared for release" in job.summary
    assert job.steps[-1].outcome == "failure"


def test_evidence_that_is_there_when_a_job_is_cancelled_is_published(replay: Replay, recorded: Path) -> None:
    job = replay(recorded, cancel_once="invmm-gate-*/run/report.html")
    assert job.cancelled
    assert job.step("publish").outcome == job.step("upload").outcome == "success"
    assert job.steps[-1].outcome == "failure"


def test_a_step_that_breaks_after_it_said_pass_fails_the_job(replay: Replay, recorded: Path) -> None:
    edited(recorded / "verdict.json", lambda record: record.update(decision="pass", findings=[]))
    edited(recorded / "run.json", lambda record: record["probe_set"].update(probes="broken"))
    job = replay(recorded, 0)
    assert job.step("publish").outcome == "failure"
    assert job.step("publish").outputs["conclusion"] == "0"
    assert job.failed


def without_dependencies(folder: Path) -> Path:
    """The action in a repository whose gate asks for no other package: those are gigabytes."""
    for name in ("README.md", "LICENSE", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("invmm_gate", "policies", "reports/templates", ".github/actions/invmm-gate"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    project = (folder / "pyproject.toml").read_text()
    project = re.sub(r"^dependencies = \[.*?^\]", "dependencies = []", project, flags=re.MULTILINE | re.DOTALL)
    project = re.sub(r"^(parquet|tracking|text|lora) = \[.*\]", r"\1 = []", project, flags=re.MULTILINE)
    (folder / "pyproject.toml").write_text(project)
    return folder / ".github" / "actions" / "invmm-gate"


@pytest.mark.timeout(900)
def test_without_a_command_the_action_installs_the_gate_that_stands_beside_it(
    checkout: Checkout, tmp_path: Path
) -> None:
    repository = tmp_path / "of the action"
    repository.mkdir()
    job = checkout.run(action=without_dependencies(repository), model="checkpoints/clean", command="")
    assert job.step("python").given["update-environment"] == "false"
    gate = Path(job.step("install").outputs["gate"])
    assert list(gate.parents[1].glob("lib/python3.*/site-packages/invmm_gate/_data/policies/strict.yaml"))
    constraints = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==[0-9.]+$", constraints, re.MULTILINE), "any build of torch will do"
    assert "ModuleNotFoundError" in job.step("gate").log  # it was started, and misses what it was not given
    assert job.outputs["verdict"] == "error"


@given(st.text(), st.text(), st.text(alphabet="%:,\r\n;=abc"))
def test_whatever_is_said_stays_one_annotation(message: str, title: str, file: str) -> None:
    line = f"::error title={job_module.escaped(title, ':,')},file={job_module.escaped(file, ':,')}"
    line += f"::{job_module.escaped(job_module.one_line(message))}"
    (command,) = runner_files.commands(line)
    assert command.data == job_module.one_line(message)
    assert command.properties == {"title": title, "file": file}


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=4))
def test_whatever_is_said_stays_one_output(values: list[str]) -> None:
    named = {f"name-{number}": value for number, value in enumerate(values)}
    content: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module, "append", lambda _, text: content.append(text))
        patch.setenv("GITHUB_OUTPUT", "unused")
        for name, value in named.items():
            job_module.write_output(name, value)
    assert runner_files.outputs("".join(content)) == named


@given(st.text())
def test_foreign_text_in_the_summary_is_neither_markdown_nor_html(text: str) -> None:
    assert not set(job_module.inert(text)) & set("<>`*_[]()|!\\\"'\n\r")
