"""`register` and `gate_version` against real servers: what becomes of a version, and of what cannot be sent."""

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from invmm_gate.errors import ConfigError, ModelError, RegistryError, VerificationError
from invmm_gate.gate.attesting import verify_model
from invmm_gate.gate.progress import Silent
from invmm_gate.registry.choices import utc_now
from invmm_gate.registry.client import Registry
from invmm_gate.registry.connection import RegistryDownError
from invmm_gate.registry.delivery import VersionGoneError, drain
from invmm_gate.registry.names import REASON, RUN, STATE, VERDICT, approved_alias
from invmm_gate.registry.register import GateChoices, Registered, create_version, gate_version, register
from tests.gate.world import CAPTION, MEMORIZING, SOURCE, Watching
from tests.registry.conftest import Desk
from tests.registry.servers import Server


@pytest.fixture
def registry(plain_server: Server) -> Registry:
    return Registry(plain_server.uri)


@pytest.fixture
def client(plain_server: Server) -> MlflowClient:
    return MlflowClient(tracking_uri=plain_server.uri, registry_uri=plain_server.uri)


@pytest.fixture
def mine(desk: Desk, tmp_path: Path) -> GateChoices:
    """Choices that pass, with a state folder of the test's own."""
    return desk.at(tmp_path / "state").passing


def registered(registry: Registry, name: str, choices: GateChoices, model: Path = MEMORIZING) -> Registered:
    return register(model, name, registry, choices=choices, progress=Silent())


def test_what_is_served_verifies_and_every_proof_lies_in_the_gates_own_run(
    guarded_server: Server, passed: Registered, desk: Desk, tmp_path: Path
) -> None:
    registry = Registry(guarded_server.uri)
    record = registry.alias(f"{passed.name}-release", "champion")
    assert record is not None
    assert record.source == getattr(passed.released, "source", "")

    (tmp_path / "sent").mkdir()
    client = MlflowClient(tracking_uri=guarded_server.uri, registry_uri=guarded_server.uri)
    everything = Path(client.download_artifacts(record.run_id, "", str(tmp_path / "sent")))
    sent = b"".join(path.read_bytes() for path in everything.rglob("*") if path.is_file())
    folder = everything / "passed-v1"
    assert record.tags[RUN] == f"{record.run_id}/passed-v1"
    assert {path.name for path in folder.iterdir()} == {"report.html", "verdict.json", "attestation.json"}
    assert CAPTION.encode() not in sent
    assert SOURCE.encode() not in sent

    checkpoint = registry.download(record, tmp_path / "served")
    served, policy = tmp_path / "served" / "attestation.json", desk.passing.policy
    said = verify_model(checkpoint, served, policy=policy, roots=desk.key.public, now=utc_now())
    assert said.report_digest == hashlib.sha256((folder / "report.html").read_bytes()).hexdigest()
    assert said.subject_name == f"{passed.name}-v1"
    assert served.read_bytes() == (folder / "attestation.json").read_bytes()
    spoilt = next(checkpoint.rglob("diffusion_pytorch_model.safetensors"))
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"\0")
    with pytest.raises(VerificationError, match="subject digest") as error:
        verify_model(checkpoint, served, policy=policy, roots=desk.key.public, now=utc_now())
    assert error.value.exit_code == 10


def test_a_version_with_a_verdict_is_not_measured_again_and_the_same_bytes_are_released_once(
    guarded_server: Server, passed: Registered, desk: Desk, tmp_path: Path
) -> None:
    registry, seen = Registry(guarded_server.uri), Watching()
    elsewhere = desk.at(tmp_path / "another-machine").passing
    again = gate_version(registry, passed.name, "1", choices=elsewhere, progress=seen)
    assert (again.decision, again.run, again.exit_code) == ("pass", "", 0)
    assert again.released == passed.released
    released = f"{passed.name}-release"
    gate_version(registry, released, "1", choices=elsewhere, progress=seen)
    assert seen.stages == []
    assert [record.version for record in registry.versions([released])] == ["1"]
    assert not registry.aliases(f"{released}-release")


