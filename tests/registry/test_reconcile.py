"""Every version has a verdict in the end, and one gate: with real MLflow servers, `serve` processes and kills."""

import itertools
import json
import logging
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from functools import partial

import pytest
from mlflow import MlflowClient

from invmm_gate.core.errors import ConfigError, RegistryError
from invmm_gate.core.options import GateChoices
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.registry_names import Watched
from invmm_gate.registry.promote.choices import terms_now
from invmm_gate.registry.promote.outbox import Parcel, outbox_of
from invmm_gate.registry.service.gate_process import SAME_FILES
from invmm_gate.registry.service.ledger import Ledger, backoff
from invmm_gate.registry.service.reconcile import Loop
from invmm_gate.registry.service.serve import Door, sync
from invmm_gate.registry.service.worker import Worker, WorkerSettings
from tests.registry.door import SECRET, Gate, deliver, due, event, headers, post, serving, sweeping, until
from tests.registry.servers import mlflow_server

NAMES = (f"cand{uuid.uuid4().hex[:8]}" for _ in itertools.count())


@pytest.fixture
def registry(plain_server):
    return Registry(plain_server.uri)


@pytest.fixture
def name():
    """A model of the test's own."""
    return next(NAMES)


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path / "gate")


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "state" / "ledger.json")


def client_of(registry):
    return MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)


def create(registry, name, number=1, **tags):
    """Versions without files: these tests gate with a program that looks at none."""
    run = client_of(registry).create_run("0").info
    source = f"{run.artifact_uri}/checkpoint"
    return [registry.create_version(name, source, tags=tags, run_id=run.run_id) for _ in range(number)]


def settings(tmp_path, gate, **changes):
    return WorkerSettings(
        **{
            "command": gate.command,
            "terms": gate.terms,
            "state": tmp_path / "state",
            "first_wait": 0.05,
            "postponed": 0.3,
            "grace": 2.0,
        }
        | changes
    )


def door(tmp_path, gate, uri, names, **changes):
    return Door(
        tracking_uri=uri,
        worker=settings(tmp_path, gate, **changes.pop("worker", {})),
        watched=Watched(names=tuple(names)),
        **changes,
    )


def states(ledger):
    """As they are in the file."""
    return {label: entry["state"] for label, entry in entries(ledger).items()}


def entries(ledger):
    path = ledger._path
    return json.loads(path.read_text())["versions"] if path.exists() else {}


def work(worker, ledger, record, rounds=200):
    """Step after step until there is an end."""
    for _ in range(rounds):
        worker.gate(record)
        if states(ledger).get(record.label, "open") != "open":
            return
        time.sleep(0.05)
    raise AssertionError(entries(ledger))


# ------------------------------------------------------------------------------------------------------ reconciling


def test_versions_without_a_webhook_are_found_newest_first_until_they_have_a_verdict(tmp_path, registry, name):
    create(registry, name, 3)
    reconciler = sweeping(registry, tmp_path, names=[name])
    assert due(reconciler.find()) == [f"{name}/3", f"{name}/2", f"{name}/1"]
    record = registry.version(name, "2")
    reconciler.ledger.note(record, replace(reconciler.ledger.of(record, "terms"), state="block"))
    assert due(reconciler.find()) == [f"{name}/3", f"{name}/1"]


def test_tags_that_claim_a_verdict_do_not_keep_a_version_from_the_gate(tmp_path, registry, name):
    create(registry, name, **{"invmm.gate": "pass", "invmm.verdict": "pass"})
    assert due(sweeping(registry, tmp_path, names=[name]).find()) == [f"{name}/1"]


def test_a_version_waits_for_its_time_but_not_for_a_clock_that_was_set_back(tmp_path, registry, name):
    (record,) = create(registry, name)
    reconciler, now = sweeping(registry, tmp_path, names=[name]), time.time()
    for wait, expected in ((100.0, []), (-1.0, [f"{name}/1"]), (86_400.0, [f"{name}/1"])):
        reconciler.ledger.note(record, replace(reconciler.ledger.of(record, "terms"), next_try=now + wait))
        assert due(reconciler.find()) == expected


