"""An environment that was approved is the only one that measures and judges; another one is told how to see itself."""

import json
import os
import subprocess
import sys

import pytest

from invmm_gate.runs import installed
from invmm_gate.runs.installed import installed_environment
from tests.stages.world import ROOT, call

VARIABLE = "INVMM_GATE_ENVIRONMENT"


@pytest.fixture
def tiny_environment(tmp_path, monkeypatch):
    """A path with one distribution on it, of which one file has changed."""
    (tmp_path / "site" / "ftfy-6.3.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "ftfy-6.3.dist-info" / "METADATA").write_text("Name: ftfy\nVersion: 6.3\n")
    (tmp_path / "site" / "ftfy-6.3.dist-info" / "RECORD").write_text("ftfy.py,sha256=AAAA,4\n")
    call("environment", "--json")  # imports what it needs
    installed_environment.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr("sys.path", [str(tmp_path / "site")])
        yield
    installed_environment.cache_clear()


def test_the_digest_is_printed_first_and_then_each_distribution():
    called = call("environment")
    assert called.code == 0
    first, *others = called.out.splitlines()
    assert first == installed_environment().digest
    assert [line.split()[0] for line in others] == [item.name for item in installed_environment().distributions]
    as_json = json.loads(call("environment", "--json").out)
    assert (as_json["digest"], as_json["code"]) == (first, installed_environment().code)
    torch = next(item for item in as_json["distributions"] if item["name"] == "torch")
    assert f"  torch {torch['version']}: {torch['record']} ({torch['files']} files)" in others


def test_a_file_that_is_not_as_its_record_says_is_bad_input(tiny_environment):
    assert call("environment").code == 0, "what RECORD says is all that the digest is of"
    called = call("environment", "--files")
    assert called.code == 2
    assert called.error.startswith("error: not as its RECORD says: ftfy: ftfy.py; expected")


def test_the_approved_environment_measures_and_run_json_names_it(world):
    digest = installed_environment().digest
    assert world.check("--environment", digest).code == 10
    inputs = json.loads((world.run / "run.json").read_text())["inputs"]
    assert inputs["environment"] == digest
    assert inputs["distributions"]["torch"] in call("environment").out


REFUSED = {
    "check": ("check", "--model", "models:/birds/1", "--policy", "none.yaml"),
    "measure": ("measure", "--model", "none", "--policy", "none.yaml"),
    "judge": ("judge", "none", "--policy", "none.yaml"),
    "registry gate": ("registry", "gate", "birds", "1", "--tracking-uri", "http://127.0.0.1:9", "--policy", "none"),
}


@pytest.mark.parametrize("command", REFUSED)
@pytest.mark.parametrize("approved", ["0" * 64, ""])
def test_another_environment_than_the_approved_one_is_refused_before_anything_is_read(command, approved, monkeypatch):
    monkeypatch.setenv(VARIABLE, approved)
    called = call(*REFUSED[command])
    assert called.code == 2
    assert called.error == (
        f"error: the installed environment is {installed_environment().digest}; expected the approved one, "
        f"'{approved}' (--environment or $INVMM_GATE_ENVIRONMENT); `invmm-gate environment` shows what is installed"
    )


@pytest.mark.parametrize("command", ["check", "measure"])
def test_the_option_comes_before_the_variable(command, monkeypatch):
    monkeypatch.setenv(VARIABLE, installed_environment().digest)
    called = call(*REFUSED[command], "--environment", "0" * 64)
    assert called.code == 2
    assert "the installed environment is" in called.error


def test_nothing_is_measured_with_a_package_that_shadows_an_installed_one(pristine, tmp_path):
    shadow = tmp_path / "shadow" / "diffusers"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise SystemExit(99)")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(shadow.parent), str(ROOT)))}
    command = [sys.executable, "-m", "invmm_gate", *map(str, pristine.arguments())]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert f"error: diffusers would be imported from {shadow / '__init__.py'}; expected the installed" in ended.stderr


def test_a_run_is_not_confirmed_in_another_environment(finished, monkeypatch):
    monkeypatch.setenv(VARIABLE, "0" * 64)
    called = call("confirm", finished.run)
    assert called.code == 2
    assert "the installed environment is" in called.error


def test_a_run_of_another_environment_is_not_gone_on_with_and_the_distribution_is_named(finished, monkeypatch):
    real = installed.installed_distributions()
    installed_environment.cache_clear()
    others = tuple(item for item in real if item.name != "scipy")
    monkeypatch.setattr(installed, "installed_distributions", lambda: others)
    called = finished.check()
    installed_environment.cache_clear()
    assert called.code == 2
    assert "holds a run with another distributions (scipy), environment, versions (scipy); expected" in called.error
