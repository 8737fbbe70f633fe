"""The guard on a real server: nobody promotes a version or claims a verdict without an attestation that holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException

from invmm_gate.errors import ConfigError
from invmm_gate.registry.guard_command import run_guarded_server
from invmm_gate.registry.guard_settings import settings_from
from invmm_gate.registry.names import RUN, STATE, VERDICT, VERDICT_TAGS, approved_alias
from invmm_gate.registry.register import Registered
from tests.registry.conftest import Desk
from tests.registry.servers import Server

REFUSED = "PERMISSION_DENIED: invmm-gate: "


@pytest.fixture(scope="module")
def client(guarded_server: Server) -> MlflowClient:
    """Anybody who may write to the registry."""
    return MlflowClient(tracking_uri=guarded_server.uri, registry_uri=guarded_server.uri)


@pytest.fixture
def ungated(client: MlflowClient, new_name: Callable[[str], str], blocked: Registered) -> str:
    """A model whose version 1 has the files of a blocked version, and no verdict."""
    name = new_name("ungated")
    source = client.get_model_version(blocked.name, blocked.version).source
    client.create_registered_model(name)
    client.create_model_version(name, source, model_id=source.removeprefix("models:/"))
    return name


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(RestException, match="invmm-gate") as error:
        act()
    assert str(error.value).startswith(REFUSED)
    assert error.value.get_http_status_code() == 403
    return str(error.value).removeprefix(REFUSED)


def test_a_version_that_passed_is_promoted_and_its_alias_points_at_a_copy_of_the_bytes(
    client: MlflowClient, passed: Registered
) -> None:
    assert (passed.decision, passed.exit_code, passed.delivered) == ("pass", 0, True)
    assert client.get_registered_model("passed-release").aliases == {
        "champion": "1",
        approved_alias(passed.model_digest): "1",
    }
    released = client.get_model_version("passed-release", "1")
    assert released.source != client.get_model_version("passed", "1").source
    assert released.tags[VERDICT] == released.tags[STATE] == "pass"
    assert client.get_registered_model("passed").aliases == {}


def test_a_blocked_version_says_so_and_moves_no_alias(client: MlflowClient, blocked: Registered) -> None:
    assert (blocked.decision, blocked.exit_code, blocked.released) == ("block", 10, None)
    tags = client.get_model_version("blocked", "1").tags
    assert tags[STATE] == tags[VERDICT] == "block"
    assert tags.keys() >= VERDICT_TAGS
    assert not client.search_registered_models("name = 'blocked-release'")


@pytest.mark.parametrize("alias", ["champion", "Champion", "production", "approved-0123456789ab"])
def test_a_protected_alias_cannot_be_set_by_hand_on_a_blocked_version(
    client: MlflowClient, blocked: Registered, alias: str
) -> None:
    reason = refused(lambda: client.set_registered_model_alias("blocked", alias, blocked.version))
    assert "verdict: block" in reason


def test_a_version_that_was_never_gated_gets_no_protected_alias(client: MlflowClient, ungated: str) -> None:
    assert "no attestation" in refused(lambda: client.set_registered_model_alias(ungated, "champion", "1"))
    client.set_registered_model_alias(ungated, "candidate", "1")


@pytest.mark.parametrize("prefix", ["/api/2.0", "/ajax-api/2.0"])
@pytest.mark.parametrize("version", ["1", "01", " 1", "1.0"])
def test_no_spelling_of_the_request_gets_past(guarded_server: Server, ungated: str, prefix: str, version: str) -> None:
    url = f"{guarded_server.uri}{prefix}/mlflow/registered-models/alias"
    answer = requests.post(url, json={"name": ungated, "alias": "champion", "version": version}, timeout=30)
    assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize("body", ["", "not json", "[]", '{"name": 1}', '{"name": "blocked", "alias": "champion"}'])
def test_a_request_that_cannot_be_read_is_refused(guarded_server: Server, blocked: Registered, body: str) -> None:
    url = f"{guarded_server.uri}/api/2.0/mlflow/registered-models/alias"
    answer = requests.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=30)
    assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize("stage", ["Production", "staging"])
def test_a_stage_is_no_way_around(client: MlflowClient, ungated: str, stage: str) -> None:
    with pytest.warns(FutureWarning):
        refused(lambda: client.transition_model_version_stage(ungated, "1", stage))


@pytest.mark.parametrize("key", [*sorted(VERDICT_TAGS), STATE, "Invmm.Verdict", "invmm.gate "])
def test_a_forged_verdict_tag_is_refused(client: MlflowClient, ungated: str, key: str) -> None:
    refused(lambda: client.set_model_version_tag(ungated, "1", key, "pass"))
    assert key not in client.get_model_version(ungated, "1").tags


def test_a_block_cannot_be_rewritten_or_deleted(client: MlflowClient, blocked: Registered) -> None:
    assert "block, as attested" in refused(lambda: client.set_model_version_tag("blocked", "1", VERDICT, "pass"))
    refused(lambda: client.delete_model_version_tag("blocked", "1", VERDICT))
    assert client.get_model_version("blocked", "1").tags[VERDICT] == "block"


def test_tags_that_are_no_verdict_can_be_set_by_anybody(client: MlflowClient, ungated: str) -> None:
    client.set_model_version_tag(ungated, "1", STATE, "pending")
    client.set_model_version_tag(ungated, "1", "team", "birds")
    client.delete_model_version_tag(ungated, "1", "team")
    assert client.get_model_version(ungated, "1").tags == {STATE: "pending"}


def test_a_copy_does_not_inherit_the_verdict(client: MlflowClient, passed: Registered) -> None:
    with pytest.raises(MlflowException, match=r"PERMISSION_DENIED: invmm-gate: tag .* claims a verdict"):
        client.copy_model_version(f"models:/{passed.name}/{passed.version}", "stolen")
    assert not client.search_model_versions("name = 'stolen'")


def test_a_verdict_cannot_be_brought_along_at_birth(client: MlflowClient, new_name: Callable[[str], str]) -> None:
    refused(lambda: client.create_registered_model(new_name("born"), tags={VERDICT: "pass"}))
    name = new_name("born")
    client.create_registered_model(name)
    refused(lambda: client.set_registered_model_tag(name, VERDICT, "pass"))


def test_the_attestation_of_another_model_does_not_help(
    client: MlflowClient, passed: Registered, ungated: str, guarded_server: Server
) -> None:
    """The pointer may be set by anybody: what it points at must hold for these very bytes."""
    other = client.get_model_version(passed.name, passed.version).tags[RUN]
    client.set_model_version_tag(ungated, "1", RUN, other)
    spoil(guarded_server, client.get_model_version(ungated, "1").source)
    try:
        assert "subject" in refused(lambda: client.set_registered_model_alias(ungated, "champion", "1"))
    finally:
        spoil(guarded_server, client.get_model_version(ungated, "1").source)


def test_a_version_whose_files_were_swapped_after_it_passed_is_refused(
    client: MlflowClient, passed: Registered, guarded_server: Server
) -> None:
    source = client.get_model_version("passed-release", "1").source
    spoil(guarded_server, source)
    try:
        assert "subject" in refused(lambda: client.set_registered_model_alias("passed-release", "production", "1"))
    finally:
        spoil(guarded_server, source)
    client.set_registered_model_alias("passed-release", "production", "1")
    client.delete_registered_model_alias("passed-release", "production")


def test_a_model_with_an_alias_cannot_be_renamed_into_a_protected_one(
    client: MlflowClient, passed: Registered, new_name: Callable[[str], str]
) -> None:
    name = new_name("renamed")
    client.rename_registered_model("passed-release", name)
    assert client.get_registered_model(name).aliases["champion"] == "1", "its version passed, so it may"
    client.rename_registered_model(name, "passed-release")


def test_reading_is_not_hindered(client: MlflowClient, passed: Registered, blocked: Registered) -> None:
    assert {model.name for model in client.search_registered_models()} >= {"passed", "blocked", "passed-release"}
    assert client.get_model_version_by_alias("passed-release", "champion").version == "1"


def spoil(server: Server, source: str) -> None:
    """Turn the last bit of the weights in the artefact store; a second time puts it back."""
    (weights,) = server.artefacts.glob(
        f"*/models/{source.removeprefix('models:/')}/**/diffusion_pytorch_model.safetensors"
    )
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


@pytest.mark.parametrize("missing", ["INVMM_GATE_GUARD_ROOTS", "INVMM_GATE_GUARD_POLICIES"])
def test_the_guard_does_not_start_without_roots_and_policies(desk: Desk, missing: str) -> None:
    settings = {"INVMM_GATE_GUARD_ROOTS": str(desk.key.public), "INVMM_GATE_GUARD_POLICIES": "strict"}
    assert settings_from(settings).protects("any-release", "CHAMPION")
    with pytest.raises(ConfigError, match=missing):
        settings_from(settings | {missing: ""})


def test_aliases_can_be_protected_for_some_models_only(desk: Desk) -> None:
    settings = settings_from(
        {
            "INVMM_GATE_GUARD_ROOTS": str(desk.key.public),
            "INVMM_GATE_GUARD_POLICIES": "strict,standard",
            "INVMM_GATE_GUARD_ALIASES": "*-release@champion, live",
        }
    )
    assert settings.protects("birds-release", "Champion")
    assert settings.protects("birds", "live")
    assert not settings.protects("birds", "champion")


@pytest.mark.parametrize(
    ("options", "changes", "match"),
    [
        (["--app-name", "basic-auth"], {}, "--app-name"),
        (["--app-name=basic-auth"], {}, "--app-name"),
        ([], {"roots": Path("missing.pub")}, "missing.pub"),
        ([], {"policies": ["nosuch"]}, "no policy named"),
        ([], {"policies": []}, "POLICIES"),
    ],
)
def test_the_command_starts_nothing_with_settings_that_cannot_be_used(
    desk: Desk, options: list[str], changes: dict[str, Any], match: str
) -> None:
    chosen = {"roots": desk.key.public, "policies": ["strict"], "aliases": ()} | changes
    with pytest.raises(ConfigError, match=match):
        run_guarded_server(options, **chosen)