def test_a_model_deleted_and_made_again_is_gated_again(tmp_path, plain_server, registry, name, gate):
    create(registry, name)
    here = door(tmp_path, gate, plain_server.uri, [name])
    assert sync(here).outcomes == {"pass": 1}
    client_of(registry).delete_registered_model(name)
    time.sleep(0.01)
    create(registry, name)
    assert due(sync(here).swept.found) == [f"{name}/1"]
    assert gate.begun == [f"{name}/1"] * 2


def test_only_watched_models_are_queued_and_names_that_cannot_be_gated_are_told_once(tmp_path, gate, caplog):
    with_space = "a name with a space"
    uri = f"sqlite:///{tmp_path / 'own.db'}"
    registry = Registry(uri)
    for each in ("cand", "cand-release", "other"):
        create(registry, each)
    client = client_of(registry)
    client.create_registered_model(with_space)
    client.create_model_version(with_space, "mlflow-artifacts:/x", await_creation_for=0)
    client.set_registered_model_alias(with_space, "champion", "1")

    assert due(sweeping(registry, tmp_path, names=["cand"]).find()) == ["cand/1"]
    everything = sweeping(registry, tmp_path)
    done = everything.once()
    assert due(done.found) == ["other/1", "cand/1"]
    assert done.found.unusable == everything.find().unusable == (with_space,)
    (told,) = [record for record in caplog.records if "it is not gated under this one" in record.message]
    assert repr(with_space) in told.message
    assert {(alert.record.name, alert.alias) for alert in done.alerts} == {
        ("cand-release", ""),
        (with_space, "champion"),
    }
    assert sync(door(tmp_path, gate, uri, [])).exit_code == 11


def test_an_alias_without_a_pass_of_ours_is_an_alert_and_is_removed_when_enforced(
    tmp_path, plain_server, registry, name, gate
):
    create(registry, name, 2)
    gate.exits(name, "2", 10)
    assert sync(door(tmp_path, gate, plain_server.uri, [name])).exit_code == 0
    registry.set_alias(name, "champion", "1")
    registry.set_alias(name, "nightly", "2")
    assert sync(door(tmp_path, gate, plain_server.uri, [name])).exit_code == 0
    registry.set_tags(name, "2", {"invmm.gate": "pass"})
    registry.set_alias(name, "champion", "2")
    registry.set_alias(name, "approved-0123456789ab", "2")
    done = sync(door(tmp_path, gate, plain_server.uri, [name]))
    assert done.exit_code == 11
    assert {(alert.alias, alert.record.version, alert.removed) for alert in done.swept.alerts} == {
        ("champion", "2", False),
        ("approved-0123456789ab", "2", False),
    }
    assert registry.aliases(name)["champion"] == "2"
    assert all(
        alert.removed for alert in sync(door(tmp_path, gate, plain_server.uri, [name], enforce=True)).swept.alerts
    )
    assert registry.aliases(name) == {"nightly": "2"}
    assert sync(door(tmp_path, gate, plain_server.uri, [name])).exit_code == 0


def test_a_version_that_somebody_wrote_into_a_release_model_is_an_alert(tmp_path, plain_server, registry, name, gate):
    create(registry, name)
    create(registry, f"{name}-release", **{"invmm.gate": "pass", "invmm.promoted_from": f"{name}/1"})
    done = sync(door(tmp_path, gate, plain_server.uri, [name], enforce=True))
    assert (done.outcomes, done.exit_code) == ({"pass": 1}, 11)
    (alert,) = done.summary()["alerts"]
    assert alert.startswith(f"{name}-release version 1: only the gate should write to a release model: no pass")


