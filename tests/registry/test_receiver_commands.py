"""`registry serve`, `sync` and `doctor` from the command line: slips are one line with exit code 2, before any work."""

import json
import os
import subprocess
import sys

import pytest
import typer

from invmm_gate.attest.keys import new_key_pair
from invmm_gate.cli.registry import app, gate
from invmm_gate.core.errors import GateError
from invmm_gate.core.options import TRACKING_URI, Conditions, GateChoices, ServiceChoices
from invmm_gate.probes.manifest import write_manifest
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.service.gate_process import gate_command
from invmm_gate.registry.service.serve import door_for
from tests.registry.door import due

SECRET = "INVMM_GATE_WEBHOOK_SECRET"


@pytest.fixture
def probes(tmp_path):
    folder = tmp_path / "probes"
    folder.mkdir()
    write_manifest(folder, ())
    return folder


def called(*arguments):
    """The exit code."""
    return app(args=list(arguments), prog_name="invmm-gate registry", standalone_mode=False)


def refused(*arguments):
    with pytest.raises((GateError, typer.TyperException)) as error:
        called(*arguments)
    text = str(error.value)
    assert "\n" not in text
    assert getattr(error.value, "exit_code", 2) == 2
    return text


def test_the_worker_gives_the_gate_only_options_that_it_has(tmp_path):
    other = typer.Typer()
    other.command()(gate)
    command = typer.main.get_command(other)
    every = GateChoices(
        policy="strict",
        probes=tmp_path,
        key=tmp_path / "a.key",
        roots=tmp_path / "a.pub",
        seed=3,
        rows=4,
        sscd=tmp_path / "sscd",
        waivers=tmp_path / "w",
        baseline=tmp_path / "b",
        weights="ema",
        alias="",
        release_name="rel",
        conditions=Conditions(
            revoked=tmp_path / "revoked.yaml", max_age=30, refuse_waivers=True, reviewers=tmp_path / "reviewer.pub"
        ),
        details=True,
        runs=tmp_path / "runs",
    )
    given = gate_command(every)
    assert given[:5] == (sys.executable, "-m", "invmm_gate", "registry", "gate")
    with command.make_context("gate", [*given[5:], "--", "--odd-name", "7"]) as context:
        assert (context.params["name"], context.params["version"]) == ("--odd-name", "7")
        assert context.params["alias"] == ""
        assert str(context.params["runs"]) == str(tmp_path / "runs")
        assert (context.params["max_age"], context.params["refuse_waivers"]) == (30, True)
        assert context.params["details"] is True
        assert context.params["revoked"] == tmp_path / "revoked.yaml"
        assert context.params["reviewers"] == tmp_path / "reviewer.pub"


def test_a_password_in_the_tracking_uri_is_not_on_the_gates_command_line(tmp_path, probes):
    uri = "http://gate:password-of-the-gate@127.0.0.1:9"
    choices = GateChoices(policy="strict", probes=probes, runs=tmp_path / "runs")
    door = door_for(choices, ServiceChoices(tracking_uri=uri, state=tmp_path))
    assert "password-of-the-gate" not in " ".join(door.worker.command)
    other = typer.Typer()
    other.command()(gate)
    command = typer.main.get_command(other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRACKING_URI, uri)
        with command.make_context("gate", [*door.worker.command[5:], "--", "name", "7"]) as context:
            assert context.params["tracking_uri"] == uri


@pytest.mark.parametrize(("alias", "release", "open_"), [("live", None, False), ("live", "birds", True)])
def test_an_alias_that_a_guard_leaves_open_by_default_is_told(tmp_path, probes, caplog, alias, release, open_):
    choices = GateChoices(policy="strict", probes=probes, alias=alias, release_name=release, runs=tmp_path / "runs")
    door_for(choices, ServiceChoices(tracking_uri="http://127.0.0.1:9", state=tmp_path))
    assert ("protected only by a guard that is started with --alias live" in caplog.text) is open_


