"""`compare` and `bless` as a user meets them."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.test_imports import DEVICE, ENVIRONMENT
from tests.policy.policy_builders import TODAY, clean_run, measured, probe, waiver, with_probes, with_score
from tests.policy.test_policy_compare_likelihoods import OFTEN, RARE, copied
from tests.stages.stored_runs import blocked, passing, stored
from tests.stages.world import call

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")
REGRESSION = """
name: against-the-last
version: 1
metric: [{name: pixel_rmse, threshold: 0.1}]
rules: [{rule: regression, margin: 0.05}]
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders `good` and `bad`. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    passing(folder / "good")
    blocked(folder / "bad")
    return folder


def test_both_commands_explain_themselves() -> None:
    for command in ("compare", "bless"):
        called = call(command, "--help")
        assert called.code == 0
        assert f"Example: invmm-gate {command} " in called.out


def test_a_comparison_is_no_gate_and_ends_with_0(runs: Path) -> None:
    called = call("compare", runs / "good", runs / "bad")
    assert (called.code, called.err) == (0, "")
    assert "findings: 1 new" in called.out
    assert "probes: 1 worse, 27 unchanged" in called.out
    assert re.search(r"NEW +invmm_below +p1 +none +block 0\.0200 \(limit 0\.0911\)", called.out)
    assert re.search(
        r"WORSE +p1 +sensitive +not inverted +0\.0200 +test samples 0 of 8 \(.*\) → 8 of 8 \(.*\), separate", called.out
    )
    assert not CONTROL.search(called.out), "off a terminal there are no colours"


@pytest.mark.parametrize(
    ("before", "after", "fail_on", "code"),
    [("good", "bad", "new", 10), ("bad", "good", "new", 0), ("bad", "good", "worse", 0), ("good", "good", "worse", 0)],
)
def test_fail_on_makes_it_a_gate(runs: Path, before: str, after: str, fail_on: str, code: int) -> None:
    called = call("compare", runs / before, runs / after, "--fail-on", fail_on)
    assert (called.code, called.err) == (code, "")


def test_fail_on_writes_what_it_found_before_it_fails(runs: Path, tmp_path: Path) -> None:
    report = tmp_path / "new" / "comparison.md"
    called = call("compare", runs / "good", runs / "bad", "--fail-on", "new", "--json", "--markdown", report)
    assert called.code == 10
    assert json.loads(called.out)["counts"]["findings"] == {"new": 1}
    assert "| NEW |" in report.read_text()


