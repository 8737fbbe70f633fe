"""A baseline is blessed by somebody, with a reason, and is used only as it was blessed."""

import datetime
import getpass
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from invmm_gate.core.errors import ConfigError, GateError, RunFolderError
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import BaselineRecord
from invmm_gate.policy.judge import judge
from invmm_gate.report.formats import render_html
from invmm_gate.report.to_markdown import render_summary
from invmm_gate.runs.baseline import read_baseline_file
from invmm_gate.runs.copies import Baseline, Circumstances
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.bless import bless, load_baseline
from invmm_gate.stages.judge import circumstances, judge_run
from tests.policy.policy_builders import STRICT, TODAY, clean_run, policy_with, waiver, with_score
from tests.stages.stored_runs import blocked, passing, stored

NOW = datetime.datetime(2026, 11, 21, 22, 11, 4, tzinfo=datetime.UTC)
REGRESSION = policy_with(rules=[{"rule": "regression", "margin": 0.05}])


def blessed(run: Path, file: Path, **changes: object) -> None:
    options = {"reason": "release 1.4", "by": "ada", "even_if_blocked": False, "now": NOW} | changes
    bless(run, file=file, **options)  # type: ignore[arg-type]


def load(path: Path) -> Baseline:
    return load_baseline(path, today=TODAY)


def given(baseline: Path) -> Circumstances:
    return circumstances(None, baseline, today=TODAY)


def edited(file: Path, **changes: object) -> None:
    """Change the newest entry by hand."""
    content = yaml.safe_load(file.read_text())
    content["blessed"][-1] |= changes
    file.write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def pristine_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return passing(tmp_path_factory.mktemp("pristine") / "run")