def test_another_policy_on_the_same_state_folder_gates_everything_again(tmp_path, plain_server, registry, name, gate):
    create(registry, name)
    here = door(tmp_path, gate, plain_server.uri, [name])
    assert sync(here).outcomes == {"pass": 1}
    registry.set_alias(name, "champion", "1")
    assert sync(here).exit_code == 0
    gate.judges_under("a stricter policy")
    gate.exits(name, "1", 10)
    done = sync(here)
    assert (done.outcomes, due(done.swept.found)) == ({"block": 1}, [f"{name}/1"])
    assert (len(done.swept.alerts), done.exit_code) == (1, 11)
    assert due(sync(here).swept.found) == []
    gate.judges_under("the strictest policy")
    done = sync(here, gate=False)
    assert (done.outcomes, done.exit_code) == ({"queued": 1}, 11)


def test_a_verdict_that_cannot_be_sent_is_not_forgotten(tmp_path, plain_server, registry, name, gate):
    create(registry, name)
    choices = GateChoices(policy="strict", runs=tmp_path / "runs")
    run = str(tmp_path / "nowhere")
    outbox_of(choices).add(Parcel(name=name, version="1", run=run, digest="d", signed=False))
    done = sync(door(tmp_path, gate, plain_server.uri, [name], choices=choices))
    assert (done.outcomes, done.waiting, done.exit_code) == ({"pass": 1}, 1, 11)


def test_sync_says_what_stayed_without_a_verdict_and_takes_it_up_again_on_request(
    tmp_path, plain_server, registry, name, gate
):
    create(registry, name)
    gate.exits(name, "1", 11)
    here = door(tmp_path, gate, plain_server.uri, [name], worker={"retries": 0})
    done = sync(here)
    assert (done.outcomes, done.exit_code) == ({"inconclusive": 1}, 11)
    gate.exits(name, "1", 0)
    assert sync(here).outcomes == {"inconclusive": 1}
    done = sync(here, again=True)
    assert (done.outcomes, done.exit_code) == ({"pass": 1}, 0)


def test_backoff_doubles_up_to_its_cap_and_is_spread():
    waits = [[backoff(times, first=2.0, longest=60.0) for _ in range(50)] for times in range(1, 12)]
    for times, found in enumerate(waits, start=1):
        full = min(60.0, 2.0 * 2 ** (times - 1))
        assert full / 2 <= min(found) < max(found) <= full


def test_a_version_that_is_made_while_files_are_looked_at_does_not_wait_for_their_end(
    tmp_path, plain_server, registry, name, gate
):
    create(registry, name, 2)
    registry.set_alias(name, "champion", "1")
    registry.set_alias(name, "approved-0123456789ab", "2")
    looked = []

    class Slow:
        def of_alias(self, record, *, anew=False):
            looked.append(record.version)
            if len(looked) == 1:
                create(registry, name)
                loop.wake()
            else:
                until(lambda: f"{name}/3" in gate.ended, what="the new version")
            return ""

    here = door(tmp_path, gate, plain_server.uri, [name], vouch=lambda _: Slow())
    with here.opened() as (reconciler, worker):
        loop = Loop(reconciler, worker, every=3600.0, workers=1)
        loop.start()
        until(lambda: looked == ["2", "1"] and len(gate.ended) == 3, what="both looks")
        assert loop.alive()
        loop.stop(within=20)
        assert not loop.alive()


def test_an_audit_that_was_cut_short_begins_anew(tmp_path, plain_server, registry, name, gate):
    create(registry, name)
    registry.set_alias(name, "champion", "1")
    looked = []

    class Broken:
        def of_alias(self, record, *, anew=False):
            looked.append(record.version)
            if len(looked) == 1:
                raise RuntimeError("a slip")
            return ""

    here = door(tmp_path, gate, plain_server.uri, [name], vouch=lambda _: Broken())
    with here.opened() as (reconciler, worker):
        loop = Loop(reconciler, worker, every=3600.0, workers=1)
        loop.start()
        until(lambda: len(looked) == 2, what="the second look")
        loop.stop(within=20)


# ----------------------------------------------------------------------------------------------------------- working


