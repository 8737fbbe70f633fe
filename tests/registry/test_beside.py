"""A version is judged by its checkpoint only where nothing else lies there that its consumers would load."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from invmm_gate.cli import run
from invmm_gate.core.errors import ModelError
from invmm_gate.core.options import GateChoices
from invmm_gate.core.progress import Silent
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.registry.client.artefacts import checkpoint_in
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.registry_names import REASON, RUN, STATE, VERDICT, VERDICT_TAGS
from invmm_gate.registry.client.registry_uri import local_checkpoint
from invmm_gate.registry.promote.gate_version import Registered, gate_version
from invmm_gate.registry.service.gate_process import Outcome, read_outcome
from tests.registry.conftest import Desk
from tests.registry.servers import Server
from tests.stages.world import MEMORIZING

OTHER = MEMORIZING.with_name("clean")
EXTERNAL = "flavors: {}\nmlflow_version: 3.17.2\nutc_time_created: '2026-11-22 17:00:00.000000'\n"


@pytest.mark.parametrize(
    ("names", "checkpoint"),
    [
        (["model_index.json", "unet/config.json", "README.md"], ""),
        (["checkpoint/model_index.json", "checkpoint/unet/config.json"], "checkpoint"),
        (["checkpoint/model_index.json", "attestation.json"], "checkpoint"),
        (["checkpoint/model_index.json", "MLmodel"], "checkpoint"),
        (["bird.safetensors", "bird.config.json", "bird.scheduler_config.json"], "bird.safetensors"),
        (["bird.safetensors", "bird/model_index.json", "bird/unet/config.json"], "bird.safetensors"),
        (["checkpoint/bird.safetensors", "checkpoint/bird.config.json"], "checkpoint/bird.safetensors"),
        (["config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json"], ""),
    ],
)
def test_a_version_that_holds_a_checkpoint_alone_is_judged_by_it(
    tmp_path: Path, names: list[str], checkpoint: str
) -> None:
    assert checkpoint_in(files_in(tmp_path, names)) == tmp_path / checkpoint


@pytest.mark.parametrize(
    ("names", "beside"),
    [
        (["checkpoint/model_index.json", "model_index.json", "unet/config.json"], "model_index.json"),
        (["checkpoint/model_index.json", "model.ckpt"], "model.ckpt"),
        (["checkpoint/model_index.json", "sub/attestation.json"], "sub/attestation.json"),
        (["checkpoint/bird.safetensors", "checkpoint/model.ckpt"], "checkpoint/model.ckpt"),
        (["bird.safetensors", "bird.config.json", "unet/config.json"], "unet/config.json"),
        (["bird.safetensors", "owl.config.json"], "owl.config.json"),
        (["bird.safetensors", "model.ckpt"], "model.ckpt"),
    ],
)
def test_what_lies_beside_a_checkpoint_is_named(tmp_path: Path, names: list[str], beside: str) -> None:
    with pytest.raises(ModelError, match=f"beside the checkpoint, '{beside}'") as error:
        checkpoint_in(files_in(tmp_path, names))
    assert "invmm-gate register" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "description",
    ["", "{}", "flavors:\n  python_function:\n    loader_module: elsewhere\n", "flavors: {}\nflavors: {a: {}}\n"],
)
def test_a_description_by_which_mlflow_could_load_something_else_does_not_lie_beside(
    tmp_path: Path, description: str
) -> None:
    files_in(tmp_path, ["checkpoint/model_index.json"])
    (tmp_path / "MLmodel").write_text(description)
    with pytest.raises(ModelError, match="'MLmodel'"):
        checkpoint_in(tmp_path)


def files_in(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(EXTERNAL if name == "MLmodel" else "{}")
    return folder


@pytest.fixture
def client(plain_server: Server) -> MlflowClient:
    return MlflowClient(tracking_uri=plain_server.uri, registry_uri=plain_server.uri)


@pytest.fixture(params=["checkpoint", "single"])
def two_models(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of two models: the gate knew one of them as the checkpoint, who loads the folder gets the other."""
    folder = tmp_path / "two"
    shutil.copytree(MEMORIZING, folder)
    if request.param == "checkpoint":
        shutil.copytree(OTHER, folder / "checkpoint")
    else:
        (folder / "model_index.json").unlink()
        shutil.copy(OTHER / "unet" / "diffusion_pytorch_model.safetensors", folder / "other.safetensors")
        shutil.copy(OTHER / "unet" / "config.json", folder / "other.config.json")
        shutil.copy(OTHER / "scheduler" / "scheduler_config.json", folder / "other.scheduler_config.json")
    return folder


