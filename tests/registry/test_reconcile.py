"""Every version has a verdict in the end, and one gate: with real MLflow servers, `serve` processes and kills."""

import itertools
import logging
import signal
import socket
import threading
import time
import uuid
from dataclasses import replace
from functools import partial

import pytest
from mlflow import MlflowClient

from invmm_gate.core.errors import RegistryError
from invmm_gate.core.options import GateChoices
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.names import CLAIM
from invmm_gate.registry.client.watched import Watched
from invmm_gate.registry.client.webhook_signature import Secrets
from invmm_gate.registry.promote.choices import terms_now
from invmm_gate.registry.promote.outbox import Outbox, Parcel
from invmm_gate.registry.promote.outcome import SAME_FILES
from invmm_gate.registry.service.claims import Claims, Standing
from invmm_gate.registry.service.lease import Lease
from invmm_gate.registry.service.queue import Queue
from invmm_gate.registry.service.reconcile import Reconciler
from invmm_gate.registry.service.recorded_pass import ByRecord
from invmm_gate.registry.service.serve import Door
from invmm_gate.registry.service.sync import sync
from invmm_gate.registry.service.worker import Worker, WorkerSettings, backoff
from tests.registry.door import KEY, Gate, deliver, serving, until
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
def queue(tmp_path):
    found = Queue(tmp_path / "state" / "queue.sqlite")
    yield found
    found.close()


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
            "lease": 20.0,
            "grace": 2.0,
        }
        | changes
    )


def door(tmp_path, gate, uri, names, **changes):
    return Door(
        tracking_uri=uri,
        worker=settings(tmp_path, gate, **changes.pop("worker", {})),
        watched=Watched(names=tuple(names)),
        secrets=Secrets((KEY,)),
        settle=1.0,
        **changes,
    )


def outcomes(queue):
    return {f"{job.name}/{job.version}": job.outcome or job.state for job in queue.jobs()}


def drain(worker, queue, rounds=200):
    """Work until nothing is queued."""
    for _ in range(rounds):
        if not worker.work_once():
            if not queue.counts()["queued"]:
                return
            time.sleep(0.05)
    raise AssertionError(outcomes(queue))


def terms():
    return "terms"


def reconciling(registry, queue, *names):
    return Reconciler(
        registry=registry,
        queue=queue,
        watched=Watched(names=names),
        doubts=ByRecord(queue, terms),
        terms=terms,
    )


# ------------------------------------------------------------------------------------------------------ reconciling


def test_versions_without_a_webhook_are_found_newest_first_and_only_once(registry, queue, name):
    create(registry, name, 3)
    reconciler = reconciling(registry, queue, name)
    assert reconciler.once().queued == (f"{name}/3", f"{name}/2", f"{name}/1")
    assert reconciler.once().queued == ()


def test_tags_that_claim_a_verdict_do_not_keep_a_version_from_the_gate(registry, queue, name):
    forged = {"invmm.gate": "pass", "invmm.verdict": "pass", CLAIM: "v2 me 0.000 pass terms c2lnbmVk"}
    create(registry, name, **forged)
    reconciler = reconciling(registry, queue, name)
    assert reconciler.once().queued == (f"{name}/1",)


def test_a_model_deleted_and_made_again_is_gated_again(tmp_path, plain_server, registry, name, gate):
    create(registry, name)
    here = door(tmp_path, gate, plain_server.uri, [name])
    assert sync(here).outcomes == {"pass": 1}
    client_of(registry).delete_registered_model(name)
    time.sleep(0.01)
    create(registry, name)
    assert sync(here).found.queued == (f"{name}/1",)
    assert gate.begun == [f"{name}/1"] * 2


