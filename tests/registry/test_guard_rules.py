"""The guard's rules on a real server's own stores: what a verdict must be, and what happens behind the guard's back."""

import datetime
import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.server import ARTIFACT_ROOT_ENV_VAR, ARTIFACTS_DESTINATION_ENV_VAR, SERVE_ARTIFACTS_ENV_VAR
from mlflow.server import app as mlflow_app
from mlflow.server.handlers import initialize_backend_stores

from invmm_gate.attest.keys import new_key_pair
from invmm_gate.core.errors import VerificationError
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.registry_names import VERDICT
from invmm_gate.registry.guard import stores
from invmm_gate.registry.guard.guard_app import create_app
from invmm_gate.registry.guard.guard_rules import Guard
from invmm_gate.registry.guard.guard_settings import settings_from
from invmm_gate.registry.guard.stores import RecentHashes
from invmm_gate.registry.promote.choices import terms_now
from invmm_gate.registry.promote.gate_version import Registered
from invmm_gate.registry.service.alias_audit import ByAttestation
from invmm_gate.registry.service.reconcile import Reconciler
from tests.registry.conftest import Desk
from tests.registry.door import sweeping
from tests.registry.servers import Server

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def client(guarded_server: Server) -> MlflowClient:
    return MlflowClient(tracking_uri=guarded_server.uri, registry_uri=guarded_server.uri)