@pytest.mark.parametrize(
    ("code", "state", "starts"),
    [
        (0, "pass", 1),
        (10, "block", 1),
        (2, "bad_input", 1),
        (11, "inconclusive", 3),
        (1, "error", 3),
        (130, "error", 3),
        (77, "error", 3),
    ],
)
def test_the_exit_code_of_the_gate_is_the_outcome(tmp_path, registry, ledger, name, gate, code, state, starts):
    (record,) = create(registry, name)
    gate.exits(name, "1", code)
    work(Worker(registry, ledger, settings(tmp_path, gate, retries=2)), ledger, record)
    assert states(ledger) == {record.label: state}
    assert gate.begun == [record.label] * starts
    log = next((tmp_path / "state" / "logs").glob("*.log"))
    assert log.stat().st_mode & 0o777 == 0o600
    assert f"gated {name} 1" in log.read_text()


def test_a_version_whose_files_another_gate_measures_waits_for_it_and_costs_no_attempt(
    tmp_path, plain_server, registry, ledger, name, gate, caplog
):
    caplog.set_level(logging.INFO)
    create(registry, name)
    gate.exits(name, "1", 11)
    gate.says(name, "1", SAME_FILES)
    here = door(tmp_path, gate, plain_server.uri, [name], worker={"retries": 0, "postponed": 1.0})
    done = sync(here)
    assert (done.outcomes, done.exit_code) == ({"queued": 1}, 11)
    lines = [record for record in caplog.records if f"{name} version 1 waits" in record.message]
    assert {record.levelname for record in lines} == {"INFO"}
    assert all("another gate measures the same files" in record.message for record in lines)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert entries(ledger)[f"{name}/1"]["attempts"] == 0
    gate.exits(name, "1", 0)
    gate.says(name, "1", "pass")
    until(lambda: sync(here).outcomes == {"pass": 1}, what="the pass")


@pytest.mark.parametrize("code", [2, 10])
def test_a_gate_that_cannot_work_ends_no_version_and_costs_it_no_attempt(
    tmp_path, plain_server, registry, ledger, name, gate, caplog, code
):
    create(registry, name)
    gate.breaks(name, "1", code)
    here = door(tmp_path, gate, plain_server.uri, [name], worker={"retries": 0, "postponed": 1.0})
    for _ in range(2):
        done = sync(here)
        assert (done.outcomes, done.exit_code) == ({"queued": 1}, 11)
    assert [record.levelname for record in caplog.records if "cannot work" in record.message].count("ERROR") >= 1
    assert entries(ledger)[f"{name}/1"]["attempts"] == 0
    gate.works(name, "1", 0)
    until(lambda: sync(here).outcomes == {"pass": 1}, what="the pass")


def test_a_pass_without_an_outcome_is_none(tmp_path, registry, ledger, name, gate):
    (record,) = create(registry, name)
    gate.breaks(name, "1", 0)
    work(Worker(registry, ledger, settings(tmp_path, gate, retries=1)), ledger, record)
    assert states(ledger) == {record.label: "error"}


def test_a_policy_that_cannot_be_read_begins_nothing(tmp_path, plain_server, registry, ledger, name, gate, caplog):
    (record,) = create(registry, name)
    terms = partial(terms_now, GateChoices(policy="nosuch", probes=tmp_path))
    with pytest.raises(ConfigError, match="no policy named"):
        sync(door(tmp_path, gate, plain_server.uri, [name], worker={"terms": terms}))
    assert not Worker(registry, ledger, settings(tmp_path, gate, terms=terms)).gate(record)
    assert "no policy named" in caplog.text
    assert (entries(ledger), gate.begun) == ({}, [])


def test_a_version_that_was_deleted_since_the_pass_is_not_gated(tmp_path, registry, ledger, name, gate, caplog):
    caplog.set_level(logging.INFO)
    (record,) = create(registry, name)
    client_of(registry).delete_model_version(name, "1")
    assert Worker(registry, ledger, settings(tmp_path, gate)).gate(record)
    assert (entries(ledger), gate.begun) == ({}, [])
    assert f"{name} version 1: gone" in caplog.text