def test_only_watched_models_are_queued_and_names_that_cannot_be_gated_are_told_once(tmp_path, queue, gate, caplog):
    with_space = "a name with a space"
    uri = f"sqlite:///{tmp_path / 'own.db'}"
    registry = Registry(uri)
    for each in ("cand", "cand-release", "other"):
        create(registry, each)
    client = client_of(registry)
    client.create_registered_model(with_space)
    client.create_model_version(with_space, "mlflow-artifacts:/x", await_creation_for=0)
    client.set_registered_model_alias(with_space, "champion", "1")

    assert reconciling(registry, queue, "cand").once().queued == ("cand/1",)
    everything = reconciling(registry, queue)
    found = everything.once()
    assert found.queued == ("other/1",)
    assert found.unusable == everything.once().unusable == (with_space,)
    (told,) = [record for record in caplog.records if "it is not gated under this one" in record.message]
    assert repr(with_space) in told.message
    assert {(alert.name, alert.alias) for alert in found.alerts} == {("cand-release", ""), (with_space, "champion")}
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
    assert {(alert.alias, alert.version, alert.removed) for alert in done.found.alerts} == {
        ("champion", "2", False),
        ("approved-0123456789ab", "2", False),
    }
    assert registry.aliases(name)["champion"] == "2"
    assert all(
        alert.removed for alert in sync(door(tmp_path, gate, plain_server.uri, [name], enforce=True)).found.alerts
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
    assert (done.outcomes, done.found.queued) == ({"block": 1}, (f"{name}/1",))
    assert (len(done.found.alerts), done.exit_code) == (1, 11)
    assert sync(here).found.queued == ()


def test_a_verdict_that_cannot_be_sent_is_not_forgotten(tmp_path, plain_server, registry, name, gate):
    create(registry, name)
    outbox = Outbox(tmp_path / "outbox")
    run = str(tmp_path / "nowhere")
    outbox.add(Parcel(name=name, version="1", run=run, digest="d", policy="strict", roots=None, alias=""))
    done = sync(door(tmp_path, gate, plain_server.uri, [name], outbox=outbox))
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


def test_a_version_that_is_made_while_files_are_looked_at_does_not_wait_for_the_next_pass(registry, queue, name):
    create(registry, name, 2)
    registry.set_alias(name, "champion", "1")
    registry.set_alias(name, "approved-0123456789ab", "2")

    class Slow:
        def of_alias(self, record, *, anew=False):
            create(registry, name)
            return ""

    sweep = replace(reconciling(registry, queue, name), doubts=Slow())
    assert sweep.once(every=0.0).queued == (f"{name}/2", f"{name}/1", f"{name}/3")
    assert sweep.once().queued == (f"{name}/4",)


# ----------------------------------------------------------------------------------------------------------- working


@pytest.mark.parametrize(
    ("code", "state", "outcome", "starts"),
    [
        (0, "done", "pass", 1),
        (10, "done", "block", 1),
        (2, "done", "bad_input", 1),
        (11, "done", "inconclusive", 3),
        (1, "failed", "error", 3),
        (130, "failed", "error", 3),
        (77, "failed", "error", 3),
    ],
)
def test_the_exit_code_of_the_gate_is_the_outcome(tmp_path, registry, queue, name, gate, code, state, outcome, starts):
    create(registry, name)
    gate.exits(name, "1", code)
    queue.offer(name, "1", delivery="a", now=time.time())
    drain(Worker(queue, registry, None, settings(tmp_path, gate, retries=2)), queue)
    job = queue.find(name, "1")
    assert (job.state, job.outcome, job.exit_code) == (state, outcome, code)
    assert gate.begun == [f"{name}/1"] * starts
    log = next((tmp_path / "state" / "logs").glob("*.log"))
    assert log.stat().st_mode & 0o777 == 0o600
    assert f"gated {name} 1" in log.read_text()


def test_a_version_whose_files_another_gate_measures_waits_for_it_and_costs_no_attempt(
    tmp_path, plain_server, registry, queue, name, gate, caplog
):
    caplog.set_level(logging.INFO)
    create(registry, name)
    gate.exits(name, "1", 11)
    gate.says(name, "1", SAME_FILES)
    here = door(tmp_path, gate, plain_server.uri, [name], worker={"retries": 0, "first_wait": 0.6})
    done = sync(here)
    assert (done.outcomes, done.exit_code) == ({"queued": 1}, 11)
    lines = [record for record in caplog.records if f"{name} version 1 waits" in record.message]
    assert {record.levelname for record in lines} == {"INFO"}
    assert all("another gate measures the same files" in record.message for record in lines)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert CLAIM not in registry.version(name, "1").tags
    assert queue.find(name, "1").attempts == 0
    gate.exits(name, "1", 0)
    gate.says(name, "1", "pass")
    until(lambda: sync(here).outcomes == {"pass": 1}, what="the pass")


@pytest.mark.parametrize("code", [2, 10])
def test_a_gate_that_cannot_work_ends_no_version_and_costs_it_no_attempt(
    tmp_path, plain_server, registry, queue, name, gate, caplog, code
):
    create(registry, name)
    gate.breaks(name, "1", code)
    here = door(tmp_path, gate, plain_server.uri, [name], worker={"retries": 0, "first_wait": 0.6})
    for _ in range(2):
        done = sync(here)
        assert (done.outcomes, done.exit_code) == ({"queued": 1}, 11)
    assert [record.levelname for record in caplog.records if "cannot work" in record.message].count("ERROR") >= 1
    assert CLAIM not in registry.version(name, "1").tags
    assert queue.find(name, "1").attempts == 0
    gate.works(name, "1", 0)
    until(lambda: sync(here).outcomes == {"pass": 1}, what="the pass")


def test_a_pass_without_an_outcome_is_none(tmp_path, registry, queue, name, gate):
    create(registry, name)
    gate.breaks(name, "1", 0)
    queue.offer(name, "1", delivery="a", now=time.time())
    drain(Worker(queue, registry, None, settings(tmp_path, gate, retries=1)), queue)
    assert outcomes(queue) == {f"{name}/1": "error"}


def test_a_policy_that_cannot_be_read_leaves_the_version_queued(tmp_path, registry, queue, name, gate, caplog):
    create(registry, name)
    queue.offer(name, "1", delivery="a", now=time.time())
    choices = GateChoices(policy="nosuch", probes=tmp_path)
    assert Worker(queue, registry, None, settings(tmp_path, gate, terms=partial(terms_now, choices))).work_once()
    assert (outcomes(queue), gate.begun) == ({f"{name}/1": "queued"}, [])
    assert "no policy named" in caplog.text


LEASE = 2.0


def test_a_registry_that_is_slow_to_answer_holds_up_neither_the_lease_nor_a_stop(queue, monkeypatch):
    monkeypatch.setattr("invmm_gate.tracking.server._REACHABLE_WITHIN", 60.0)
    queue.offer("cand", "1", delivery="a", now=time.time())
    job = queue.claim("me", now=time.time(), lease=LEASE)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registry = Registry(f"http://127.0.0.1:{silent.getsockname()[1]}")
        record = VersionRecord(name="cand", version="1", source="", run_id=None)
        standing = Standing(state="held", record=record, until=time.time() + LEASE, terms="terms")
        with Lease(queue, job, claims(registry, "me"), standing, LEASE) as lease:
            until(lambda: time.time() > standing.until, what="the end of the first lease")
            began = time.monotonic()
            assert lease.kept()
            assert time.monotonic() - began < 30  # the registry takes 60 s to be given up
            assert queue.claim("another", now=standing.until, lease=LEASE) is None


def test_a_version_that_does_not_exist_is_not_gated(tmp_path, registry, queue, name, gate):
    queue.offer(name, "7", delivery="a", now=time.time())
    drain(Worker(queue, registry, None, settings(tmp_path, gate)), queue)
    assert outcomes(queue) == {f"{name}/7": "gone"}
    assert gate.begun == []


def test_a_version_deleted_while_it_is_gated_ends_as_gone(tmp_path, registry, queue, name):
    gate = Gate(tmp_path / "gate", code=11, seconds=30)
    create(registry, name)
    queue.offer(name, "1", delivery="a", now=time.time())
    worker = Worker(queue, registry, None, settings(tmp_path, gate))
    thread = threading.Thread(target=worker.work_once)
    thread.start()
    until(lambda: gate.begun)
    client_of(registry).delete_model_version(name, "1")
    gate.go()
    thread.join(20)
    assert outcomes(queue) == {f"{name}/1": "gone"}


def test_the_gate_is_not_told_the_webhook_secret_and_a_name_is_never_an_option(tmp_path, registry, queue, monkeypatch):
    monkeypatch.setenv("INVMM_GATE_WEBHOOK_SECRET", "the-secret-of-the-webhook")
    create(registry, "--help")
    queue.offer("--help", "1", delivery="a", now=time.time())
    script = 'env; shift; echo "arguments: $@"; exit 1'
    command = ("/bin/sh", "-c", script, "sh")
    worker = Worker(
        queue, registry, None, WorkerSettings(command=command, terms=terms, state=tmp_path / "state", retries=0)
    )
    drain(worker, queue)
    text = next((tmp_path / "state" / "logs").glob("*.log")).read_text()
    assert "arguments: -- --help 1" in text
    assert "the-secret" not in text


def test_stopping_ends_the_gate_with_all_its_children_and_keeps_the_job(tmp_path, registry, queue, name):
    create(registry, name)
    queue.offer(name, "1", delivery="a", now=time.time())
    pids = tmp_path / "pids"
    script = f"trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >> {pids}; sleep 60' & echo $$ >> {pids}; wait; wait"
    here = WorkerSettings(command=("/bin/sh", "-c", script, "sh"), terms=terms, state=tmp_path / "state", grace=0.5)
    worker = Worker(queue, registry, None, here)
    thread = threading.Thread(target=worker.run)
    thread.start()
    until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    began = time.monotonic()
    worker.stop()
    thread.join(50)
    assert time.monotonic() - began < 45  # it would have slept for 60 s
    for pid in pids.read_text().split():
        until(lambda pid=pid: not alive(int(pid)), what=f"the end of {pid}")
    job = queue.find(name, "1")
    assert (job.state, job.attempts) == ("queued", 0)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_registry_that_is_away_costs_no_attempt_and_the_job_waits(tmp_path, queue, gate):
    queue.offer("cand", "1", delivery="a", now=time.time())
    worker = Worker(queue, Registry("http://127.0.0.1:9"), None, settings(tmp_path, gate, retries=0))
    for _ in range(4):
        until(worker.work_once)  # each time it waits a little longer
    assert (queue.find("cand", "1").attempts, queue.find("cand", "1").waits) == (0, 4)
    assert gate.begun == []


# ------------------------------------------------------------------------------------------------------------ claims


def claims(registry, owner, key=KEY, **changes):
    usual = {"settle": 1.0, "lease": 40.0, "vouched": lambda _: True}
    return Claims(registry, Secrets((key,)), owner, **usual | changes)


def take(claims, name, version, wait=time.sleep, terms="terms"):
    return claims.take(name, version, wait, terms=terms)


def test_of_two_that_claim_at_the_same_time_one_gets_it(registry, plain_server, name):
    create(registry, name, 6)
    held = 0
    for version in "123456":
        found = {}
        barrier = threading.Barrier(3)

        def race(owner, version=version, found=found, barrier=barrier):
            here = Registry(plain_server.uri)
            mine = claims(here, owner)
            here.version(name, version)  # connected before the race
            barrier.wait()
            try:
                found[owner] = take(mine, name, version).state
            except RegistryError:  # MLflow answers 400 to the slower of two that set a new tag at once
                found[owner] = "refused"

        threads = [threading.Thread(target=race, args=(owner,)) for owner in ("one", "two", "three")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 3
        assert list(found.values()).count("held") <= 1, found
        held += list(found.values()).count("held")
    assert held > 0


def test_a_claim_keeps_others_away_until_it_ends_or_runs_out(registry, name):
    create(registry, name, 2)
    one, two = claims(registry, "one"), claims(registry, "two")
    held = take(one, name, "1")
    assert held.state == "held"
    assert take(two, name, "1").state == "elsewhere"
    assert take(one, name, "1").state == "held"  # our own, from before a restart
    one.end(held.record, "block", terms="terms")
    ended = take(two, name, "1")
    assert (ended.state, ended.outcome) == ("ended", "block")
    short = claims(registry, "one", lease=0.1)
    assert take(short, name, "2").state == "held"
    assert take(two, name, "2").state == "held"


def test_a_claim_that_is_given_up_is_free(registry, name):
    create(registry, name)
    one, two = claims(registry, "one"), claims(registry, "two")
    one.end(take(one, name, "1").record, "", terms="terms")
    assert take(two, name, "1").state == "held"


def test_a_claim_that_nobody_with_the_secret_made_for_this_version_counts_as_absent(registry, name):
    create(registry, name, 3)
    stranger = claims(registry, "stranger", key=b"another-secret-altogether")
    stranger.end(take(stranger, name, "1").record, "pass", terms="terms")
    mine = claims(registry, "mine")
    assert take(mine, name, "1").state == "held"
    mine.end(registry.version(name, "1"), "pass", terms="terms")
    copied = registry.version(name, "1").tags[CLAIM]
    registry.set_tags(name, "2", {CLAIM: copied})
    registry.set_tags(name, "3", {CLAIM: "v2 x 99999999999.000 pass terms"})
    other = claims(registry, "other")
    assert [take(other, name, version).state for version in "123"] == ["ended", "held", "held"]


def test_a_pass_by_claim_counts_only_where_it_is_vouched_for_and_under_the_same_terms(registry, name):
    create(registry, name, 2)
    one = claims(registry, "one")
    one.end(take(one, name, "1").record, "pass", terms="terms")
    one.end(take(one, name, "2").record, "block", terms="terms")
    assert take(claims(registry, "two"), name, "1", terms="a stricter policy").state == "held"
    one.end(registry.version(name, "1"), "pass", terms="terms")
    assert take(claims(registry, "two"), name, "1").state == "ended"
    unsure = claims(registry, "two", vouched=lambda _: False)
    assert take(unsure, name, "2").outcome == "block"
    assert take(unsure, name, "1").state == "held"


def test_a_receiver_without_roots_gates_by_itself_what_another_says_has_passed(
    tmp_path, plain_server, registry, name, gate
):
    create(registry, name)
    claims(registry, "stranger").end(registry.version(name, "1"), "pass", terms="terms")
    assert sync(door(tmp_path, gate, plain_server.uri, [name])).outcomes == {"pass": 1}
    assert gate.begun == [f"{name}/1"]


def test_a_claimer_whose_write_was_slow_waits_for_the_holder_to_show_itself(registry, name):
    create(registry, name, 2)
    holder, slow = claims(registry, "holder"), claims(registry, "slow", settle=0.0)
    held = take(holder, name, "1")
    registry.delete_tag(name, "1", CLAIM)  # the slow one looked before the holder wrote

    def meanwhile(seconds):
        assert seconds == 20.0  # half a lease
        assert holder.renew(held).state == "held"

    assert take(slow, name, "1", meanwhile).state == "elsewhere"
    assert take(slow, name, "2", lambda _: None).state == "held"


def test_a_holder_whose_claim_ran_out_and_was_taken_is_told(registry, name):
    create(registry, name, 2)
    sleeper, other = claims(registry, "sleeper", lease=0.1), claims(registry, "other")
    held = take(sleeper, name, "1")
    assert sleeper.renew(held).state == "held"  # late, but nobody came
    until(lambda: take(other, name, "1").state == "held", what="a claim that ran out")
    assert sleeper.renew(held).state == "elsewhere"
    client_of(registry).delete_model_version(name, "1")
    assert sleeper.renew(held).state == "gone"


# ------------------------------------------------------------------------------------------------------- whole doors


def passed(served, name, number):
    return all(f"{name} version {version}: pass" in served.lines for version in range(1, number + 1))


def webhook(registry, served, name="gate-hook"):
    client = client_of(registry)
    return client.create_webhook(
        f"{name}-{served.port}",
        f"http://127.0.0.1:{served.port}/hook",
        events=["model_version.created", "model_version_tag.set"],
        secret=KEY.decode(),
    )


def test_a_webhook_of_a_real_server_starts_the_gate_and_a_lost_one_only_delays_it(
    tmp_path, plain_server, registry, name, gate
):
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name]) as served:
        hook = webhook(registry, served)
        try:
            create(registry, name)
            until(lambda: gate.ended == [f"{name}/1"], what="the gate")
            assert "ignored" in until(lambda: "model_version_tag.set" in served.lines and served.lines)  # our own claim
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
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name]):
        until(lambda: set(gate.ended) == {f"{name}/{version}" for version in "123"}, what="all three")