def logged(client: MlflowClient, folder: Path) -> str:
    """The folder as artefacts of a run, as a user of plain MLflow logs it."""
    run_id = client.create_run("0").info.run_id
    client.log_artifacts(run_id, str(folder), "model")
    return f"runs:/{run_id}/model"


def version_of(client: MlflowClient, name: str, source: str) -> str:
    client.create_registered_model(name)
    kind, _, rest = source.partition(":/")
    origin = {"run_id": rest.split("/")[0]} if kind == "runs" else {"model_id": rest}
    client.create_model_version(name, source, await_creation_for=0, **origin)
    return f"models:/{name}/1"


def test_a_check_of_two_models_under_one_uri_is_bad_input_and_names_what_lies_beside(
    client: MlflowClient,
    plain_server: Server,
    mine: GateChoices,
    two_models: Path,
    new_name: Callable[[str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = logged(client, two_models)
    for uri in (source, version_of(client, new_name("two"), source)):
        options = ("--policy", mine.policy, "--probes", str(mine.probes), "--out", str(tmp_path / "run"), "--no-track")
        assert run(["check", "--model", uri, "--tracking-uri", plain_server.uri, *options, "--quiet"]) == 2
        said = capsys.readouterr().err
        assert "lie beside the checkpoint, " in said
        assert "unet/" in said
        assert not (tmp_path / "run").exists()


def test_a_version_of_two_models_gets_no_verdict_and_says_why(
    client: MlflowClient,
    plain_server: Server,
    mine: GateChoices,
    two_models: Path,
    new_name: Callable[[str], str],
    tmp_path: Path,
) -> None:
    name, told = new_name("two"), tmp_path / "told.json"
    version_of(client, name, logged(client, two_models))
    options = ("--policy", mine.policy, "--probes", str(mine.probes), "--runs", str(mine.runs), "--key", str(mine.key))
    code = run(
        ["registry", "gate", name, "1", "--tracking-uri", plain_server.uri, *options, "--quiet", "--outcome", str(told)]
    )
    assert (code, read_outcome(told, code)) == (2, Outcome(name="bad_input"))
    tags = client.get_model_version(name, "1").tags
    assert (tags[STATE], VERDICT_TAGS & tags.keys()) == ("error", set())
    assert "lie beside the checkpoint" in tags[REASON]


def test_the_guard_lets_nobody_claim_a_verdict_for_one_of_two_models(
    guarded_server: Server, passed: Registered, two_models: Path, new_name: Callable[[str], str], tmp_path: Path
) -> None:
    """The attestation of the model that passed, named by a tag, covers a version of it alone and none with more."""
    client = MlflowClient(tracking_uri=guarded_server.uri, registry_uri=guarded_server.uri)
    proof, name, alone = client.get_model_version("passed", "1").tags[RUN], new_name("two"), new_name("alone")
    both, single = tmp_path / "both", tmp_path / "single"
    for folder in (both, single):
        shutil.copytree(MEMORIZING, folder / "checkpoint")
    shutil.copytree(two_models, both / "more")
    for model, folder in ((name, both), (alone, single)):
        version_of(client, model, logged(client, folder))
        client.set_model_version_tag(model, "1", RUN, proof)
    client.set_model_version_tag(alone, "1", VERDICT, "pass")
    with pytest.raises(MlflowException, match=r"PERMISSION_DENIED: invmm-gate: .* beside the checkpoint, 'more/"):
        client.set_model_version_tag(name, "1", VERDICT, "pass")
    assert VERDICT not in client.get_model_version(name, "1").tags


def test_what_a_user_of_plain_mlflow_registers_is_gated(
    client: MlflowClient,
    plain_server: Server,
    mine: GateChoices,
    desk: Desk,
    new_name: Callable[[str], str],
    tmp_path: Path,
) -> None:
    """A diffusers folder as artefacts of a run, and a logged model that has the MLmodel of one stored elsewhere."""
    registry, folder = Registry(plain_server.uri), tmp_path / "model"
    shutil.copytree(desk.world.model, folder / "checkpoint")
    Model(artifact_path="model").save(folder / "MLmodel")
    made = client.create_logged_model("0", name="model")
    client.log_model_artifacts(made.model_id, str(folder))
    client.finalize_logged_model(made.model_id, "READY")
    for source in (logged(client, desk.world.model), f"models:/{made.model_id}"):
        name = new_name("plain")
        version_of(client, name, source)
        for uri in (source, f"models:/{name}/1"):
            with local_checkpoint(uri, plain_server.uri) as path:
                assert inspect_checkpoint(path).digest == inspect_checkpoint(desk.world.model).digest
        done = gate_version(registry, name, "1", choices=mine, progress=Silent())
        assert (done.outcome, done.exit_code) == ("pass", 0)
