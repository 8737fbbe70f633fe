"""dvc.yaml against the program: commands that parse, files that one stage writes, keys that the policies have."""

import re
import shlex
from pathlib import PurePosixPath

import pytest
import typer.main
import yaml

from invmm_gate.cli.app import app
from invmm_gate.report.formats import FORMATS
from invmm_gate.runs.copies import COPIES_FOLDER
from invmm_gate.runs.stage_files import CONFIRMING, MEASURE, METRICS, VERDICT
from invmm_gate.stages.public_edition import PUBLIC_FILES
from invmm_gate.stages.report import REPORTS
from tests.dvc.project import STAGES
from tests.stages.world import ROOT

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())


def resolved(text: str) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: str(PARAMS[match[1]]), text)


PIPELINE = yaml.safe_load(resolved((ROOT / "dvc.yaml").read_text()))["stages"]
RUN = f"{PARAMS['folder']}/run"


def outs(stage: str) -> dict[str, dict[str, bool]]:
    found = {}
    for out in [*PIPELINE[stage].get("outs", []), *PIPELINE[stage].get("metrics", [])]:
        found |= out if isinstance(out, dict) else {out: {}}
    return found


def test_the_stages_are_those_of_the_design_and_the_verdict_is_last():
    assert tuple(PIPELINE) == STAGES


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "probes"])
def test_every_command_is_one_that_the_program_takes(stage):
    program, *words = shlex.split(PIPELINE[stage]["cmd"])
    assert program == "invmm-gate"
    command, context = typer.main.get_command(app), None
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    context = command.make_context(command.name, list(words))
    assert context.params, "parsed, with nothing left over"


@pytest.mark.parametrize("stage", STAGES)
def test_no_command_needs_a_shell(stage):
    assert not re.search(r"[|&;<>$`*?~]", PIPELINE[stage]["cmd"])


def test_every_file_has_one_stage_that_writes_it():
    assert set(outs("measure")) == {
        f"{RUN}/{name}" for name in (MEASURE.begins_with, *MEASURE.records, *MEASURE.folders, MEASURE.end)
    }
    assert set(outs("confirm")) == {
        f"{RUN}/{name}" for name in (CONFIRMING.begins_with, *CONFIRMING.records, *CONFIRMING.folders, CONFIRMING.end)
    }
    assert set(outs("judge")) == {f"{RUN}/{name}" for name in (VERDICT, COPIES_FOLDER, METRICS)}
    always = {form.file for form in FORMATS.values() if not form.needs} | set(PUBLIC_FILES)
    assert set(outs("report")) == {f"{RUN}/{name}" for name in REPORTS if name in always}
    assert outs("verdict") == {}


def test_nothing_private_goes_into_the_cache_and_nothing_measured_is_deleted():
    for stage in STAGES:
        assert all(flags.get("cache") is False for flags in outs(stage).values()), stage
    for stage in ("measure", "confirm"):
        assert all(flags.get("persist") is True for flags in outs(stage).values()), stage


def test_every_stage_waits_for_all_that_it_reads():
    written = {stage: set(outs(stage)) for stage in STAGES}
    for stage, before in (("confirm", "measure"), ("judge", "confirm"), ("report", "judge"), ("verdict", "report")):
        assert set(PIPELINE[stage]["deps"]) & written[before]
    measured = {f"{RUN}/{name}" for name in (MEASURE.begins_with, *MEASURE.rows)}
    read = measured | {f"{RUN}/{name}" for name in (CONFIRMING.begins_with, *CONFIRMING.rows)}
    ends = {f"{RUN}/{stage.end}" for stage in (MEASURE, CONFIRMING)}
    assert measured | {f"{RUN}/{MEASURE.end}"} <= set(PIPELINE["confirm"]["deps"])
    assert read | ends <= set(PIPELINE["judge"]["deps"])
    assert read | {f"{RUN}/timings.jsonl"} <= set(PIPELINE["report"]["deps"])
    for stage in ("report", "verdict"):
        assert {f"{RUN}/{VERDICT}", f"{RUN}/{COPIES_FOLDER}"} <= set(PIPELINE[stage]["deps"])


def test_the_verdict_is_of_the_model_that_is_there_now_under_the_policy_that_is():
    assert f"--policy {PARAMS['policy']}" in PIPELINE["verdict"]["cmd"]
    assert PARAMS["policy"] in str(PIPELINE["verdict"]["params"])
    assert PIPELINE["verdict"]["cmd"].split()[-2:] == ["--model", PARAMS["model"]]
    assert PARAMS["model"] in PIPELINE["verdict"]["deps"]


@pytest.mark.parametrize("policy", sorted((ROOT / "policies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_policy_has_the_keys_that_the_stages_name(policy):
    keys = set(yaml.safe_load(policy.read_text()))
    named = {
        key
        for stage in PIPELINE.values()
        for entry in stage.get("params", [])
        for listed in (entry.values() if isinstance(entry, dict) else [])
        for key in listed or ()
    }
    assert named == {"coverage", "measure", "metric", "confirm"}
    assert named <= keys


def test_all_that_the_gate_makes_depends_on_which_gate_it_is():
    assert PIPELINE["gate"]["deps"] == ["constraints.txt", "invmm_gate"]
    for stage in ("validate", "measure", "confirm", "judge", "report"):
        assert f"{PARAMS['folder']}/gate.json" in PIPELINE[stage]["deps"], stage


def test_only_judging_depends_on_the_rules():
    def of(stage: str) -> list[str] | None:
        (entry,) = PIPELINE[stage]["params"]
        return entry[PARAMS["policy"]]

    assert of("judge") is None, "on the whole file"
    assert all("rules" not in (of(stage) or ()) for stage in ("validate", "measure", "confirm"))


def test_the_default_model_is_the_clean_one_of_the_demo():
    assert PARAMS["model"] == "examples/demo/models/clean"
    assert all((ROOT / PurePosixPath(PARAMS[name])).exists() for name in ("model", "policy"))