def test_a_later_version_keeps_the_alias_and_swapped_files_are_gated_anew(
    registry: Registry, plain_server: Server, mine: GateChoices, tmp_path: Path, new_name: Callable[[str], str]
) -> None:
    name, other = new_name("late"), tmp_path / "other"
    shutil.copytree(MEMORIZING, other)
    scheduler = other / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text() + "\n")
    create_version(other, name, registry, choices=mine, progress=Silent())
    newer = registered(registry, name, mine)
    older = gate_version(registry, name, "1", choices=mine, progress=Silent())
    assert newer.released is not None
    assert older.released is not None
    assert registry.aliases(f"{name}-release") == {
        "champion": newer.released.version,
        approved_alias(newer.model_digest): newer.released.version,
        approved_alias(older.model_digest): older.released.version,
    }

    record = registry.version(name, "2")
    assert record is not None
    weights = stored_weights(plain_server, record.source)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    swapped = gate_version(registry, name, "2", choices=mine, progress=Silent())
    assert swapped.run
    assert swapped.model_digest != newer.model_digest


def test_without_a_key_nothing_is_promoted_and_the_exit_says_so(
    registry: Registry, mine: GateChoices, new_name: Callable[[str], str]
) -> None:

    name = new_name("unsigned")
    done = registered(registry, name, replace(mine, key=None))
    record = registry.version(name, "1")
    assert record is not None
    assert (done.decision, done.exit_code, done.released) == ("pass", 11, None)
    assert "unsigned" in done.blocked
    assert record.tags[STATE] == "inconclusive"
    assert VERDICT not in record.tags
    assert not registry.aliases(f"{name}-release")
    meant = replace(done, blocked="")
    assert meant.exit_code == 0, "with --alias '' nothing was meant to be promoted"
    assert replace(meant, decision="block").exit_code == replace(done, decision="block").exit_code == 10


@pytest.mark.parametrize(
    "spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-4000])]
)
def test_bad_input_creates_nothing(
    registry: Registry,
    mine: GateChoices,
    tmp_path: Path,
    new_name: Callable[[str], str],
    spoil: Callable[[Path], object],
) -> None:
    name, model = new_name("bad"), tmp_path / "ckpt"
    shutil.copytree(MEMORIZING, model)
    spoil(model / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ModelError):
        registered(registry, name, mine, model)
    assert not registry.aliases(name)
    assert list(registry.versions([name])) == []