@pytest.mark.parametrize("secret", ["", "short"])
def test_serve_does_not_start_without_a_real_secret(probes, monkeypatch, secret):
    monkeypatch.setenv(SECRET, secret)
    assert "secret" in refused(
        "serve", "--tracking-uri", "http://127.0.0.1:9", "--policy", "strict", "--probes", str(probes)
    )


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("policy", ["--policy", "stricter"]),
        ("probe set", ["--probes", "nowhere"]),
        ("'../x'", ["--model", "../x"]),
        ("for what the gate releases", ["--model", "birds-release"]),
        ("--alias", ["--alias", "latest"]),
        ("--path", ["--path", "/health"]),
        ("--path", ["--path", "hook"]),
        ("key", ["--key", "nowhere.key"]),
        ("webhook secrets", ["--secret-file", "nowhere"]),
        ("65535", ["--port", "70000"]),
        ("greater", ["--every", "0"]),
    ],
)
def test_a_slip_in_the_options_is_told_before_anything_listens(tmp_path, probes, monkeypatch, words, options):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SECRET, "a-secret-of-good-length")
    usual = {"--tracking-uri": "http://127.0.0.1:9", "--policy": "strict", "--probes": str(probes), "--port": "0"}
    given = [part for pair in (usual | dict([options])).items() for part in pair]
    assert words in refused("serve", *given)
    assert not (tmp_path / ".invmm-gate").exists()


def test_sync_without_a_registry_is_inconclusive(tmp_path, probes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GateError) as error:
        called("sync", "--tracking-uri", "http://127.0.0.1:9", "--policy", "strict", "--probes", str(probes))
    assert error.value.exit_code == 11


def test_sync_prints_what_it_found(tmp_path, probes, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    Registry(uri).create_version("cand", str(tmp_path / "mlartifacts"), tags={}, run_id=None)
    given = ("sync", "--tracking-uri", uri, "--policy", "strict", "--probes", str(probes), "--no-gate")
    assert called(*given) == 11
    assert "1 versions listed, 1 new; all so far: 1 queued" in capsys.readouterr().out
    assert called(*given, "--json") == 11
    assert json.loads(capsys.readouterr().out)["queued"] == ["cand/1"]


def test_an_alias_on_a_version_without_an_attestation_is_found_by_its_files(tmp_path, probes):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    registry = Registry(uri)
    (tmp_path / "mlartifacts").mkdir()
    registry.create_version("cand-release", str(tmp_path / "mlartifacts"), tags={"invmm.gate": "pass"}, run_id=None)
    registry.create_version("cand-release", "/etc", tags={"invmm.run": "0" * 32}, run_id=None)
    registry.create_version("cand", str(tmp_path / "mlartifacts"), tags={}, run_id=None)
    registry.set_alias("cand-release", "champion", "1")
    registry.set_alias("cand-release", "approved-000000000000", "2")
    key = new_key_pair(tmp_path / "gate").private
    state = tmp_path / "state"
    choices = GateChoices(policy="strict", probes=probes, key=key, runs=state / "runs")
    door = door_for(choices, ServiceChoices(tracking_uri=uri, state=state, models=("cand",), enforce=True))
    with door.opened() as (reconciler, _):
        done = reconciler.once()
    assert due(done.found) == ["cand/1"]
    reasons = {alert.record.version: alert.reason for alert in done.alerts}
    assert "no attestation" in reasons["1"]
    assert set(reasons) == {"1", "2"}
    assert registry.aliases("cand-release") == {}


def test_doctor_on_a_database_says_what_to_use_instead(tmp_path, capsys):
    assert called("doctor", "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db") == 11
    assert capsys.readouterr().out.startswith("failed  server:")
    assert "--receiver-url" in refused("doctor", "--tracking-uri", "http://127.0.0.1:9", "--create-webhook")


def test_the_commands_are_found_without_torch_or_mlflow():
    code = (
        "import sys; from invmm_gate.cli.registry import app; app(['--help'], standalone_mode=False);"
        "print(sorted({'torch', 'mlflow', 'starlette', 'uvicorn', 'pydantic', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip().endswith("[]")
    assert all(name in done.stdout for name in ("serve", "sync", "doctor"))
