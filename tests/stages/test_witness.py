"""Great Expectations beside the gate's own checks: run once, bound to the records, never green where they differ."""

import csv
import io
import json
import re
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from invmm_gate.core.records import RunData, SuiteRecord
from invmm_gate.policy.soundness import record_findings
from invmm_gate.runs import witness
from invmm_gate.runs.expectations import write_expectations
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.report import REPORTS
from tests.cli.test_imports import imported_by
from tests.stages.world import LENIENT, World, call, note_again


def suites(world: World) -> dict[str, bool]:
    found = json.loads((world.run / "expectations.json").read_text())
    return {suite["name"]: suite["success"] for suite in found["suites"]}


def judge(world: World):
    return call("judge", world.run, "--policy", world.policy())


def edit_score(world: World, value: str) -> None:
    """The first score that stands in the records becomes another, and nobody can tell by the chain."""
    path = world.run / "measurements.jsonl"
    first = next(line["invmm"] for line in world.lines() if line["invmm"] is not None)
    path.write_text(path.read_text().replace(f'"invmm": {first!r}', f'"invmm": {value}', 1))
    note_again(world.run)


def test_a_check_runs_all_three_suites_and_shows_them(checked):
    world, _ = checked
    assert suites(world) == {"probe_set": True, "measurements": True, "confirmations": True}
    assert "Suite confirmations" in (world.run / "report.html").read_text()
    total = sum(len(suite.expectations) for suite in RunFolder(world.run).data().suites)
    assert f"Data checks: {total} of {total} expectations hold." in (world.run / "summary.md").read_text()


def test_every_machine_format_agrees_with_the_verdict(checked):
    world, called = checked
    verdict = world.verdict()
    (run,) = json.loads((world.run / "results.sarif").read_text())["runs"]
    assert run["invocations"][0]["exitCode"] == called.code == 10
    assert len(run["results"]) == len(verdict["findings"])
    lines = {row["id"]: number for number, row in enumerate(csv.DictReader(world.manifest.open(newline="")), start=2)}
    for result in run["results"]:
        assert result["locations"][0]["physicalLocation"]["region"]["startLine"] == lines[result["properties"]["probe"]]
    (suite,) = ElementTree.parse(world.run / "junit.xml").getroot()
    blocked = {item["probe"] for item in verdict["findings"] if item["effect"] == "block"}
    assert int(suite.get("failures")) == len(blocked) + 1, "and the case `verdict`"
    assert suite.get("errors") == "0"
    rows = list(csv.DictReader(io.StringIO((world.run / "scores.csv").read_text())))
    assert {row["id"] for row in rows if "block" in row["findings"]} == blocked
    assert (world.run / "scores.parquet").read_bytes().startswith(b"PAR1")


def test_an_edited_score_is_refused_where_the_run_is_judged_and_where_it_goes_on(finished):
    path = finished.run / "measurements.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text(re.sub(r'"invmm": [0-9.e-]+', '"invmm": 9.9', first, count=1) + "".join(others))
    said = f"error: {path}:1 is not as this run wrote it; expected records that nobody edited; restore the file"
    for called in (judge(finished), finished.check(), call("confirm", finished.run)):
        assert called.code == 2
        assert called.error.startswith(said)


def test_judging_again_does_not_run_them_again(finished):
    before = (finished.run / "expectations.json").read_bytes()
    code, modules = imported_by("judge", finished.run, "--policy", finished.policy())
    assert code == 10
    assert not modules & {"great_expectations", "torch"}
    assert (finished.run / "expectations.json").read_bytes() == before


def test_results_of_other_records_are_not_shown_and_judging_runs_the_suites_over_these(finished):
    edit_score(finished, "0.0101")
    (finished.run / "verdict.json").unlink()
    assert call("report", finished.run).code == 0
    assert "Not run on these records." in (finished.run / "report.html").read_text()
    assert judge(finished).code in (10, 11)
    assert suites(finished)["measurements"] is True
    assert "Not run on these records." not in (finished.run / "report.html").read_text()