@pytest.mark.parametrize(
    ("name", "changes", "match"),
    [
        ("a/b", {}, "registered model"),
        ("..", {}, "registered model"),
        ("good", {"alias": "v1"}, "--alias"),
        ("good", {"alias": "a b"}, "--alias"),
        ("good", {"policy": "nosuch"}, "no policy named"),
        ("good", {"waivers": Path("missing.yaml")}, "missing.yaml"),
    ],
)
def test_a_slip_in_the_options_is_found_before_anything_is_sent(
    mine: GateChoices, name: str, changes: dict[str, object], match: str
) -> None:

    nowhere = Registry("http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=match):
        registered(nowhere, name, replace(mine, **changes))


def test_an_artefact_without_one_of_its_files_is_bad_input_and_the_version_says_error(
    registry: Registry, plain_server: Server, mine: GateChoices, new_name: Callable[[str], str]
) -> None:
    record = create_version(MEMORIZING, new_name("incomplete"), registry, choices=mine, progress=Silent())
    stored_weights(plain_server, record.source).unlink()
    with pytest.raises(ModelError) as error:
        gate_version(registry, record.name, "1", choices=mine, progress=Silent())
    assert error.value.exit_code == 2
    after = registry.version(record.name, "1")
    assert after is not None
    assert (after.tags[STATE], VERDICT in after.tags) == ("error", False)
    assert after.tags[REASON]
    assert list(mine.runs.glob(".version-*")) == []


def test_a_version_deleted_while_it_is_gated_is_a_clear_error(
    registry: Registry, client: MlflowClient, mine: GateChoices, new_name: Callable[[str], str]
) -> None:
    record = create_version(MEMORIZING, new_name("deleted"), registry, choices=mine, progress=Silent())

    class Deleting(Watching):
        def begin(self, stage: str, total: int, done: int = 0) -> None:
            if not self.stages:
                client.delete_model_version(record.name, "1")
            super().begin(stage, total, done)

    with pytest.raises(VersionGoneError, match="was deleted while it was gated") as error:
        gate_version(registry, record.name, "1", choices=mine, progress=Deleting())
    assert error.value.exit_code == 11
    assert mine.outbox.parcels() == ()
    with pytest.raises(RegistryError, match="has no version 1"):
        gate_version(registry, record.name, "1", choices=mine, progress=Silent())


@pytest.fixture
def stoppable(plain_server: Server) -> Iterator[Server]:
    """The session's server, which the test may stop: it runs again afterwards."""
    yield plain_server
    if plain_server.process is None:
        plain_server.start()


def test_a_registry_that_goes_down_after_measuring_gets_the_verdict_later_and_once(
    stoppable: Server, mine: GateChoices
) -> None:
    registry = Registry(stoppable.uri)
    record = create_version(MEMORIZING, "downed", registry, choices=mine, progress=Silent())

    class Stopping(Watching):
        down = 0.0

        def begin(self, stage: str, total: int, done: int = 0) -> None:
            if not self.stages and stoppable.process is not None:
                stoppable.stop()
            super().begin(stage, total, done)

    done = gate_version(registry, record.name, "1", choices=mine, progress=Stopping())
    assert (done.decision, done.exit_code, done.delivered, done.released) == ("pass", 11, False, None)
    (parcel,) = mine.outbox.parcels()
    assert (Path(parcel.run) / "attestation.json").is_file(), "the signed verdict is on disk"

    began = time.monotonic()
    held = drain(mine.outbox, registry, now=utc_now())
    assert time.monotonic() - began < 10
    assert (held.sent, held.waiting, len(held.errors)) == ((), 1, 1)

    stoppable.start()
    again = Registry(stoppable.uri)
    assert not again.aliases("downed-release"), "nothing was promoted meanwhile"
    assert drain(mine.outbox, again, now=utc_now()).sent == ("downed/1",)
    assert drain(mine.outbox, again, now=utc_now()).sent == ()
    mine.outbox.add(parcel)  # as if the process had died before it could forget the parcel
    assert drain(mine.outbox, again, now=utc_now()).sent == ("downed/1",)
    assert again.aliases("downed-release")["champion"] == "1"
    assert [version.version for version in again.versions(["downed-release"])] == ["1"]
    tagged = again.version("downed", "1")
    assert tagged is not None
    assert (tagged.tags[STATE], tagged.tags[VERDICT]) == ("pass", "pass")
    run, _, folder = tagged.tags[RUN].partition("/")
    client = MlflowClient(tracking_uri=stoppable.uri, registry_uri=stoppable.uri)
    assert client.get_run(run).data.tags["invmm.state"] == "published"
    assert {file.path for file in client.list_artifacts(run, folder)} >= {f"{folder}/attestation.json"}


def test_a_frozen_server_holds_nobody_up(stoppable: Server, mine: GateChoices) -> None:
    registry = Registry(stoppable.uri)
    assert stoppable.process is not None
    children = [
        int(pid)
        for pid in Path(f"/proc/{stoppable.process.pid}/task/{stoppable.process.pid}/children").read_text().split()
    ]
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(RegistryDownError):
            create_version(MEMORIZING, "frozen", registry, choices=mine, progress=Silent())
        assert time.monotonic() - began < 15
    finally:
        for pid in children:
            os.kill(pid, signal.SIGCONT)


def stored_weights(server: Server, source: str) -> Path:
    folder = f"*/models/{source.removeprefix('models:/')}"
    (weights,) = server.artefacts.glob(f"{folder}/**/diffusion_pytorch_model.safetensors")
    return weights