def test_the_outcome_of_a_gate_that_was_left_behind_counts_and_an_attempt_without_one_is_spent(
    tmp_path, registry, ledger, name, gate
):
    """As a kill of the receiver leaves it: attempts that were noted, with an outcome, a broken one, or none."""
    logs = tmp_path / "state" / "logs"
    logs.mkdir(parents=True)
    (logs / "left-1.json").write_text('{"name": "block", "terms": "terms"}')
    (logs / "left-2.json").write_text('{"name": "pa')
    (logs / "left-4.json").write_text('{"name": "inconclusive", "terms": "terms"}')
    worker = Worker(registry, ledger, settings(tmp_path, gate, retries=1))
    for record, attempts in zip(create(registry, name, 4), (1, 1, 2, 1), strict=True):
        noted = replace(ledger.of(record, "terms"), attempts=attempts, gate=f"left-{record.version}")
        ledger.note(record, noted)
        assert worker.gate(record)
    found = states(ledger)
    assert [found[f"{name}/{number}"] for number in range(1, 5)] == ["block", "pass", "error", "open"]
    assert gate.begun == [f"{name}/2"]
    assert entries(ledger)[f"{name}/4"]["next_try"] > time.time() - 1


def test_what_was_noted_since_the_pass_decided_begins_nothing(tmp_path, registry, ledger, name, gate):
    (record,) = create(registry, name)
    worker = Worker(registry, ledger, settings(tmp_path, gate))
    ledger.note(record, replace(ledger.of(record, "terms"), state="block"))
    assert worker.gate(record)
    assert gate.begun == []


def test_a_version_deleted_while_it_is_gated_is_gone(tmp_path, plain_server, registry, ledger, name, caplog):
    caplog.set_level(logging.INFO)
    gate = Gate(tmp_path / "gate", code=11, seconds=30)
    (record,) = create(registry, name)
    worker = Worker(registry, ledger, settings(tmp_path, gate))
    thread = threading.Thread(target=worker.gate, args=(record,))
    thread.start()
    until(lambda: gate.begun)
    client_of(registry).delete_model_version(name, "1")
    gate.go()
    thread.join(20)
    assert f"{name} version 1: gone" in caplog.text
    done = sync(door(tmp_path, gate, plain_server.uri, [name]))
    assert (done.outcomes, done.exit_code, len(gate.begun)) == ({}, 0, 1)


def test_the_gate_is_not_told_the_webhook_secret_and_a_name_is_never_an_option(
    tmp_path, registry, ledger, gate, monkeypatch
):
    monkeypatch.setenv("INVMM_GATE_WEBHOOK_SECRET", "the-secret-of-the-webhook")
    (record,) = create(registry, "--help")
    script = 'env; shift; echo "arguments: $@"; exit 1'
    command = ("/bin/sh", "-c", script, "sh")
    work(Worker(registry, ledger, settings(tmp_path, gate, command=command, retries=0)), ledger, record)
    text = next((tmp_path / "state" / "logs").glob("*.log")).read_text()
    assert "arguments: -- --help 1" in text
    assert "the-secret" not in text


def test_stopping_ends_the_gate_with_all_its_children_and_costs_no_attempt(tmp_path, registry, ledger, name, gate):
    (record,) = create(registry, name)
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >> {pids}; sleep 60' & echo $$ >> {pids}; wait; wait"
    here = settings(tmp_path, gate, command=("/bin/sh", "-c", script, "sh"), grace=0.5)
    worker = Worker(registry, ledger, here)
    thread = threading.Thread(target=worker.gate, args=(record,))
    thread.start()
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    began = time.monotonic()
    worker.stop()
    thread.join(50)
    assert time.monotonic() - began < 45  # it would have slept for 60 s
    for pid in pids.read_text().split():
        until(lambda pid=pid: not alive(int(pid)), what=f"the end of {pid}")
    entry = entries(ledger)[record.label]
    assert (entry["state"], entry["attempts"], entry["gate"]) == ("open", 0, "")


