import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from junitparser import JUnitXml
from xmlschema import XMLSchema10

from invmm_gate.core.records import SelfCheck
from invmm_gate.report.to_junit import RUN_RULES, render_junit
from tests.report.conftest import CAPTION, FOLDER, MEASUREMENTS, PROBES, SOURCE, WAIVER, finding, verdict
from tests.report.goldens import assert_golden
from tests.report.hostile import ALL
from tests.report.test_to_html import poisoned

COUNTED = {"failure": "failures", "error": "errors", "skipped": "skipped"}
SCHEMA = XMLSchema10(Path(__file__).parents[1] / "schemas" / "junit.xsd")


def suite_of(data):
    """The only test suite of a file that is valid, whose counts are those of its cases."""
    text = render_junit(data)
    SCHEMA.validate(text)
    root = ElementTree.fromstring(text)
    assert (root.attrib, len(root)) == ({}, 1)
    suite = root[0]
    outcomes = Counter(outcome.tag for case in suite.iter("testcase") for outcome in case)
    assert {name: int(suite.get(name)) for name in COUNTED.values()} == {
        name: outcomes[tag] for tag, name in COUNTED.items()
    }
    assert int(suite.get("tests")) == len(suite.findall("testcase"))
    return suite


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (' tests="', ' test="'),
        (' timestamp="', ' timestamp="+'),
        ("<system-out", "<stdout"),
        ("<testcase ", "<testcase extra='1' "),
        (' classname="', ' classname=" '),
        ("</failure>", "</failure><error message='m' type='t'/>"),
    ],
)
def test_the_schema_refuses_what_is_no_junit_file(data, before, after):
    text = render_junit(data)
    spoilt = text.replace(before, after).replace("</system-out>", "</stdout>" if "stdout" in after else "</system-out>")
    assert spoilt != text
    assert SCHEMA.is_valid(text)
    assert not SCHEMA.is_valid(spoilt)


def outcomes(data):
    """{(class, name): outcome} of every case."""
    return {
        (case.get("classname").removeprefix("invmm_gate."), case.get("name")): case[0].tag if len(case) else "passed"
        for case in suite_of(data).iter("testcase")
    }


def test_another_reader_of_such_files_finds_the_same_cases_and_counts(data):
    (suite,) = read = JUnitXml.fromstring(render_junit(data))
    as_read = {
        (case.classname.removeprefix("invmm_gate."), case.name): case.result[0].__class__.__name__.lower()
        if case.result
        else "passed"
        for case in suite
    }
    assert as_read == outcomes(data)
    written = (suite.tests, suite.failures, suite.errors, suite.skipped)
    read.update_statistics()
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == written
    assert min(written[1:]) > 0


def test_the_file_is_as_it_was(data):
    assert_golden("junit.xml", render_junit(data))


def test_the_counts_are_those_of_the_verdict(data):
    found = outcomes(data)
    blocked = {item.probe for item in data.verdict.findings if item.effect == "block" and not item.waiver}
    assert {name for (kind, name), outcome in found.items() if outcome == "failure" and kind != "run"} == blocked
    assert found[("run", "verdict")] == "failure"
    assert {name for (_, name), outcome in found.items() if outcome == "error"} == {"face-01"}
    assert {name for (_, name), outcome in found.items() if outcome == "skipped"} == {"planted08-06"}
    assert len(found) == 1 + len(RUN_RULES) + len(data.self_checks) + len(PROBES)


def test_a_failure_lists_every_finding_of_its_probe_and_a_skip_says_who_waived_it(data):
    cases = {case.get("name"): case for case in suite_of(data).iter("testcase")}
    text = cases["planted32-00"][0].text
    assert text == (
        "- confirmed: 6 of 512 plain samples replicate the probe\n- invmm_below: InvMM 0.0101 is at or below the limit "
        "of 0.0300\n- comes out of at least one in 280 generations by plain sampling"
    )
    assert "waived by d.okafor until 2026-12-31" in cases["planted08-06"][0].get("message")


@pytest.mark.parametrize(("decision", "outcome"), [("pass", "passed"), ("block", "failure"), ("inconclusive", "error")])
def test_the_verdict_is_a_case_of_its_own_whatever_the_others_say(data, decision, outcome):
    sound = tuple(item for item in MEASUREMENTS if item.outcome != "error")
    probes = tuple(probe for probe in PROBES if probe.id != "face-01")
    run = replace(data.run, probe_set=replace(data.run.probe_set, probes=probes))
    found = outcomes(replace(data, run=run, measurements=sound, verdict=verdict(decision, ())))
    assert found.pop(("run", "verdict")) == outcome
    assert set(found.values()) == {"passed"}