@pytest.mark.parametrize("value", ["-0.5", "Infinity", "NaN", "null"])
def test_a_score_that_cannot_be_leaves_the_run_without_a_verdict(finished, value):
    lenient = finished.policy(LENIENT, name="lenient")
    assert call("judge", finished.run, "--policy", lenient).code == 0
    edit_score(finished, value)
    called = call("judge", finished.run, "--policy", lenient)
    assert called.code == 11
    assert suites(finished)["measurements"] is False
    rules = {finding["rule"] for finding in finished.verdict()["findings"]}
    assert "records" in rules


def test_the_second_witness_alone_leaves_the_run_inconclusive(finished):
    """Where the gate's own checks see nothing and Great Expectations does."""
    lenient = finished.policy(LENIENT, name="lenient")
    folder = RunFolder(finished.run)
    data = folder.data()
    assert not record_findings(replace(data, suites=()))
    first, second, third = data.suites
    odd = replace(second.expectations[0], success=False, failing=1, rows=("p1",))
    spoilt = replace(second, success=False, expectations=(odd, *second.expectations[1:]))
    write_expectations(finished.run, data.run, (first, spoilt, third))
    called = call("judge", finished.run, "--policy", lenient)
    assert called.code == 11
    assert f"the suite measurements does not hold; expected: {odd.name} (failing rows: 1)" in called.out


def test_a_failed_suite_is_no_pass_even_if_it_does_not_say_what_failed(checked):
    data = RunFolder(checked[0].run).data()
    mute = SuiteRecord(name="measurements", success=False, rows=5, expectations=())
    (finding,) = record_findings(replace(data, suites=(mute,)))
    assert (finding.rule, finding.effect) == ("records", "inconclusive")


def test_a_file_without_the_suites_of_the_records_is_not_enough(finished):
    folder = RunFolder(finished.run)
    write_expectations(finished.run, folder.run(), (folder.run().probe_set.checks,))
    found = witness.with_suites(folder)
    assert isinstance(found, RunData)
    assert {suite.name for suite in found.suites} == {"probe_set", "measurements", "confirmations"}
    assert folder.data().suites == found.suites


@pytest.mark.parametrize("spoil", ["another version", "no suites", "suites that ask nothing", "suites that ask less"])
def test_results_that_do_not_answer_these_suites_are_not_believed(finished, spoil):
    path = finished.run / "expectations.json"
    before = json.loads(path.read_text())
    edited = json.loads(path.read_text())
    if spoil == "another version":
        edited |= {"schema_version": 99, "suites": []}
    elif spoil == "no suites":
        edited["suites"] = []
    for suite in edited["suites"]:
        kept = 0 if spoil == "suites that ask nothing" else -1
        suite["expectations"] = suite["expectations"][:kept]
    path.write_text(json.dumps(edited))
    code, modules = imported_by("judge", finished.run, "--policy", finished.policy(LENIENT, "lenient"))
    assert code == 0
    assert "great_expectations" in modules, "they were run"
    assert json.loads(path.read_text()) == before


def test_no_report_is_made_of_other_records_than_were_judged(finished):
    before = (finished.run / "report.html").read_bytes()
    edit_score(finished, "0.0101")
    refused = call("report", finished.run)
    assert refused.code == 2
    assert "verdict.json was made before measurements.jsonl changed" in refused.error
    assert (finished.run / "report.html").read_bytes() == before


def test_without_pyarrow_the_command_says_once_what_is_left_out_and_no_old_file_stays(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    called = judge(finished)
    assert called.code == 10
    assert called.err == 'scores.parquet is left out; for it, `pip install "invmm-gate[parquet]"`\n'
    assert not (finished.run / "scores.parquet").exists()
    assert str(finished.run / "scores.parquet") not in call("report", finished.run).out


def test_rendering_again_gives_the_same_bytes(finished):
    before = {name: (finished.run / name).read_bytes() for name in REPORTS}
    assert call("report", finished.run).code == 0
    assert {name: (finished.run / name).read_bytes() for name in REPORTS} == before