def keys(value: object) -> object:
    """The names of a JSON value, without its figures."""
    if isinstance(value, dict):
        return {name: keys(each) for name, each in value.items()}
    return (
        [keys(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else type(value).__name__
    )


SHARE = {
    "hits": "int",
    "trials": "int",
    "interval": {"low": "float", "high": "float", "confidence": "float", "method": "str"},
}
SIDE = {
    **dict.fromkeys(("run_id", "model", "model_digest", "probe_set_digest", "fingerprint", "copy_metric"), "str"),
    **dict.fromkeys(("decision", "policy", "policy_digest"), "str"),
}
LIKELIHOOD = {
    **dict.fromkeys(("nats", "lower", "estimate", "upper", "confidence"), "float"),
    "guidance_scale": "NoneType",
}
SCORE = {"outcome": "str", "invmm": "NoneType", "invmm_above": "NoneType", "spread": "NoneType"}
SCHEMA = {
    "schema_version": "int",
    "before": SIDE,
    "after": SIDE,
    "profile": "str",
    "metric": "str",
    "findings_compared": "bool",
    "counts": {"probes": {"worse": "int", "unchanged": "int"}, "findings": {"new": "int"}},
    "notes": "list",
    "left_out": {"gone": "list", "added": "list", "replaced": "list"},
    "findings": [
        {
            "rule": "str",
            "probe": "str",
            "change": "str",
            "before": "NoneType",
            "after": {"effect": "str", "value": "float", "limit": "float", "waived": "bool"},
            "group": "NoneType",
        }
    ],
    "uncompared": "list",
    "probes": [
        {
            "probe": "str",
            "group": "str",
            "category": "str",
            "change": "str",
            "score": {
                "change": "str",
                "before": SCORE,
                "after": SCORE | {"invmm": "float", "spread": "list"},
                "margin": "NoneType",
                "within_spread": "bool",
                "reason": "str",
            },
            "rates": [
                {
                    "name": "str",
                    "change": "str",
                    "before": SHARE,
                    "after": SHARE,
                }
            ],
            "likelihoods": [
                {
                    "kind": "str",
                    "change": "str",
                    "before": "NoneType",
                    "after": LIKELIHOOD,
                }
            ],
        }
    ],
}
"""What scripts read; a change here is a new schema_version."""


def test_the_json_keeps_its_form(runs: Path) -> None:
    found = json.loads(call("compare", runs / "good", runs / "bad", "--json").out)
    assert found["schema_version"] == 3
    assert keys(found) == SCHEMA
    assert found["probes"][0]["score"]["reason"] == "not inverted before, 0.02 now"


def test_a_probe_that_only_comes_out_more_often_is_worse_and_every_form_says_how_often(tmp_path: Path) -> None:
    old, new = (
        stored(copied(record, clean_run()), tmp_path / name, judged_by=None)
        for name, record in (("old", RARE), ("new", OFTEN))
    )
    called = call("compare", old, new, "--policy", "strict", "--fail-on", "worse")
    assert called.code == 10
    said = (
        "at least one in 100 generations (at most one in 28) → at least 20 % of generations (at most 30 %) "
        "by plain sampling, separate"
    )
    assert re.search(rf"WORSE +p1 +sensitive +not inverted +not inverted .*{re.escape(said)}", called.out)
    assert re.search(r"WORSE +extraction_likelihood +p1 +block 0\.0100 .* +block 0\.2000 ", called.out)
    (likely,) = json.loads(call("compare", old, new, "--json").out)["probes"][0]["likelihoods"]
    assert (likely["kind"], likely["change"]) == ("none", "worse")
    assert (likely["before"]["upper"], likely["after"]["lower"]) == (RARE.upper, OFTEN.lower)
    assert call("compare", new, old, "--policy", "strict", "--fail-on", "worse").code == 0


def test_a_policy_judges_both_afresh_and_leaves_the_verdicts_on_disk_alone(runs: Path, tmp_path: Path) -> None:
    unjudged = stored(clean_run(), tmp_path / "unjudged", judged_by=None)
    before = (runs / "bad" / "verdict.json").read_bytes()
    refused = call("compare", unjudged, runs / "bad", "--fail-on", "new")
    assert refused.code == 2
    assert "the findings cannot be compared" in refused.error
    called = call("compare", unjudged, runs / "bad", "--fail-on", "new", "--policy", "strict")
    assert called.code == 10
    assert not (unjudged / "verdict.json").exists()
    assert (runs / "bad" / "verdict.json").read_bytes() == before


def test_the_margin_of_a_policys_rule_regression_decides(tmp_path: Path) -> None:
    old, new = (
        stored(with_score(clean_run(), "p1", score), tmp_path / str(score), judged_by=None) for score in (0.30, 0.27)
    )
    policy = tmp_path / "regression.yaml"
    policy.write_text(REGRESSION)
    loose, strict = (
        json.loads(call("compare", old, new, "--json", *extra).out)["probes"] for extra in (("--policy", policy), ())
    )
    assert {each["change"] for each in loose} == {"unchanged"}
    assert (strict[0]["probe"], strict[0]["change"]) == ("p1", "worse")


def test_runs_that_do_not_compare_are_refused_in_one_line(runs: Path, tmp_path: Path) -> None:
    data = clean_run()
    other = stored(
        replace(data, run=replace(data.run, inputs=replace(data.run.inputs, profile="paper"))), tmp_path / "o"
    )
    assert "the runs differ in profile" in call("compare", runs / "good", other).error
    probes = with_probes(data, probe("p9"))
    changed = replace(probes.run, probe_set=replace(probes.run.probe_set, digest="f" * 64))
    more = stored(replace(probes, run=changed), tmp_path / "more", judged_by=None)
    assert "1 added, 0 gone" in call("compare", runs / "good", more).error
    assert call("compare", runs / "good", more, "--common-probes").code == 0
    assert "left out: 1 added, 0 gone, 0 replaced" in call("compare", runs / "good", more, "--common-probes").out
    scored = replace(probes, run=changed, measurements=(*data.measurements, measured(probe("p9"), 0.02)))
    blocked = stored(scored, tmp_path / "blocked")
    gated = call("compare", runs / "good", blocked, "--common-probes", "--fail-on", "new")
    assert gated.code == 11, "p9 blocks, and the first run says nothing about it"
    assert re.search(r"UNKNOWN +invmm_below +p9 +block 0\.0200 \(limit 0\.0911\)", gated.out)
    assert "holds no run.json" in call("compare", runs, runs / "good").error
    assert "--fail-on" in call("compare", runs / "good", runs / "good", "--fail-on", "older").error


def test_a_verdict_counts_as_it_stands_today_and_only_for_its_own_records(runs: Path, tmp_path: Path) -> None:
    expired = waiver(probe="p1", expires=TODAY)  # long past for the command
    waived = stored(with_score(clean_run(), "p1", 0.02), tmp_path / "waived", waivers=(expired,))
    assert json.loads((waived / "verdict.json").read_text())["decision"] == "pass"
    called = call("compare", runs / "good", waived, "--fail-on", "new", "--json")
    assert called.code == 10
    assert json.loads(called.out)["after"]["decision"] == "block"
    other = Path(shutil.copytree(runs / "good", tmp_path / "other"))
    shutil.copy(runs / "bad" / "measurements.jsonl", other)
    refused = call("compare", runs / "good", other)
    assert refused.code == 2
    assert "verdict.json was made before measurements.jsonl changed" in refused.error
    afresh = ("compare", runs / "good", other, "--policy", "strict", "--fail-on", "new")
    assert "measurements.jsonl was edited" in call(*afresh).error
    shutil.copy(runs / "bad" / "measure_end.json", other)
    assert call(*afresh).code == 10, "judged afresh"


def test_hostile_names_are_inert_on_a_terminal(tmp_path: Path) -> None:
    hostile = "[bold]m\x1b[2J\u202e"
    data = clean_run()
    run = replace(data.run, model=replace(data.run.model, name=hostile))
    folder = stored(replace(data, run=run), tmp_path / "run")
    called = call("compare", folder, folder)
    assert "[bold]m\\x1b[2J\\x202e" in called.out
    assert not CONTROL.search(called.out)


def test_a_run_is_blessed_and_used_and_a_changed_one_is_refused(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "baseline.yaml"
    called = call("bless", runs / "good", "--reason", "release 1.4", "--by", "ada", "--baseline", file)
    assert (called.code, called.err) == (0, "")
    assert re.fullmatch(rf"blessed: run [0-9a-f]{{12}} \(pass\) by ada; next: --baseline {file}\n", called.out)
    assert call("compare", file, runs / "bad", "--fail-on", "new").code == 10
    assert call("compare", file, runs / "good", "--fail-on", "worse").code == 0
    file.write_text(file.read_text().replace("measurements_sha256: ", "measurements_sha256: " + "0" * 8)[:-8])
    assert call("compare", file, runs / "good").code == 2


def test_a_reason_is_asked_for_and_a_blocked_run_is_not_blessed_by_accident(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "baseline.yaml"
    assert call("bless", runs / "good", "--baseline", file).code == 2
    assert "the verdict is block" in call("bless", runs / "bad", "--reason", "x", "--baseline", file).error
    assert not file.exists()
    asked = ("--reason", "known", "--by", "ada", "--baseline", file, "--even-if-blocked")
    assert call("bless", runs / "bad", *asked).code == 0
    assert "even_if_blocked: true" in file.read_text()


def test_nothing_blesses_by_itself_and_no_baseline_is_assumed(runs: Path, tmp_path: Path) -> None:
    assert call("bless", runs / "good", "--reason", "x", "--by", "ada").code == 0
    assert Path("baseline.yaml").is_file(), "the working folder's, as none was named"
    policy = tmp_path / "regression.yaml"
    policy.write_text(REGRESSION)
    run = stored(clean_run(), tmp_path / "run", judged_by=None)
    called = call("judge", run, "--policy", policy)
    assert called.code == 11
    assert "no baseline was given" in called.out
    assert call("judge", run, "--policy", policy, "--baseline", "baseline.yaml").code == 0
    verdict = json.loads((run / "verdict.json").read_text())
    assert verdict["baseline"]["blessed_by"] == "ada"
    assert "blessed by ada" in (run / "report.html").read_text()


PROGRAM = """
import sys
from pathlib import Path
from invmm_gate.cli.compare import compare
code = compare(Path(sys.argv[1]), Path(sys.argv[2]))
print(code, *sorted({module.split(".")[0] for module in sys.modules}), file=sys.stderr)
"""


def test_comparing_imports_no_model(runs: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(runs / "good"), str(runs / "bad")]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0"
    assert set(modules) & (DEVICE | {"great_expectations", "pandas"}) == set()