def test_a_gate_left_behind_by_a_kill_is_waited_for_and_not_run_beside_another(tmp_path, plain_server, registry, name):
    gate = Gate(tmp_path / "gate", seconds=60)
    create(registry, name)
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name]) as served:
        assert deliver(served.port, name) == 202
        until(lambda: gate.begun)
        served.kill()
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name]) as served:
        until(lambda: "left behind" in served.lines, what="the wait for the gate")
        assert len(gate.begun) == 1
        gate.go()
        until(lambda: len(gate.ended) == 2, what="the second start")
        until(lambda: f"{name} version 1: pass" in served.lines)
    assert gate.begun == [f"{name}/1"] * 2


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
    with serving(tmp_path / "state", gate, plain_server.uri, names=[name]):
        until(lambda: gate.ended == [f"{name}/1"], what="the gate after the restart")


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
            until(lambda: "waits" in served.lines and "cut short" in served.lines, what="the waiting")
            assert deliver(served.port, "cand", "3") == 202  # still receives
            for version in "12":
                gate.exits("cand", version, 0)
            server.start()
            until(
                lambda: all(f"cand version {number}: pass" in served.lines for number in (1, 2)),
                250,
                what="both verdicts",
            )
            until(lambda: "cand version 3: gone" in served.lines, 250)  # its waits grew with the absence