def test_an_interruption_costs_no_attempt(tmp_path, registry, ledger, name, gate):
    def interrupted(*_):
        raise KeyboardInterrupt

    (record,) = create(registry, name)
    before = signal.signal(signal.SIGUSR1, interrupted)
    here = settings(tmp_path, gate, command=("/bin/sh", "-c", "kill -USR1 $PPID; sleep 60", "sh"), grace=0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            Worker(registry, ledger, here).gate(record)
    finally:
        signal.signal(signal.SIGUSR1, before)
    entry = entries(ledger)[record.label]
    assert (entry["state"], entry["attempts"], entry["gate"]) == ("open", 0, "")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_registry_that_is_away_costs_no_attempt(tmp_path, registry, ledger, name, gate, caplog):
    (record,) = create(registry, name)
    away = Registry("http://127.0.0.1:9")
    assert not Worker(away, ledger, settings(tmp_path, gate, retries=0)).gate(record)
    assert (gate.begun, entries(ledger)) == ([], {})
    assert f"{name} version 1 waits for the next pass" in caplog.text


# ------------------------------------------------------------------------------------------------------- whole doors


def webhook(registry, served, name="gate-hook"):
    client = client_of(registry)
    return client.create_webhook(
        f"{name}-{served.port}",
        f"http://127.0.0.1:{served.port}/hook",
        events=["model_version.created", "model_version_tag.set"],
        secret=SECRET,
    )


def test_a_webhook_of_a_real_server_starts_the_gate_and_a_lost_one_only_delays_it(
    tmp_path, plain_server, registry, name, gate
):
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name]) as served:
        hook = webhook(registry, served)
        try:
            create(registry, name)
            until(lambda: gate.ended == [f"{name}/1"], what="the gate")
            registry.set_tags(name, "1", {"invmm.gate": "running"})
            assert "ignored" in until(lambda: "model_version_tag.set" in served.lines and served.lines)
        finally:
            client_of(registry).delete_webhook(hook.webhook_id)
        assert served.stop() == 0
    create(registry, name)  # nobody is told
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name], listening={"every": 0.5}) as served:
        until(lambda: gate.ended == [f"{name}/1", f"{name}/2"], what="the lost version")
        create(registry, name)
        until(lambda: gate.ended[2:] == [f"{name}/3"], what="the version of the second pass")
        assert served.stop() == 0
    assert gate.begun == gate.ended


def test_kill_9_between_the_answer_and_the_work_loses_nothing(tmp_path, plain_server, registry, name):
    gate = Gate(tmp_path / "gate", seconds=60)
    create(registry, name, 3)
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name]) as served:
        assert [deliver(served.port, name, version) for version in "123"] == [202] * 3
        served.kill()
    gate.go()
    options = {"names": [name], "worker": {"postponed": 0.5}, "listening": {"every": 1.0}}
    with serving(tmp_path / "state", gate, plain_server.uri, **options):
        until(lambda: set(gate.ended) == {f"{name}/{version}" for version in "123"}, what="all three")


def test_a_gate_left_behind_by_a_kill_is_waited_for_and_its_outcome_taken_over(tmp_path, plain_server, registry, name):
    gate = Gate(tmp_path / "gate", seconds=60)
    create(registry, name)
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name]) as served:
        until(lambda: gate.begun)
        served.kill()
    options = {"names": [name], "worker": {"postponed": 0.5}, "listening": {"every": 1.0}}
    with serving(tmp_path / "state", gate, plain_server.uri, **options) as served:
        until(lambda: "left behind" in served.lines, what="the wait for the gate")
        gate.go()
        until(lambda: f"{name} version 1: pass" in served.lines, what="the outcome")
    assert gate.begun == [f"{name}/1"]


def test_replays_wake_passes_that_do_nothing_twice(tmp_path, plain_server, registry, name, gate):
    create(registry, name)
    body = event(name)
    head = headers(body)
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name]) as served:
        for _ in range(5):
            assert post(served.port, body, head)[0] == 202
            time.sleep(0.3)
        until(lambda: f"{name} version 1: pass" in served.lines)
        assert post(served.port, body, head)[0] == 202
        create(registry, name)
        assert post(served.port, body, head)[0] == 202  # whatever it names: the pass sees what is there
        until(lambda: f"{name} version 2: pass" in served.lines)
        assert served.stop() == 0
    assert gate.begun == [f"{name}/1", f"{name}/2"]