@pytest.fixture(scope="module")
def _stores(guarded_server: Server) -> Iterator[None]:
    """This process takes part in the server, as one more of its workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ARTIFACT_ROOT_ENV_VAR, "mlflow-artifacts:/")
        patch.setenv(ARTIFACTS_DESTINATION_ENV_VAR, str(guarded_server.artefacts))
        patch.setenv(SERVE_ARTIFACTS_ENV_VAR, "true")
        uri = f"sqlite:///{guarded_server.disk}/server.db"
        initialize_backend_stores(uri, uri, "mlflow-artifacts:/")
        yield


@pytest.fixture
def guard(_stores: None, desk: Desk) -> Callable[..., Guard]:
    """A guard as it starts by default, with other settings, or at another time."""

    def made(*, now: datetime.datetime = NOW + DAY, **settings: object) -> Guard:
        given: dict[str, object] = {"ROOTS": desk.key.public, "POLICIES": desk.passing.policy} | settings
        environment = {f"INVMM_GATE_GUARD_{name}": str(value) for name, value in given.items()}
        return Guard(settings=settings_from(environment), now=lambda: now)

    return made


@pytest.fixture
def released(client: MlflowClient, passed: Registered, new_name: Callable[[str], str]) -> str:
    """A model whose version 1 is a copy of a release, attestation and all."""
    return release(client, new_name("released"))


def release(client: MlflowClient, name: str) -> str:
    source = client.get_model_version("passed-release", "1").source
    client.create_registered_model(name)
    client.create_model_version(name, source, model_id=source.removeprefix("models:/"))
    return name


def stored(server: Server, client: MlflowClient) -> Path:
    """The folder of the release's files in the server's artefact store."""
    source = client.get_model_version("passed-release", "1").source
    (checkpoint,) = server.artefacts.glob(f"*/models/{source.removeprefix('models:/')}/**/checkpoint")
    return checkpoint.parent


def wish(name: str, **fields: str) -> Any:
    return SimpleNamespace(**({"name": name, "alias": "champion", "version": "1"} | fields))


def test_a_release_that_holds_may_have_the_alias(guard: Callable[..., Guard], released: str) -> None:
    guard(MAX_AGE=2, MIN_PROBES=1, REFUSE_WAIVERS="true").set_alias(wish(released))()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"now": NOW + 400 * DAY}, "expiresAt"),
        ({"now": NOW + 3 * DAY, "MAX_AGE": 2}, "--max-age"),
        ({"MIN_PROBES": 99999}, "probe count"),
        ({"PROBE_SET_DIGEST": "0" * 64}, "probe-set digest"),
        ({"POLICIES": "strict"}, "policy digest"),
    ],
)
def test_a_verdict_that_is_not_what_the_guard_demands_promotes_nothing(
    guard: Callable[..., Guard], released: str, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(VerificationError, match=says):
        guard(**settings).set_alias(wish(released))
    with pytest.raises(VerificationError, match=says):
        guard(**settings).transition_stage(wish(released, stage="Production"))


def test_a_verdict_by_another_key_promotes_nothing(guard: Callable[..., Guard], released: str, tmp_path: Path) -> None:
    other = new_key_pair(tmp_path / "other")
    with pytest.raises(VerificationError, match="signature"):
        guard(ROOTS=other.public).set_alias(wish(released))


def test_a_revoked_verdict_counts_no_more_from_the_moment_it_is_listed(
    guard: Callable[..., Guard], guarded_server: Server, client: MlflowClient, released: str, tmp_path: Path
) -> None:
    revoked = tmp_path / "revoked.yaml"
    revoked.write_text("[]\n")
    running = guard(REVOKED=revoked)
    running.set_alias(wish(released))
    running.set_version_tag(wish(released, key=VERDICT, value="pass"))
    digest = hashlib.sha256((stored(guarded_server, client) / "attestation.json").read_bytes()).hexdigest()
    revoked.write_text(f"- {{verdict: {digest}, reason: the probes were wrong}}\n")
    with pytest.raises(VerificationError, match="the probes were wrong"):
        running.set_alias(wish(released))
    with pytest.raises(VerificationError, match="the probes were wrong"):
        running.set_version_tag(wish(released, key=VERDICT, value="pass"))


@pytest.fixture(params=["model.safetensors", "MLmodel", "unet/config.json"])
def beside(
    request: pytest.FixtureRequest, guarded_server: Server, client: MlflowClient, passed: Registered
) -> Iterator[str]:
    """A file beside the checkpoint, which is what who loads `models:/x@champion` would get."""
    name = str(request.param)
    path = stored(guarded_server, client) / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    yield name
    path.unlink()


def test_nothing_that_is_not_attested_lies_beside_what_is_promoted(
    guard: Callable[..., Guard], released: str, beside: str
) -> None:
    with pytest.raises(VerificationError, match=f"1 files that are not attested lie beside .*{beside}"):
        guard().set_alias(wish(released))


def enforcing(server: Server, desk: Desk, tmp_path: Path, name: str) -> Reconciler:
    """A sweep that takes aliases away, over one model."""
    registry = Registry(server.uri)
    roots = settings_from(
        {"INVMM_GATE_GUARD_ROOTS": str(desk.key.public), "INVMM_GATE_GUARD_POLICIES": desk.passing.policy}
    )
    doubts = ByAttestation(registry, roots.demands, scratch=tmp_path / "scratch")
    state, terms = tmp_path / "state", partial(terms_now, desk.passing)
    found: Reconciler = sweeping(registry, state, names=[name], doubts=doubts, terms=terms, enforce=True)
    return found


def test_the_sweep_takes_the_alias_from_a_version_with_files_beside(
    guarded_server: Server, client: MlflowClient, desk: Desk, tmp_path: Path, released: str
) -> None:
    client.set_registered_model_alias(released, "champion", "1")
    sweep = enforcing(guarded_server, desk, tmp_path, released)
    assert not [alert for alert in sweep.once().alerts if alert.record.name == released]
    extra = stored(guarded_server, client) / "model.safetensors"
    extra.write_text("{}")
    try:
        (alert,) = enforcing(guarded_server, desk, tmp_path, released).once().alerts
    finally:
        extra.unlink()
    assert (alert.alias, alert.removed, "not attested" in alert.reason) == ("champion", True, True)
    assert client.get_registered_model(released).aliases == {}


def test_a_fault_of_the_machine_that_sweeps_takes_no_alias_away(
    guarded_server: Server, client: MlflowClient, desk: Desk, tmp_path: Path, released: str
) -> None:
    client.set_registered_model_alias(released, "champion", "1")
    (tmp_path / "scratch").write_text("no folder can be made here")
    (alert,) = enforcing(guarded_server, desk, tmp_path, released).once().alerts
    assert alert.reason.startswith("cannot be checked now: ")
    assert not alert.removed
    assert client.get_registered_model(released).aliases == {"champion": "1"}


def test_a_verdict_that_ends_after_its_files_were_hashed_is_an_alert_at_the_next_pass(
    guarded_server: Server, client: MlflowClient, desk: Desk, tmp_path: Path, released: str
) -> None:
    client.set_registered_model_alias(released, "champion", "1")
    revoked = tmp_path / "revoked.yaml"
    revoked.write_text("[]\n")
    registry = Registry(guarded_server.uri)
    settings = settings_from(
        {
            "INVMM_GATE_GUARD_ROOTS": str(desk.key.public),
            "INVMM_GATE_GUARD_POLICIES": desk.passing.policy,
            "INVMM_GATE_GUARD_REVOKED": str(revoked),
        }
    )
    doubts = ByAttestation(registry, settings.demands, scratch=tmp_path / "scratch")
    record = registry.version(released, "1")
    assert record is not None
    assert doubts.of_alias(record) == ""
    digest = hashlib.sha256((stored(guarded_server, client) / "attestation.json").read_bytes()).hexdigest()
    revoked.write_text(f"- {{verdict: {digest}, reason: the probes were wrong}}\n")
    assert "the probes were wrong" in doubts.of_alias(record)


def make_again(client: MlflowClient, name: str) -> None:
    """The model anew under its name, with a version 1 of other files."""
    client.delete_registered_model(name)
    client.create_registered_model(name)
    source = client.get_model_version("blocked", "1").source
    client.create_model_version(name, source, model_id=source.removeprefix("models:/"))


@pytest.fixture(scope="module")
def door(_stores: None, desk: Desk) -> Iterator[list[Callable[[], None]]]:
    """The guarded app in this process; what is put into the list happens between the guard's look and MLflow's act."""
    meanwhile: list[Callable[[], None]] = []

    def act() -> None:
        while meanwhile:
            meanwhile.pop()()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVMM_GATE_GUARD_ROOTS", str(desk.key.public))
        patch.setenv("INVMM_GATE_GUARD_POLICIES", desk.passing.policy)
        create_app()
        mlflow_app.before_request(act)
        yield meanwhile


def post(route: str, **fields: str) -> tuple[int, str]:
    answer = mlflow_app.test_client().post(f"/api/2.0/mlflow/{route}", json=fields)
    return answer.status_code, str(answer.get_json().get("message", ""))


def test_a_version_that_is_made_anew_while_it_is_hashed_does_not_keep_the_alias(
    door: list[Callable[[], None]], client: MlflowClient, blocked: Registered, released: str
) -> None:
    door.append(lambda: make_again(client, released))
    status, message = post("registered-models/alias", name=released, alias="champion", version="1")
    assert (status, "was replaced while its files were hashed" in message) == (403, True), message
    assert client.get_registered_model(released).aliases == {}


def test_a_version_that_is_made_anew_keeps_neither_stage_nor_tag(
    door: list[Callable[[], None]], client: MlflowClient, blocked: Registered, released: str
) -> None:
    door.append(lambda: make_again(client, released))
    stage = {"stage": "Production", "archive_existing_versions": "false"}
    assert post("model-versions/transition-stage", name=released, version="1", **stage)[0] == 403
    assert client.get_model_version(released, "1").current_stage == "None"
    client.delete_registered_model(released)
    release(client, released)
    door.append(lambda: make_again(client, released))
    assert post("model-versions/set-tag", name=released, version="1", key=VERDICT, value="pass")[0] == 403
    assert client.get_model_version(released, "1").tags == {}


def test_an_alias_that_is_set_while_its_model_is_renamed_into_a_release_does_not_stay(
    door: list[Callable[[], None]], client: MlflowClient, blocked: Registered, released: str
) -> None:
    source = client.get_model_version("blocked", "1").source
    client.create_model_version(released, source, model_id=source.removeprefix("models:/"))
    client.set_registered_model_alias(released, "live", "1")
    door.append(lambda: client.set_registered_model_alias(released, "other", "2"))
    status, _ = post("registered-models/rename", name=released, new_name=f"{released}-release")
    assert status == 403
    assert client.get_registered_model(f"{released}-release").aliases == {"live": "1"}


def test_what_is_promoted_in_the_ordinary_way_stays(
    door: list[Callable[[], None]], client: MlflowClient, released: str
) -> None:
    assert post("registered-models/alias", name=released, alias="champion", version="1") == (200, "")
    assert client.get_registered_model(released).aliases == {"champion": "1"}


def test_the_tags_of_one_verdict_cost_one_look_at_the_files(
    guarded_server: Server, client: MlflowClient, passed: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, hashed = stored(guarded_server, client) / "checkpoint", []

    def counted(path: Path, *, weights: Any) -> Any:
        hashed.append(path)
        return inspect_checkpoint(path, weights=weights)

    monkeypatch.setattr(stores, "inspect_checkpoint", counted)
    monkeypatch.setattr(stores, "_SETTLED", -1.0)
    recent = RecentHashes()
    first = recent.inspected(checkpoint, weights=None)
    assert recent.inspected(checkpoint, weights=None) == first
    assert len(hashed) == 1
    weights = next(checkpoint.rglob("*.safetensors"))
    data, times = weights.read_bytes(), weights.stat()
    try:
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert recent.inspected(checkpoint, weights=None).digest != first.digest, "size and mtime are as before"
    finally:
        weights.write_bytes(data)