def test_two_receivers_on_one_registry_gate_every_version_once(tmp_path, plain_server, registry, name):
    gate = Gate(tmp_path / "gate", seconds=0.3)
    create(registry, name, 4)
    uri, options = plain_server.uri, {"names": [name], "listening": {"every": 0.5}, "worker": {"lease": 20.0}}
    with (
        serving(tmp_path / "one", gate, uri, **options) as one,
        serving(tmp_path / "two", gate, uri, **options) as two,
    ):
        hooks = [webhook(registry, served) for served in (one, two)]
        try:
            create(registry, name, 4)
            wanted = {f"{name}/{number}" for number in range(1, 9)}
            until(lambda: set(gate.ended) == wanted, what="all eight")
            for served in (one, two):
                until(lambda served=served: passed(served, name, 8), what="the verdicts at both")
            one.process.send_signal(signal.SIGINT)  # Ctrl-C is a clean end too
            assert one.process.wait(30) == 0
        finally:
            for hook in hooks:
                client_of(registry).delete_webhook(hook.webhook_id)
    assert sorted(gate.begun) == sorted(wanted)


def test_a_pass_over_a_dead_registry_is_one_error(tmp_path, gate):
    with pytest.raises(RegistryError):
        sync(door(tmp_path, gate, "http://127.0.0.1:9", ["cand"]))