def test_nothing_is_green_before_a_policy_was_applied(data):
    found = outcomes(replace(data, verdict=None))
    assert found.pop(("run", "verdict")) == "error"
    assert found.pop(("probes.sensitive", "face-01")) == "error"
    assert {outcome for (kind, _), outcome in found.items() if kind.startswith("probes")} == {"skipped"}


def test_a_probe_that_was_not_measured_is_an_error_and_a_control_that_may_break_is_skipped(data):
    judged = replace(data, measurements=MEASUREMENTS[1:], verdict=verdict("inconclusive", ()))
    found = outcomes(judged)
    assert found[("probes.duplicated", "planted32-00")] == "error"
    assert found[("probes.sensitive", "face-01")] == "skipped", "no finding names it: the policy allows for it"


def test_findings_of_the_whole_run_and_failed_self_checks_are_errors_of_their_own(data):
    found = (finding(None, rule="coverage", effect="inconclusive", message="too few"), finding(None, rule="odd"))
    checks = (*data.self_checks, SelfCheck(name="model_unchanged", passed=False, detail="unet changed"))
    cases = outcomes(replace(data, self_checks=checks, verdict=verdict("inconclusive", found)))
    assert cases[("run", "coverage")] == "error"
    assert cases[("run", "odd")] == "failure"
    stray = outcomes(replace(data, verdict=verdict(findings=(finding("stray"),))))
    assert stray[("probes.unlisted", "stray")] == "failure"
    assert cases[("self_checks", "model_unchanged")] == "error"
    assert cases[("self_checks", "utility floor")] == "passed"


def test_no_caption_source_path_or_prompt_is_in_the_file(data):
    leaky = f"{CAPTION} / {SOURCE} / {FOLDER}/face-00.png"
    found = (finding("face-00", message=leaky, waiver=replace(WAIVER, reason=leaky)), finding(None, message=leaky))
    broken = tuple(replace(item, reason=leaky) if item.outcome == "error" else item for item in MEASUREMENTS)
    checks = (SelfCheck(name="utility floor", passed=False, detail=leaky),)
    judged = verdict("inconclusive", found, reasons=(leaky,))
    text = render_junit(replace(data, measurements=broken, self_checks=checks, verdict=judged))
    assert not any(secret in text for secret in (CAPTION, SOURCE, FOLDER))
    assert text.count("[redacted]") >= 5


def assert_inert(data, text):
    rendered = render_junit(poisoned(data, text))
    suite_of(poisoned(data, text))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]", rendered)
    assert not any(line.lstrip().startswith("::") for line in rendered.splitlines())
    assert len(rendered) < 100_000


@pytest.mark.parametrize("text", ALL, ids=lambda text: ascii(text[:20]))
def test_hostile_text_stays_text(data, text):
    assert_inert(data, text)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(), max_size=60))
def test_any_text_gives_a_well_formed_file(data, text):
    assert_inert(data, text)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "face-00", "face-01", "control-00", "planted32-00", "not-listed"]),
            st.sampled_from(["block", "inconclusive"]),
            st.booleans(),
        ),
        max_size=8,
    ),
    st.sampled_from(["pass", "block", "inconclusive"]),
)
def test_a_file_without_failures_and_errors_is_a_pass(data, drawn, decision):
    findings = tuple(
        finding(probe, effect=effect, waiver=WAIVER if waived and effect == "block" else None)
        for probe, effect, waived in drawn
    )
    suite = suite_of(replace(data, verdict=verdict(decision, findings)))
    green = suite.get("failures") == suite.get("errors") == "0"
    assert not green or decision == "pass"


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_a_time_that_cannot_be_is_none(data, seconds):
    suite_of(replace(data, seconds={"face-00": seconds}))


@pytest.mark.parametrize("moment", ["", "yesterday", "0001-01-01T00:00:00+14:00"])
def test_a_run_without_a_readable_time_has_the_epochs(data, moment):
    suite = suite_of(replace(data, run=replace(data.run, created_at=moment)))
    assert suite.get("timestamp") == "1970-01-01T00:00:00"