@pytest.fixture
def approved(pristine_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine_run, tmp_path / "runs" / "approved"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "baseline.yaml"


# --- blessing ---


def test_the_file_says_which_run_was_blessed_by_whom_when_and_why(approved: Path, file: Path) -> None:
    blessed(approved, file)
    run = json.loads((approved / "run.json").read_text())
    (entry,) = yaml.safe_load(file.read_text())["blessed"]
    assert entry["run"] == "runs/approved"
    assert (entry["run_id"], entry["fingerprint"]) == (run["run_id"], run["fingerprint"])
    assert (entry["model_digest"], entry["probe_set_digest"]) == (run["model"]["digest"], run["probe_set"]["digest"])
    assert (entry["policy"], entry["policy_digest"]) == ("strict", STRICT.digest)
    assert (entry["decision"], entry["waived"], entry["even_if_blocked"]) == ("pass", 0, False)
    assert (entry["blessed_by"], entry["blessed_on"]) == ("ada", "2026-11-21T22:11:04+00:00")
    assert entry["reason"] == "release 1.4"
    assert len(entry["measurements_sha256"]) == len(entry["confirmations_sha256"]) == 64


def test_blessing_again_keeps_what_was_blessed_before(approved: Path, file: Path, tmp_path: Path) -> None:
    blessed(approved, file)
    first = file.read_text()
    blessed(blocked(tmp_path / "runs" / "second", 0.3), file, by="bob", reason='"quoted": #no comment, ünïcode')
    assert file.read_text().startswith(first)
    assert [entry.blessed_by for entry in read_baseline_file(file)] == ["ada", "bob"]
    assert read_baseline_file(file)[-1].reason == '"quoted": #no comment, ünïcode'
    assert load(file).record.blessed_by == "bob", "the newest counts"


def test_a_run_that_did_not_pass_is_blessed_only_on_request_and_the_file_says_so(tmp_path: Path, file: Path) -> None:
    run = blocked(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"the verdict is block; expected a run that passed; .*--even-if-blocked"):
        blessed(run, file)
    assert not file.exists()
    blessed(run, file, even_if_blocked=True)
    assert [(entry.decision, entry.even_if_blocked) for entry in read_baseline_file(file)] == [("block", True)]


def test_the_first_baseline_of_a_policy_with_the_rule_regression_can_be_blessed(tmp_path: Path, file: Path) -> None:
    run = stored(clean_run(), tmp_path / "run", judged_by=REGRESSION)
    with pytest.raises(ConfigError, match="the verdict is inconclusive"):
        blessed(run, file)
    blessed(run, file, even_if_blocked=True)
    assert read_baseline_file(file)[-1].decision == "inconclusive"


def test_a_pass_under_a_waiver_that_has_expired_since_is_no_pass(tmp_path: Path, file: Path) -> None:
    low = with_score(clean_run(), "p1", 0.02)
    run = stored(low, tmp_path / "run", waivers=(waiver(probe="p1", expires=NOW.date()),))
    tomorrow = NOW + datetime.timedelta(days=1)
    with pytest.raises(ConfigError, match="the verdict is block; expected a run that passed"):
        blessed(run, file, now=tomorrow)
    blessed(run, file, now=tomorrow, even_if_blocked=True)
    blessed(run, file, now=NOW)
    assert [(entry.decision, entry.waived) for entry in read_baseline_file(file)] == [("block", 0), ("pass", 1)]


def test_records_that_do_not_hold_are_not_blessed_whatever_is_asked(tmp_path: Path, file: Path) -> None:
    run = stored(replace(clean_run(), self_checks=()), tmp_path / "run")
    with pytest.raises(ConfigError, match="positive_control is missing"):
        blessed(run, file, even_if_blocked=True)
    assert not file.exists()


def test_even_if_blocked_is_not_written_down_for_a_run_that_passed(approved: Path, file: Path) -> None:
    blessed(approved, file, even_if_blocked=True)
    assert read_baseline_file(file)[-1].even_if_blocked is False


def test_a_run_without_a_verdict_is_refused(tmp_path: Path, file: Path) -> None:
    run = stored(clean_run(), tmp_path / "run", judged_by=None)
    with pytest.raises(RunFolderError, match=r"holds no verdict\.json; .*invmm-gate judge"):
        blessed(run, file, even_if_blocked=True)


def _rewrite(path: Path, change: dict[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def _put(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _drop_last_line(path: Path) -> None:
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1]))


MISFITS = {
    "edited inputs": (lambda run: _put(run / "run.json", '"seed": 7', '"seed": 9'), "before run.json changed"),
    "an edited decision": (lambda run: _rewrite(run / "verdict.json", {"decision": "block"}), "other decision than"),
    "another form": (lambda run: _rewrite(run / "verdict.json", {"schema_version": 99}), "schema version 99"),
    "a score": (lambda run: _put(run / "measurements.jsonl", '"seed": 0', '"seed": 1'), "measurements.jsonl changed"),
    "another verdict": (lambda run: _rewrite(run / "verdict.json", {"model_digest": "0" * 64}), "on other inputs"),
    "fewer measurements": (lambda run: _drop_last_line(run / "measurements.jsonl"), "measurements.jsonl changed"),
    "fewer confirmations": (lambda run: _drop_last_line(run / "confirmations.jsonl"), "confirmations.jsonl changed"),
    "no self-checks": (lambda run: (run / "self_checks.jsonl").unlink(), "self_checks.jsonl changed"),
    "no probe set": (
        lambda run: _rewrite(run / "run.json", {"probe_set": {"folder": "x", "probes": [], "digest": "d" * 64}}),
        "on other inputs",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_records_that_do_not_fit_the_verdict_are_refused_whatever_is_asked(
    name: str, approved: Path, file: Path
) -> None:
    spoil, said = MISFITS[name]
    spoil(approved)
    with pytest.raises(RunFolderError, match=said) as refused:
        blessed(approved, file, even_if_blocked=True)
    assert "\n" not in str(refused.value)
    assert not file.exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reason": ""}, "--reason '' cannot be written down"),
        ({"reason": "  "}, "--reason"),
        ({"reason": "two\nlines"}, "one line of 1 to 1000 printable characters"),
        ({"reason": "\x1b[2Jescape"}, "--reason"),
        ({"reason": "x" * 1001}, "--reason"),
        ({"by": ""}, "--by ''"),
        ({"by": "a\u202eb"}, "--by"),
    ],
)
def test_who_and_why_must_be_one_line_of_text(given: dict[str, str], said: str, approved: Path, file: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        blessed(approved, file, **given)
    assert not file.exists()


def test_without_a_name_the_login_is_written_down(approved: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "grace")
    blessed(approved, file, by=None)
    assert read_baseline_file(file)[-1].blessed_by == "grace" == getpass.getuser()


def test_where_nobody_is_logged_in_a_name_is_asked_for(
    approved: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # a user that no password file has
    with pytest.raises(ConfigError, match="--by NAME"):
        blessed(approved, file, by=None)


@pytest.mark.parametrize("content", ["", "- {probe: p1}\n", "kind: invmm-gate baseline\nversion: 1\nblessed: []\n"])
def test_a_file_that_is_no_baseline_file_is_refused_and_left_alone(approved: Path, file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"baseline\.yaml:"):
        blessed(approved, file)
    assert file.read_text() == content


def test_a_folder_or_an_unwritable_place_is_one_line(approved: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        blessed(approved, tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be written .*give another --baseline"):
        blessed(approved, approved / "run.json" / "baseline.yaml")


# --- using it ---


def test_the_rule_regression_is_held_against_the_blessed_run_and_the_verdict_names_it(
    approved: Path, file: Path, tmp_path: Path
) -> None:
    blessed(approved, file)
    run = RunFolder(stored(with_score(clean_run(), "p1", 0.3), tmp_path / "run", judged_by=None))
    verdict = judge_run(run, REGRESSION, given(file), today=TODAY)
    assert (verdict.decision, verdict.findings[0].probe) == ("block", "p1")
    assert run.data().verdict == verdict, "the baseline survives the file"
    assert verdict.baseline is not None
    assert verdict.baseline.run_id == load(approved).record.run_id
    assert (verdict.baseline.blessed_by, verdict.baseline.reason) == ("ada", "release 1.4")
    html, summary = render_html(run.data()), render_summary(run.data())
    assert "blessed by ada on 2026-11-21T22:11:04+00:00: release 1.4" in html
    assert "ada" in summary
    assert verdict.baseline.run_id in summary


def test_a_run_folder_named_by_hand_is_a_baseline_that_nobody_blessed(approved: Path, tmp_path: Path) -> None:
    run = RunFolder(passing(tmp_path / "run"))
    verdict = judge_run(run, REGRESSION, given(approved), today=TODAY)
    assert verdict.decision == "pass"
    assert verdict.baseline is not None
    assert (verdict.baseline.blessed_by, verdict.baseline.decision) == ("", None)
    for text in (render_html(run.data()), render_summary(run.data())):
        assert "blessed by nobody" in text


@pytest.mark.parametrize("kind", ["blocked", "waived", "unjudged", "edited"])
def test_a_run_folder_without_a_pass_that_stands_is_no_baseline(kind: str, tmp_path: Path) -> None:
    low = with_score(clean_run(), "p1", 0.02)
    run = tmp_path / "run"
    if kind == "waived":
        stored(low, run, waivers=(waiver(probe="p1", expires=TODAY),))
        assert load(run).record.run_id, "while the waiver holds"
    else:
        stored(low, run, judged_by=None if kind == "unjudged" else STRICT)
    if kind == "edited":
        _rewrite(run / "verdict.json", {"decision": "pass"})
    said = {"unjudged": r"holds no verdict\.json", "edited": "judged again, its records give other decision than"}
    refused = said.get(kind, r"the verdict is block; expected a run that passed; .*--even-if-blocked")
    with pytest.raises(GateError, match=refused) as error:
        load_baseline(run, today=TODAY + datetime.timedelta(days=1))
    assert error.value.exit_code == 2


def test_without_a_baseline_neither_verdict_nor_report_names_one(approved: Path) -> None:
    data = RunFolder(approved).data()
    assert data.verdict is not None
    assert data.verdict.baseline is None
    assert "Baseline" not in render_html(data) + render_summary(data)


def test_a_verdict_without_the_field_still_reads(approved: Path) -> None:
    verdict = json.loads((approved / "verdict.json").read_text())
    del verdict["baseline"]
    (approved / "verdict.json").write_text(json.dumps(verdict))
    assert RunFolder(approved).data().verdict is not None


@pytest.mark.parametrize("name", ["measurements.jsonl", "confirmations.jsonl"])
def test_a_baseline_whose_records_changed_since_is_refused(name: str, approved: Path, file: Path) -> None:
    blessed(approved, file)
    text = (approved / name).read_text()
    (approved / name).write_text(text.replace("0.2", "0.3", 1) if "0.2" in text else text[:-1] + " \n")
    with pytest.raises(ConfigError, match=rf"{name} of .* changed since ada blessed it on 2026-11-21") as refused:
        given(file)
    assert refused.value.exit_code == 2
    (approved / name).write_text(text)
    assert given(file).baseline is not None, "restored, it holds again"


def test_any_byte_of_the_records_counts(approved: Path, file: Path) -> None:
    blessed(approved, file)
    path = approved / "confirmations.jsonl"
    whole = path.read_bytes()
    for place in range(0, len(whole), 101):
        path.write_bytes(whole[:place] + bytes((whole[place] ^ 1,)) + whole[place + 1 :])
        with pytest.raises(GateError):  # changed, or no longer a record
            load(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run_id": "another"}, "run.json of"),
        ({"fingerprint": "0" * 64}, "run.json of"),
        ({"model_digest": "0" * 64}, "the model of"),
        ({"probe_set_digest": "0" * 64}, "the probe set of"),
        ({"measurements_sha256": "0" * 64}, "measurements.jsonl of"),
        ({"confirmations_sha256": "0" * 64}, "confirmations.jsonl of"),
        ({"likelihoods_sha256": "0" * 64}, "likelihoods.jsonl of"),
        ({"run": "/etc"}, "relative to this file"),
        ({"run": ""}, "run"),
        ({"decision": "block"}, "without even_if_blocked"),
        ({"extra": 1}, "extra"),
        ({"reason": "a\x07b"}, "printable"),
        ({"version": 2}, "version"),
    ],
)
def test_an_edited_baseline_file_is_refused(change: dict[str, object], said: str, approved: Path, file: Path) -> None:
    blessed(approved, file)
    edited(file, **change)
    with pytest.raises(ConfigError, match=said) as refused:
        load(file)
    assert "\n" not in str(refused.value)


def test_a_run_that_is_gone_is_refused(approved: Path, file: Path, tmp_path: Path) -> None:
    blessed(approved, file)
    os.rename(approved, tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match=r"holds no run\.json"):
        load(file)


def test_file_and_runs_can_move_together(approved: Path, file: Path, tmp_path: Path) -> None:
    blessed(approved, file)
    os.rename(approved.parent, tmp_path / "moved")
    (tmp_path / "moved").mkdir(exist_ok=True)
    (tmp_path / "place").mkdir()
    os.rename(tmp_path / "moved", tmp_path / "place" / "runs")
    os.rename(file, tmp_path / "place" / "baseline.yaml")
    assert load(tmp_path / "place" / "baseline.yaml").record.blessed_by == "ada"


def test_a_baseline_of_other_conditions_is_refused_with_a_file_too(approved: Path, file: Path, tmp_path: Path) -> None:
    blessed(approved, file)
    data = clean_run()
    other = replace(data, run=replace(data.run, inputs=replace(data.run.inputs, profile="paper")))
    run = RunFolder(stored(other, tmp_path / "run", judged_by=None))
    with pytest.raises(ConfigError, match="the run and its baseline differ in profile"):
        judge_run(run, REGRESSION, given(file), today=TODAY)


def _reports(baseline: BaselineRecord, data: RunData | None = None) -> tuple[str, str]:
    run = data or clean_run()
    told = replace(run, verdict=replace(judge(run, STRICT, (), today=TODAY), baseline=baseline))
    return render_html(told), render_summary(told)


def test_a_reason_in_foreign_markup_is_text_in_every_report(approved: Path, file: Path) -> None:
    hostile = "<script>alert(1)</script> ::set-output name=x:: [a](javascript:b) | `c`"
    blessed(approved, file, reason=hostile, by="<b>eve</b>")
    html, summary = _reports(load(file).record)
    assert "&lt;script&gt;alert" in html
    assert "script" in summary
    for text in (html, summary):
        assert "<script" not in text
        assert "<b>eve" not in text
    for mark in ("::set-output", "](javascript", "`c`", "|  `"):
        assert mark not in summary


def test_a_caption_in_a_reason_is_redacted(approved: Path, file: Path) -> None:
    caption = "a private caption of a heron"
    blessed(approved, file, reason=f"as agreed on {caption}")
    data = clean_run()
    probes = tuple(replace(each, caption=caption) for each in data.run.probe_set.probes)
    captioned = replace(data, run=replace(data.run, probe_set=replace(data.run.probe_set, probes=probes)))
    for text in _reports(load(file).record, captioned):
        assert caption not in text
        assert "redacted" in text
