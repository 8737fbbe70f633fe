"""An environment that was approved is the only one that measures and judges; another one is told how to see itself."""

import json

import pytest

from invmm_gate.runs import identity
from invmm_gate.runs.identity import installed_environment
from tests.stages.world import call

VARIABLE = "INVMM_GATE_ENVIRONMENT"


def test_the_digest_is_printed_first_and_then_each_version():
    called, found = call("environment"), installed_environment()
    assert called.code == 0
    first, code, *others = called.out.splitlines()
    assert (first, code) == (found.digest, f"  code: {found.code}")
    assert others == [f"  {name} {version}" for name, version in found.versions.items()]
    as_json = json.loads(call("environment", "--json").out)
    assert as_json == {"digest": first, "code": found.code, "versions": found.versions}


def test_the_approved_environment_measures_and_run_json_names_it(world):
    digest = installed_environment().digest
    assert world.check("--environment", digest).code == 10
    inputs = json.loads((world.run / "run.json").read_text())["inputs"]
    assert inputs["environment"] == digest
    assert inputs["versions"]["torch"] in call("environment").out


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


def test_a_run_is_not_confirmed_in_another_environment(finished, monkeypatch):
    monkeypatch.setenv(VARIABLE, "0" * 64)
    called = call("confirm", finished.run)
    assert called.code == 2
    assert "the installed environment is" in called.error


def test_a_run_of_another_environment_is_not_gone_on_with_and_the_package_is_named(finished, monkeypatch):
    others = {name: version for name, version in identity.installed_versions().items() if name != "scipy"}
    installed_environment.cache_clear()
    monkeypatch.setattr(identity, "installed_versions", lambda: others)
    called = finished.check()
    installed_environment.cache_clear()
    assert called.code == 2
    assert "holds a run with another environment, versions (scipy); expected" in called.error
