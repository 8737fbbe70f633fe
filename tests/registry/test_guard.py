"""The guard on a real server: nobody promotes a version or claims a verdict without an attestation that holds."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.options import Conditions, GateChoices
from invmm_gate.core.progress import Silent
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.registry_names import (
    LOG_ENTRY,
    POSING,
    RUN,
    STATE,
    VERDICT,
    VERDICT_TAGS,
    approved_alias,
    folded,
    is_log_entry,
)
from invmm_gate.registry.guard.guard_settings import run_guarded_server, settings_from, variables
from invmm_gate.registry.promote.choices import log_of
from invmm_gate.registry.promote.gate_version import Registered, gate_version, register
from invmm_gate.stages.audit_file import verify_log
from tests.registry.conftest import Desk
from tests.registry.servers import SWITCHES, Server, free_port

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


@pytest.mark.parametrize("alias", ["chámpion", "ｃhampion", "champıon", "champion\n", "bewährt", "学習"])
@pytest.mark.parametrize("name", ["blocked", "passed-release"])
def test_an_alias_that_a_database_may_take_for_another_is_given_to_nothing(
    client: MlflowClient, blocked: Registered, passed: Registered, name: str, alias: str
) -> None:
    """MySQL and SQL Server, as they come, take these for `champion`, or for one another."""
    before = client.get_registered_model(name).aliases
    reason = refused(lambda: client.set_registered_model_alias(name, alias, "1"))
    assert reason == f"alias {alias!a}; expected letters of ASCII, digits, dashes and underscores"
    assert client.get_registered_model(name).aliases == before


@pytest.mark.parametrize(
    "ending", ["-releáse", "-ｒelease", "-Rᴇlease", "-release\u200b", "-release ", "-relea\u017fe"]
)
def test_a_model_that_a_database_may_take_for_a_release_is_guarded_as_one(
    client: MlflowClient, ungated: str, new_name: Callable[[str], str], ending: str
) -> None:
    name = f"{new_name('lookalike')}{ending}"
    client.set_registered_model_alias(ungated, "live", "1")
    assert "there is no attestation" in refused(lambda: client.rename_registered_model(ungated, name))
    client.delete_registered_model_alias(ungated, "live")
    client.rename_registered_model(ungated, name)
    assert "there is no attestation" in refused(lambda: client.set_registered_model_alias(name, "live", "1"))


def test_other_scripts_in_names_and_tags_are_let_through(
    client: MlflowClient, ungated: str, new_name: Callable[[str], str]
) -> None:
    name = f"{new_name('Vögel')} 学習 größe"
    client.rename_registered_model(ungated, name)
    client.set_registered_model_alias(name, "candidate", "1")
    client.set_model_version_tag(name, "1", "größe", "32")
    client.set_model_version_tag(name, "1", "学習", "x")
    assert client.get_model_version(name, "1").tags == {"größe": "32", "学習": "x"}


def test_a_version_that_was_never_gated_gets_no_protected_alias(client: MlflowClient, ungated: str) -> None:
    assert "no attestation" in refused(lambda: client.set_registered_model_alias(ungated, "champion", "1"))
    client.set_registered_model_alias(ungated, "candidate", "1")


def asked_for(server: Server, prefix: str, **wish: str) -> tuple[int, str]:
    """Status and message of a request for an alias."""
    url = f"{server.uri}{prefix}/mlflow/registered-models/alias"
    answer = requests.post(url, json=wish, timeout=120)
    return answer.status_code, answer.json().get("message", "")


@pytest.mark.parametrize("prefix", ["/api/2.0", "/ajax-api/2.0"])
def test_no_route_gets_past(guarded_server: Server, ungated: str, prefix: str) -> None:
    status, message = asked_for(guarded_server, prefix, name=ungated, alias="champion", version="1")
    assert (status, "there is no attestation" in message) == (403, True), message


@pytest.mark.parametrize("version", ["01", " 1", "1.0", "٣"])
def test_a_version_that_passed_has_one_spelling(guarded_server: Server, passed: Registered, version: str) -> None:
    """A database may take them for version 1, and what was judged would not be what the alias points at."""
    status, message = asked_for(guarded_server, "/api/2.0", name="passed-release", alias="production", version=version)
    assert status == 403
    assert "a number, as the registry gives them" in message or "has no version" in message


@pytest.mark.parametrize("body", ["", "not json", "[]", '{"name": 1}', '{"name": "blocked", "alias": "champion"}'])
def test_a_request_that_cannot_be_read_is_refused(guarded_server: Server, blocked: Registered, body: str) -> None:
    url = f"{guarded_server.uri}/api/2.0/mlflow/registered-models/alias"
    answer = requests.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=120)
    assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize("stage", ["Production", "staging"])
def test_a_stage_is_no_way_around(client: MlflowClient, ungated: str, stage: str) -> None:
    with pytest.warns(FutureWarning):
        refused(lambda: client.transition_model_version_stage(ungated, "1", stage))


ENTRY = f"{LOG_ENTRY}.0123456789ab"
LOOKALIKES = ["invmm.ｇate", "invmm.verdíct", "ınvmm.gate", "invmm.gate\n", "in\u00advmm.gate", f"{ENTRY[:-1]}ｂ"]
HEAD = f"7:{'ab' * 32}"


@pytest.mark.parametrize(
    "key", [*sorted(VERDICT_TAGS), STATE, ENTRY, "Invmm.Verdict", "invmm.gate ", ENTRY.upper(), *LOOKALIKES]
)
def test_a_forged_verdict_tag_is_refused(client: MlflowClient, ungated: str, key: str) -> None:
    refused(lambda: client.set_model_version_tag(ungated, "1", key, "pass"))
    assert key not in client.get_model_version(ungated, "1").tags


@pytest.mark.parametrize("key", LOOKALIKES)
def test_a_tag_that_a_database_may_take_for_one_of_a_verdict_is_neither_set_nor_deleted(
    client: MlflowClient, blocked: Registered, new_name: Callable[[str], str], key: str
) -> None:
    before = client.get_model_version("blocked", "1").tags
    assert "spelled so" in refused(lambda: client.set_model_version_tag("blocked", "1", key, "pending"))
    assert "spelled so" in refused(lambda: client.delete_model_version_tag("blocked", "1", key))
    assert "spelled so" in refused(lambda: client.create_registered_model(new_name("born"), tags={key: "pass"}))
    assert client.get_model_version("blocked", "1").tags == before


@pytest.mark.parametrize("value", ["PASS", "Pass", "pass ", "ok", "inconclusive"])
def test_the_state_of_an_ungated_version_cannot_be_read_as_a_verdict(
    client: MlflowClient, ungated: str, value: str
) -> None:
    refused(lambda: client.set_model_version_tag(ungated, "1", STATE, value))
    for free in ("pending", "running", "error"):
        client.set_model_version_tag(ungated, "1", STATE, free)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("x-release", "x-release"),
        ("Ｘ-ReLéAſe \t", "x-release"),
        ("ø ł đ ı ß ᴇ", "o l d i s e"),
        ("Æther œuvre ﬁn", "aether oeuvre fin"),
        ("in\u00advmm\u200b.\x00gate🙂", "invmm.gate"),
        ("学習", ""),
    ],
)
def test_folded_text_is_what_loosely_comparing_databases_take_it_for(text: str, plain: str) -> None:
    assert folded(text) == folded(plain) == plain


def test_a_model_cannot_be_hidden_among_the_prompts(
    guarded_server: Server, client: MlflowClient, ungated: str, new_name: Callable[[str], str]
) -> None:
    """One version with MLflow's tag of prompts hides all versions of its model from MLflow's lists."""
    refused(lambda: client.set_model_version_tag(ungated, "1", POSING, "true"))
    refused(lambda: client.set_model_version_tag(ungated, "1", POSING.upper(), "true"))
    refused(lambda: client.set_registered_model_tag(ungated, POSING, "true"))
    born = {"name": ungated, "source": "dummy-source", "tags": [{"key": POSING, "value": "true"}]}
    answer = requests.post(f"{guarded_server.uri}/api/2.0/mlflow/model-versions/create", json=born, timeout=120)
    assert (answer.status_code, "invmm-gate" in answer.json()["message"]) == (403, True)
    assert [found.version for found in client.search_model_versions(f"name = '{ungated}'")] == ["1"]
    prompt = new_name("prompt")
    client.register_prompt(prompt, "Hello {{name}}")
    assert client.register_prompt(prompt, "Good day {{name}}").version == 2


@pytest.mark.parametrize("run", ["garbage", "0" * 32, f"{'0' * 32}/../..", "runs:/x"])
def test_a_pointer_that_leads_nowhere_is_no_attestation(client: MlflowClient, ungated: str, run: str) -> None:
    client.set_model_version_tag(ungated, "1", RUN, run)
    assert "there is no attestation" in refused(lambda: client.set_registered_model_alias(ungated, "champion", "1"))


def test_a_block_cannot_be_rewritten_or_deleted(client: MlflowClient, blocked: Registered) -> None:
    assert "block, as attested" in refused(lambda: client.set_model_version_tag("blocked", "1", VERDICT, "pass"))
    refused(lambda: client.delete_model_version_tag("blocked", "1", VERDICT))
    assert client.get_model_version("blocked", "1").tags[VERDICT] == "block"


def entries(client: MlflowClient, name: str, version: str = "1") -> dict[str, str]:
    """What the tags of a version say of the audit log."""
    tags: dict[str, str] = client.get_model_version(name, version).tags
    return {key: value for key, value in tags.items() if is_log_entry(key)}


def test_the_logs_head_stands_beside_a_verdict_and_beside_its_release_and_stays(
    client: MlflowClient, passed: Registered, desk: Desk
) -> None:
    said = entries(client, "passed")
    assert entries(client, "passed-release") == said
    ((key, head),) = said.items()
    verify_log(log_of(desk.passing), head=head)
    later = f"{int(head.partition(':')[0]) + 1}:{'0' * 64}"
    for name in ("passed", "passed-release"):
        assert "has already" in refused(lambda name=name: client.set_model_version_tag(name, "1", key, later))
        refused(lambda name=name: client.delete_model_version_tag(name, "1", key))
        refused(lambda name=name: client.set_model_version_tag(name, "1", ENTRY, later))
        client.set_model_version_tag(name, "1", key, head)
        assert entries(client, name) == said


@pytest.mark.parametrize("value", ["", "7", HEAD.upper(), f"{HEAD}0", f"0{HEAD}", "0:", f"{HEAD}\n"])
def test_what_can_be_no_head_is_not_said_of_the_log(
    client: MlflowClient, passed: Registered, ungated: str, value: str
) -> None:
    """The version has the attestation of the same bytes as another, and so the right to name the log once."""
    client.set_model_version_tag(ungated, "1", RUN, client.get_model_version("passed", "1").tags[RUN])
    (key,) = entries(client, "passed")
    refused(lambda: client.set_model_version_tag(ungated, "1", key, value))
    assert entries(client, ungated) == {}


def test_a_version_that_is_gated_again_keeps_both_heads_and_by_another_machines_log_too(
    guarded_server: Server,
    client: MlflowClient,
    desk: Desk,
    mine: GateChoices,
    new_name: Callable[[str], str],
    tmp_path: Path,
) -> None:
    registry, name = Registry(guarded_server.uri), new_name("again")
    register(desk.world.model, name, registry, choices=mine, progress=Silent())
    first, other = entries(client, name), desk.at(tmp_path / "another-machine").blocking
    done = gate_version(registry, name, "1", choices=other, progress=Silent())
    both = entries(client, name)
    assert (done.decision, done.delivered, len(both)) == ("block", True, 2)
    assert first.items() < both.items()
    assert [value.partition(":")[0] for key, value in both.items() if key not in first] == ["1"]
    for log, head in ((log_of(mine), first), (log_of(other), dict(both.items() - first.items()))):
        verify_log(log, head=next(iter(head.values())))


def test_a_release_that_is_made_again_has_the_logs_head_too(
    guarded_server: Server,
    client: MlflowClient,
    desk: Desk,
    mine: GateChoices,
    new_name: Callable[[str], str],
    tmp_path: Path,
) -> None:
    """By a machine whose own log has no such line the tag of the candidate is believed, as the guard kept it."""
    registry, name = Registry(guarded_server.uri), new_name("remade")
    register(desk.world.model, name, registry, choices=mine, progress=Silent())
    said = entries(client, name)
    for number, choices in enumerate((mine, desk.at(tmp_path / "another-machine").passing)):
        client.delete_registered_model(f"{name}-release")
        again = gate_version(registry, name, "1", choices=choices, progress=Silent())
        assert (again.run, again.exit_code) == ("", 0), number
        assert entries(client, f"{name}-release") == said


def test_tags_that_are_no_verdict_can_be_set_by_anybody(client: MlflowClient, ungated: str) -> None:
    client.set_model_version_tag(ungated, "1", STATE, "pending")
    client.set_model_version_tag(ungated, "1", "team", "birds")
    client.delete_model_version_tag(ungated, "1", "team")
    assert client.get_model_version(ungated, "1").tags == {STATE: "pending"}


def test_a_copy_does_not_inherit_the_verdict(client: MlflowClient, passed: Registered) -> None:
    with pytest.raises(MlflowException, match=r"PERMISSION_DENIED: invmm-gate: tag .* claims a verdict"):
        client.copy_model_version(f"models:/{passed.name}/{passed.version}", "stolen")
    assert not client.search_model_versions("name = 'stolen'")


def test_a_verdict_cannot_be_brought_along_at_birth(
    guarded_server: Server, client: MlflowClient, new_name: Callable[[str], str]
) -> None:
    refused(lambda: client.create_registered_model(new_name("born"), tags={VERDICT: "pass"}))
    name = new_name("born")
    client.create_registered_model(name)
    refused(lambda: client.set_registered_model_tag(name, VERDICT, "pass"))
    refused(lambda: client.set_registered_model_tag(name, ENTRY, HEAD))
    born_logged = {"name": name, "source": "models:/m-1", "tags": [{"key": ENTRY, "value": HEAD}]}
    answer = requests.post(f"{guarded_server.uri}/api/2.0/mlflow/model-versions/create", json=born_logged, timeout=120)
    assert (answer.status_code, "claims a verdict" in answer.json()["message"]) == (403, True)


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
    client: MlflowClient, passed: Registered, ungated: str, new_name: Callable[[str], str]
) -> None:
    name = new_name("renamed")
    client.set_registered_model_alias(ungated, "live", "1")
    assert "there is no attestation" in refused(lambda: client.rename_registered_model(ungated, f"{name}-release"))
    assert client.get_registered_model(ungated).aliases == {"live": "1"}
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
    assert settings_from(settings).protects("any", "CHAMPION")
    assert settings_from(settings).protects("any-release", "live"), "whatever `--alias` the gate was given"
    assert not settings_from(settings).protects("any", "live")
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


def test_a_pattern_that_a_database_may_take_for_another_protects_both(desk: Desk) -> None:
    settings = settings_from(
        {
            "INVMM_GATE_GUARD_ROOTS": str(desk.key.public),
            "INVMM_GATE_GUARD_POLICIES": "strict",
            "INVMM_GATE_GUARD_ALIASES": "Geprüft",
        }
    )
    assert settings.protects("birds", "gepruft"), "by which a database may find the alias that was protected"


def test_what_else_a_verdict_must_be_reaches_the_server_and_its_demands(desk: Desk) -> None:
    conditions = Conditions(
        min_probes=3, probe_set_digest="0" * 64, image_size="512x768", refuse_chosen_seed=True, max_attempts=2
    )
    required = {"INVMM_GATE_GUARD_ROOTS": str(desk.key.public), "INVMM_GATE_GUARD_POLICIES": "strict"}
    demands = settings_from(required | variables(conditions)).demands()
    assert (demands.min_probes, demands.probe_set_digest) == (3, "0" * 64)
    assert (demands.image_size, demands.allow_chosen_seed, demands.max_attempts) == ((512, 768), False, 2)
    nothing = settings_from(required | variables(Conditions())).demands()
    assert (nothing.image_size, nothing.allow_chosen_seed, nothing.max_attempts) == (None, True, None)


def started(desk: Desk, options: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as somebody gives it; it has to end by itself."""
    command = [sys.executable, "-m", "invmm_gate", "registry", "guard", "--policy", "strict"]
    command += ["--roots", str(desk.key.public), "--", "--port", str(free_port()), "--workers", "2", *options]
    environment = os.environ | SWITCHES | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("options", "environment"), [([], "true"), (["--disable-workspaces", "--enable-workspaces"], "false")]
)
def test_a_guard_that_cannot_start_says_so_once_and_ends(desk: Desk, options: list[str], environment: str) -> None:
    """Left to MLflow, each worker would end, and be started again, without end."""
    done = started(desk, options, MLFLOW_ENABLE_WORKSPACES=environment)
    said = "error: the guard cannot start: MLFLOW_ENABLE_WORKSPACES is on; expected a server without workspaces\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_workspaces_that_an_option_switches_off_keep_no_guard_from_starting(desk: Desk) -> None:
    done = started(desk, ["--disable-workspaces", "--nonsense"], MLFLOW_ENABLE_WORKSPACES="true")
    assert (done.returncode, "No such option '--nonsense'" in done.stderr) == (1, True), "which MLflow itself says"


@pytest.mark.parametrize(
    ("options", "changes", "match"),
    [
        ([], {"conditions": Conditions(revoked=Path("missing.yaml"))}, "missing.yaml"),
        ([], {"conditions": Conditions(probe_set_digest="12")}, "--probe-set-digest"),
        ([], {"conditions": Conditions(image_size="12x")}, "--image-size"),
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
