"""How likely an image comes out, in the formats for programs."""

import csv
import io
import json
import math
from dataclasses import replace

import pytest

from invmm_gate.core.intervals import clopper_pearson, lower_bound
from invmm_gate.core.verdict_records import ExtractableShare, Power, Rung
from invmm_gate.report.scores import metrics, render_csv
from invmm_gate.report.to_junit import cases_of
from invmm_gate.report.to_sarif import render_sarif
from invmm_gate.tracking.contents import contents
from tests.policy.policy_builders import estimated, with_likelihood
from tests.report.likely_runs import blocked, blocked_with_prompts, passed
from tests.report.test_first_screen import edition


def test_a_sarif_result_has_the_kind_of_prompt_and_the_bound():
    (log,) = json.loads(render_sarif(blocked()))["runs"]
    found = {(item["ruleId"], item["properties"]["probe"]): item["properties"] for item in log["results"]}
    likely = found["invmm_below", "p1"]
    assert (likely["promptKind"], likely["likelihoodNats"]) == ("none", 3.7)
    assert likely["likelihood"] == "at least one in 41 generations by plain sampling"
    (public,) = json.loads(render_sarif(edition(blocked())))["runs"]
    nats = {item["properties"].get("likelihoodNats") for item in public["results"]}
    assert nats == {2 * math.log(10), 6 * math.log(10), None}


def test_a_junit_case_ends_with_the_bound():
    cases = {case.name: case.messages for case in cases_of(blocked_with_prompts())}
    assert cases["p2"][-1] == "comes out of at least one in 47 generations with a strange prompt that can be typed"
    assert cases["p3"] == (), "no finding"


def rows(data):
    return {row["id"]: row for row in csv.DictReader(io.StringIO(render_csv(data), newline=""))}


def test_the_table_has_the_best_record_of_each_probe():
    found = rows(blocked())
    columns = ("prompt_kind", "likelihood_lower", "likelihood_estimate", "likelihood_upper", "likelihood_nats")
    best = estimated("p2", 13.8)
    assert [found["p2"][name] for name in columns] == [
        "none", repr(math.exp(-13.8)), repr(best.estimate), repr(best.upper), "13.8",
    ]  # fmt: skip
    assert [found["m2"][name] for name in columns] == [""] * 5
    counted = rows(blocked_with_prompts())["p2"]
    assert (counted["prompt_kind"], counted["likelihood_estimate"], counted["likelihood_upper"]) == ("typed", "", "")
    assert float(counted["likelihood_lower"]) == pytest.approx(lower_bound(5, 64, confidence=1 - 0.05 / 4))
    public = sorted(row["likelihood_lower"] for row in rows(edition(blocked())).values() if row["prompt_kind"])
    assert [float(each) for each in public] == pytest.approx([1e-2, 1e-6, 1e-6])
    assert not any(row["likelihood_estimate"] + row["likelihood_upper"] for row in rows(edition(blocked())).values())


def test_metrics_count_the_images_and_have_the_likeliest_in_a_band():
    data = blocked()
    said = metrics(data, data.verdict)
    assert said["certified"] == {"1e-9": 3, "1e-6": 3, "1e-3": 1}
    assert said["highest_likelihood"] == 0.01
    assert "extractable" not in said
    assert "power" not in said
    nothing = metrics(passed(), passed().verdict)
    assert nothing["certified"] == {"1e-9": 0, "1e-6": 0, "1e-3": 0}
    assert "highest_likelihood" not in nothing
    rarest = with_likelihood(passed(), estimated("p1", 9 * math.log(10)))
    assert metrics(rarest, rarest.verdict)["highest_likelihood"] == 1e-9


def test_metrics_say_what_of_the_training_data_comes_out_and_which_canaries_were_found():
    share = ExtractableShare(drawn=300, found=1, unsearched=0, upper=0.0157163, confidence=0.95)
    rung = Rung(multiplicity=64, found=60, planted=60, interval=clopper_pearson(60, 60))
    verdict = replace(passed().verdict, extractable=share, power=Power(rungs=(rung,), found_from=64))
    said = metrics(passed(), verdict)
    assert said["extractable"] == {"drawn": 300, "found": 1, "at_most": 0.015716}
    assert said["power"] == {"found_from": 64, "canaries": {"64": {"found": 60, "planted": 60}}}
    unknown = metrics(passed(), replace(verdict, power=Power(rungs=(rung,))))
    assert "found_from" not in unknown["power"]


def test_mlflow_has_the_bound_of_each_probe_and_of_the_run(tmp_path):
    sent = contents(blocked(), tmp_path)
    assert sent.metrics["certified_1e-6"] == 3
    assert sent.metrics["likelihood_max"] == pytest.approx(math.exp(-3.7))
    by_name = {each.name: each for each in sent.probes}
    assert by_name["p1"].metrics["likelihood_nats"] == 3.7
    assert by_name["p1"].tags["invmm.prompt_kind"] == "none"
    assert "likelihood_nats" not in by_name["c00"].metrics
    shown = contents(edition(blocked()), tmp_path)
    assert shown.metrics["likelihood_max"] == pytest.approx(0.01)
    table = json.loads(shown.files["probes.json"])
    nats = {row[table["columns"].index("likelihood_nats")] for row in table["data"]}
    assert nats == {2 * math.log(10), 6 * math.log(10), None}


def test_other_likelihoods_are_another_publication(tmp_path):
    keys = {contents(data, tmp_path).key for data in (passed(), with_likelihood(passed(), estimated("p1")))}
    assert len(keys) == 2
