"""A model that poses as a prompt is not hidden from the sweep: MLflow's own lists leave it out."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.registry_names import POSING
from invmm_gate.registry.service.reconcile import Pass
from tests.registry.door import due, sweeping


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    """Of a database with model `birds`: version 1 is the champion, and version 2 carries the tag."""
    uri = f"sqlite:///{tmp_path / 'own.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    source = f"{client.create_run('0').info.artifact_uri}/checkpoint"
    client.create_registered_model("birds")
    for _ in range(2):
        client.create_model_version("birds", source)
    client.set_registered_model_alias("birds", "champion", "1")
    client.set_model_version_tag("birds", "2", POSING, "true")
    assert not client.search_model_versions("name = 'birds'"), "which is why the sweep must not rely on it"
    return client


def swept(tmp_path: Path, *names: str) -> Pass:
    done: Pass = sweeping(Registry(f"sqlite:///{tmp_path / 'own.db'}"), tmp_path, names=names).once()
    return done


@pytest.mark.parametrize("tagged", ["model", "version"])
def test_an_alias_of_a_model_that_poses_as_a_prompt_is_seen(client: MlflowClient, tmp_path: Path, tagged: str) -> None:
    if tagged == "model":
        client.set_registered_model_tag("birds", POSING, "true")
    else:
        client.set_model_version_tag("birds", "1", POSING, "true")
    aliased = Registry(f"sqlite:///{tmp_path / 'own.db'}").alias("birds", "champion")
    assert aliased is not None
    assert (aliased.version, aliased.aliases) == ("1", ("champion",))


@pytest.mark.parametrize("names", [(), ("birds",)])
def test_every_version_of_a_model_that_poses_as_a_prompt_is_found_and_is_an_alert(
    client: MlflowClient, tmp_path: Path, names: tuple[str, ...]
) -> None:
    done = swept(tmp_path, *names)
    assert due(done.found) == ["birds/2", "birds/1"]
    posing, aliased = sorted(str(alert) for alert in done.alerts)[::-1][:2]
    assert (posing, aliased) == (
        "birds version 2: its tag mlflow.prompt.is_prompt hides the model from MLflow's own lists",
        "alias champion of birds on version 1: no pass of ours on record; still there",
    )


def test_a_real_prompt_is_no_alert(client: MlflowClient, tmp_path: Path) -> None:
    client.register_prompt("greeting", "Hello {{name}}")
    client.set_prompt_alias("greeting", "champion", 1)
    done = swept(tmp_path)
    assert {alert.record.name for alert in done.alerts} == {"birds"}
    assert (done.found.listed, done.found.unusable) == (2, ())