def test_a_second_receiver_is_refused_with_the_name_of_the_first_until_that_is_dead(
    tmp_path, plain_server, registry, name, gate
):
    here = door(tmp_path, gate, plain_server.uri, [name])
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name]) as served:
        with pytest.raises(ConfigError, match=rf"state is in use by process {served.process.pid} on .*; expected one"):
            sync(here)
        served.kill()
    assert sync(here).exit_code == 0


def test_sigterm_stops_within_seconds_and_the_work_goes_on_afterwards(tmp_path, plain_server, registry, name):
    gate = Gate(tmp_path / "gate", seconds=60)
    create(registry, name)
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name]) as served:
        deliver(served.port, name)
        until(lambda: gate.begun)
        pid = int((tmp_path / "gate" / "begun").read_text().split()[1])
        began = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - began < 45  # the gate would have gone on for 60 s
        assert not alive(pid)
        assert "stays queued" in served.lines
        assert "Traceback" not in served.lines
    gate.go()
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name]) as served:
        until(lambda: gate.ended == [f"{name}/1"], what="the gate after the restart")
        served.process.send_signal(signal.SIGINT)  # Ctrl-C is a clean end too
        assert served.process.wait(30) == 0


def test_a_registry_that_goes_away_in_the_middle_and_comes_back_loses_nothing(tmp_path):
    gate = Gate(tmp_path / "gate", code=11, seconds=60)
    with mlflow_server(tmp_path / "server") as server:
        registry = Registry(server.uri)
        create(registry, "cand", 2)
        options = {"worker": {"retries": 0}, "listening": {"every": 1.0}}
        with serving(tmp_path / "state", gate, server.uri, names=["cand"], **options) as served:
            until(lambda: gate.begun == ["cand/2"], what="the first gate")
            server.stop()
            gate.go()  # it ends as one does whose registry has gone: without a verdict
            until(lambda: "waits for the next pass" in served.lines and "cut short" in served.lines, what="the waiting")
            assert deliver(served.port, "cand", "3") == 202  # still receives
            for version in "12":
                gate.exits("cand", version, 0)
            server.start()
            until(
                lambda: all(f"cand version {number}: pass" in served.lines for number in (1, 2)),
                250,
                what="both verdicts",
            )


def test_a_pass_over_a_dead_registry_is_one_error(tmp_path, gate):
    with pytest.raises(RegistryError):
        sync(door(tmp_path, gate, "http://127.0.0.1:9", ["cand"]))


FULL = """
import dataclasses, resource, signal, sys
from pathlib import Path
from invmm_gate.registry.client.client import VersionRecord
from invmm_gate.registry.service.ledger import Ledger, LedgerError
ledger = Ledger(Path(sys.argv[1]))
record = VersionRecord(name="cand", version="1", source="", run_id=None)
ledger.note(record, dataclasses.replace(ledger.of(record, "terms"), state="pass"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))  # as if the disk had no room for more
try:
    ledger.note(record, dataclasses.replace(ledger.of(record, "terms"), state="block"))
except LedgerError as error:
    print(error.exit_code, ledger.of(record, "terms").state, error)
"""


def test_a_full_disk_is_an_error_and_what_was_noted_stays(tmp_path, ledger):
    done = subprocess.run([sys.executable, "-c", FULL, str(ledger._path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("11 pass ")
    assert "see that its disk has room" in done.stdout
    assert states(ledger) == {"cand/1": "pass"}
    assert {path.stat().st_mode & 0o777 for path in ledger._path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": 2, "versions": {}}',
        '{"format": 1, "versions": {"cand/1": {"created_at_ms": 1, "terms": "t", "state": "passed"}}}',
        '{"format": 1, "versions": {"cand/1": {"terms": "t", "state": "pass"}}}',
    ],
)
def test_another_file_in_the_ledgers_place_is_said_in_one_line_and_left_alone(tmp_path, content):
    path = tmp_path / "ledger.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="cannot use") as error:
        Ledger(path)
    assert "\n" not in str(error.value)
    assert path.read_text() == content
