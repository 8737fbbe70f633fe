"""`--model models:/...`: the right files as plain files in a private folder, and nothing from anywhere else."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from invmm_gate.core.errors import BAD_INPUT, INCONCLUSIVE, ConfigError, RegistryError
from invmm_gate.core.progress import Silent
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.client.locations import refuse_collisions, safe_path
from invmm_gate.registry.client.registry_uri import local_checkpoint
from invmm_gate.registry.promote.gate_version import create_version
from tests.registry.conftest import Desk
from tests.registry.servers import SWITCHES, Server, free_port
from tests.stages.world import MEMORIZING

DIGEST = inspect_checkpoint(MEMORIZING).digest


@pytest.fixture(scope="module")
def record(plain_server: Server, desk: Desk) -> VersionRecord:
    """A version that waits, under alias `newest`."""
    registry = Registry(plain_server.uri)
    made = create_version(MEMORIZING, "sourced", registry, choices=desk.passing, progress=Silent())
    registry.set_alias("sourced", "newest", made.version)
    return made


@pytest.fixture
def client(plain_server: Server) -> MlflowClient:
    return MlflowClient(tracking_uri=plain_server.uri, registry_uri=plain_server.uri)


@pytest.mark.parametrize("uri", ["models:/sourced/1", "models:/sourced@newest"])
def test_a_version_is_a_private_folder_for_a_while(plain_server: Server, record: VersionRecord, uri: str) -> None:
    with local_checkpoint(uri, plain_server.uri) as path:
        assert path.name == "sourced-v1", "run folders are named after it"
        manifest = inspect_checkpoint(path)
        assert (manifest.digest, manifest.name) == (DIGEST, "sourced-v1")
        assert stat.S_IMODE(path.parents[1].stat().st_mode) == 0o700
    assert not path.exists()
    assert list(Path("reports").iterdir()) == []


def test_a_logged_model_and_a_run_can_be_named_as_well(
    plain_server: Server, record: VersionRecord, client: MlflowClient
) -> None:
    with local_checkpoint(record.source, plain_server.uri) as path:
        assert inspect_checkpoint(path).digest == DIGEST
    experiment = client.get_experiment_by_name("invmm-gate").experiment_id
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(MEMORIZING), "out/ckpt")
    with local_checkpoint(f"runs:/{run}/out/ckpt", plain_server.uri) as path:
        assert path.name == f"ckpt-{run[:8]}"
        assert inspect_checkpoint(path).digest == DIGEST


def test_a_plain_path_needs_no_registry() -> None:
    with local_checkpoint("runs/ckpt", "http://127.0.0.1:9") as path:
        assert path == Path("runs/ckpt")


@pytest.mark.parametrize(
    "uri", ["models:/sourced", "models:/sourced/1/2", "models:/a b/1", "models:/../1", "models:/sourced@", "runs:/x/y"]
)
def test_a_uri_that_cannot_be_read_is_bad_input(plain_server: Server, uri: str) -> None:
    with pytest.raises(ConfigError, match="--model"), local_checkpoint(uri, plain_server.uri):
        pass


@pytest.mark.parametrize(
    "uri",
    ["models:/sourced/99", "models:/sourced@nobody", "models:/none/1", f"models:/m-{'0' * 32}", f"runs:/{'0' * 32}/x"],
)
def test_what_is_not_there_is_bad_input(plain_server: Server, record: VersionRecord, uri: str) -> None:
    with pytest.raises(ConfigError, match=uri), local_checkpoint(uri, plain_server.uri):
        pass
    assert list(Path("reports").glob(".*")) == []


def test_a_part_of_a_run_that_is_not_there_is_bad_input(
    plain_server: Server, record: VersionRecord, client: MlflowClient
) -> None:
    run = client.create_run(client.get_experiment_by_name("invmm-gate").experiment_id).info.run_id
    with pytest.raises(ConfigError, match="holds no files"), local_checkpoint(f"runs:/{run}/x", plain_server.uri):
        pass


def test_a_registry_that_does_not_answer_says_nothing_of_the_model() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RegistryDownError) as error, local_checkpoint("models:/sourced/1", nobody):
        pass
    assert error.value.exit_code == INCONCLUSIVE


def test_a_check_of_a_version_that_is_not_there_ends_with_one_line(
    plain_server: Server, record: VersionRecord, desk: Desk
) -> None:
    command = [sys.executable, "-m", "invmm_gate", "check", "--model", "models:/sourced/99"]
    command += ["--policy", desk.passing.policy, "--probes", str(desk.world.probes), "--tracking-uri", plain_server.uri]
    environment = os.environ | SWITCHES
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (BAD_INPUT, "")
    assert done.stderr == (
        f"error: {plain_server.uri} has no models:/sourced/99; expected a version or an alias that the registry has\n"
    )


@pytest.mark.parametrize(
    "source",
    [
        "http://127.0.0.1:1/weights",
        "https://example.org/x",
        "s3://bucket/x",
        "file:///etc",
        "/etc",
        "mlflow-artifacts://elsewhere:80/1/models",
        "mlflow-artifacts:/1/../../etc",
        "mlflow-artifacts:/1/%2e%2e/etc",
        "runs:/../../etc",
        "dbfs:/x",
        "",
    ],
)
def test_no_source_leads_out_of_the_registrys_own_store(plain_server: Server, tmp_path: Path, source: str) -> None:
    made_up = VersionRecord(name="x", version="1", source=source, run_id=None)
    with pytest.raises(RegistryError):
        Registry(plain_server.uri).fetch(made_up.source, tmp_path / "files")
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("name", ["back\\slash.json", "bell\a.json", "MODEL_INDEX.json"])
def test_files_with_names_that_could_climb_or_collide_are_refused(
    plain_server: Server, desk: Desk, tmp_path: Path, new_name: Callable[[str], str], name: str
) -> None:
    registry = Registry(plain_server.uri)
    made = create_version(MEMORIZING, new_name("named"), registry, choices=desk.passing, progress=Silent())
    (stored,) = plain_server.artefacts.glob(f"*/models/{made.source.removeprefix('models:/')}/**/checkpoint")
    (stored / name).write_text("{}")
    with pytest.raises(RegistryError, match=r"called|collide"):
        registry.fetch(made.source, tmp_path / "files")
    assert not (tmp_path / "files").exists()


@given(st.lists(st.sampled_from(["a", "b", "..", ".", "", "c d", "\\", "\0", "%2e", " e", "é"]), max_size=4))
def test_a_path_is_safe_only_if_it_stays_below_its_folder(parts: list[str]) -> None:
    path = "/".join(parts)
    try:
        safe = safe_path(path)
    except RegistryError:
        assert not path or any(part in ("..", ".", "", "\\", "\0", "%2e", " e") for part in path.split("/"))
    else:
        inside = Path("/root") / safe
        assert inside.resolve().is_relative_to("/root")
        assert inside != Path("/root")


@pytest.mark.parametrize("paths", [["a/B", "a/b"], ["A/x", "a/y"], ["é", "e\u0301"], ["a", "a/b"], ["a", "A/b"]])
def test_names_that_some_file_system_would_mix_up_are_refused(paths: list[str]) -> None:
    with pytest.raises(RegistryError, match="collide"):
        refuse_collisions(paths)
    refuse_collisions(["a/b", "a/c", "d"])
