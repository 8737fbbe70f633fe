"""The queue: nothing that was accepted is lost, nothing runs twice at once, whatever dies when."""

import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from invmm_gate.core.errors import ConfigError
from invmm_gate.registry.service.disks import file_system, refuse_network_disk
from invmm_gate.registry.service.queue import KEEP_DELIVERIES, LONGEST_WAIT, Queue

LEASE = 60.0


@pytest.fixture
def queue(tmp_path):
    found = Queue(tmp_path / "state" / "queue.sqlite")
    yield found
    found.close()


def ended(queue, job, outcome="pass", state="done", now=0.0):
    return queue.finish(job, state=state, outcome=outcome, terms="terms", exit_code=0, log="x.log", now=now)


def test_deliveries_of_one_version_make_one_job(queue):
    offers = [queue.offer("cand", "1", delivery=f"d{number}", now=1) for number in range(5)]
    assert offers == ["queued"] + ["known"] * 4
    assert queue.counts() == {"queued": 1, "running": 0, "done": 0, "failed": 0}


def test_versions_are_taken_in_turn_and_only_once(queue):
    for version in "321":
        queue.offer("cand", version, delivery=version, now=1)
    taken = [queue.claim("me", now=2, lease=LEASE) for _ in range(4)]
    assert [job and job.version for job in taken] == ["3", "2", "1", None]


def test_a_lease_that_ran_out_gives_the_job_to_another_and_the_first_can_change_nothing(queue):
    queue.offer("cand", "1", delivery="a", now=0)
    first = queue.claim("one", now=0, lease=LEASE)
    assert queue.claim("two", now=LEASE - 1, lease=LEASE) is None
    second = queue.claim("two", now=LEASE, lease=LEASE)
    assert (second.id, second.attempts) == (first.id, 2)
    assert not queue.renew(first, until=2 * LEASE)
    assert not queue.release(first, not_before=0, counted=True)
    assert not ended(queue, first, "block")
    assert ended(queue, second)
    assert queue.find("cand", "1").outcome == "pass"


def test_a_renewed_lease_holds(queue):
    queue.offer("cand", "1", delivery="a", now=0)
    job = queue.claim("one", now=0, lease=LEASE)
    assert queue.renew(job, until=2 * LEASE - 1)
    assert queue.claim("two", now=LEASE + 1, lease=LEASE) is None


def test_a_released_job_waits_for_its_time_and_counts_only_fair_attempts(queue):
    queue.offer("cand", "1", delivery="a", now=0)
    queue.release(queue.claim("me", now=0, lease=LEASE), not_before=100, counted=False)
    assert queue.claim("me", now=99, lease=LEASE) is None
    job = queue.claim("me", now=100, lease=LEASE)
    assert (job.attempts, job.waits) == (1, 1)
    queue.release(job, not_before=200, counted=True)
    job = queue.claim("me", now=200, lease=LEASE)
    assert (job.attempts, job.waits) == (2, 0)


def test_a_clock_that_was_set_back_does_not_hold_a_job_for_ever(queue):
    now = 1_000_000.0
    queue.offer("cand", "1", delivery="a", now=now)
    queue.release(queue.claim("me", now=now, lease=LEASE), not_before=now + 60, counted=True)
    assert queue.claim("me", now=now - 2 * LONGEST_WAIT, lease=LEASE) is not None


def test_what_the_registry_lists_is_queued_once_and_again_if_it_was_made_anew(queue):
    def notice(made, again=False, terms="terms"):
        return queue.notice("cand", "1", created_at_ms=made, terms=terms, now=0, again=again)

    assert notice(1000)
    assert not notice(1000)
    job = queue.claim("me", now=0, lease=LEASE)
    assert not notice(1000)
    ended(queue, job, "block")
    assert not notice(1000)
    assert not notice(1000, again=True)  # a block is a verdict
    assert notice(1000, terms="a stricter policy")
    ended(queue, queue.claim("me", now=0, lease=LEASE), "block")
    assert notice(2000)  # the model was deleted and made again: other files under the same number
    assert queue.claim("me", now=0, lease=LEASE).created_at_ms == 2000


@pytest.mark.parametrize(("state", "outcome"), [("failed", "error"), ("done", "inconclusive"), ("done", "bad_input")])
def test_what_has_no_verdict_is_queued_again_only_on_request(queue, state, outcome):
    queue.notice("cand", "1", created_at_ms=1, terms="terms", now=0)
    ended(queue, queue.claim("me", now=0, lease=LEASE), outcome, state)
    assert not queue.notice("cand", "1", created_at_ms=1, terms="terms", now=0)
    assert queue.notice("cand", "1", created_at_ms=1, terms="terms", now=0, again=True)
    assert queue.claim("me", now=0, lease=LEASE).attempts == 1


def test_a_version_that_was_gone_is_queued_when_the_registry_lists_it(queue):
    queue.offer("example_model", "1", delivery="test", now=0)
    ended(queue, queue.claim("me", now=0, lease=LEASE), "gone")
    assert queue.notice("example_model", "1", created_at_ms=5, terms="terms", now=0)


def test_deliveries_are_forgotten_only_when_their_age_alone_refuses_them(queue):
    queue.offer("cand", "1", delivery="old", now=0)
    queue.offer("cand", "1", delivery="new", now=1000)
    queue.prune(now=KEEP_DELIVERIES + 500)
    assert queue.offer("cand", "1", delivery="old", now=0) == "known"
    assert queue.offer("cand", "1", delivery="new", now=0) == "replay"


def test_the_files_are_private_and_the_owner_stays(tmp_path):
    path = tmp_path / "state" / "queue.sqlite"
    first = Queue(path)
    first.offer("cand", "1", delivery="a", now=0)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes) == {"queue.sqlite", "queue.sqlite-wal", "queue.sqlite-shm"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    owner = first.owner
    first.close()
    assert Queue(path).owner == owner


@pytest.mark.parametrize("content", [b"not a database at all, but long enough" * 100, b"SQLite format 3\0"])
def test_another_file_in_its_place_is_said_in_one_line_and_left_alone(tmp_path, content):
    path = tmp_path / "queue.sqlite"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot use") as error:
        Queue(path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


def test_a_queue_of_another_layout_or_a_link_is_refused(tmp_path):
    path = tmp_path / "queue.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(ConfigError, match="layout"):
        Queue(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ConfigError, match="cannot use"):
        Queue(tmp_path / "link")


FULL = """
import resource, signal, sys
from pathlib import Path
from invmm_gate.registry.service.queue import Queue, QueueError
queue = Queue(Path(sys.argv[1]))
queue.offer("cand", "1", delivery="a", now=0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # as if the disk had no room for more
try:
    for number in range(2000):
        queue.offer("cand", str(number + 2), delivery=f"{number}" + "x" * 100, now=0)
except QueueError as error:
    print(error, error.exit_code)
"""


def test_a_full_disk_is_an_error_and_what_was_accepted_stays(tmp_path):
    path = tmp_path / "queue.sqlite"
    child = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"the queue .* failed: .*; see that its disk has room 11\n", child.stdout)
    queue = Queue(path)
    assert queue.offer("cand", "1", delivery="a", now=0) == "replay"
    queue.close()


def test_network_file_systems_are_refused(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"21 20 0:5 / {tmp_path}/with\\040room rw shared:1 - nfs4 host:/x rw\n"
        f"22 21 8:2 / {tmp_path}/with\\040room/local rw - xfs /dev/sdb rw\n"
    )
    assert file_system(tmp_path, mounts) == "ext4"
    assert file_system(tmp_path / "with room" / "local" / "a", mounts) == "xfs"
    with pytest.raises(ConfigError, match="nfs4"):
        refuse_network_disk(tmp_path / "with room" / "a", mounts)
    assert file_system(tmp_path, tmp_path / "none") == ""
    assert file_system(tmp_path) != ""


class QueueUnderCrashes(RuleBasedStateMachine):
    """Workers that take, renew, finish, die and come back too late, on a real file that is closed and opened again."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "queue.sqlite"
        self.queue, self.now = Queue(self.path), 1000.0
        self.accepted: dict[str, str] = {}
        self.verdicts: dict[str, list[str]] = {}
        self.held: list = []
        """(job, the time until which its holder may believe that it holds it)."""

    @rule(version=st.sampled_from("123456"), delivery=st.integers(0, 15))
    def deliver(self, version, delivery):
        known = self.accepted.get(f"d{delivery}")
        offered = self.queue.offer("cand", version, delivery=f"d{delivery}", now=self.now)
        assert (offered == "replay") == (known is not None)
        self.accepted.setdefault(f"d{delivery}", version)

    @rule()
    def take(self):
        job = self.queue.claim("me", now=self.now, lease=LEASE)
        if job is not None:
            holders = [other for other, until in self.held if other.version == job.version and until > self.now]
            assert holders == [], "two workers on one version at once"
            self.held.append((job, self.now + LEASE))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), outcome=st.sampled_from(["pass", "block", "inconclusive"]))
    def finish(self, data, outcome):
        job, until = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        done = self.queue.finish(job, state="done", outcome=outcome, terms="terms", exit_code=0, log="", now=self.now)
        assert done or until <= self.now, "a holder in time was turned away"
        if done:
            self.verdicts.setdefault(job.version, []).append(outcome)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), counted=st.booleans(), wait=st.floats(0, 100))
    def release(self, data, counted, wait):
        job, until = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        assert self.queue.release(job, not_before=self.now + wait, counted=counted) or until <= self.now

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def renew(self, data):
        place = data.draw(st.integers(0, len(self.held) - 1))
        job, until = self.held.pop(place)
        if self.queue.renew(job, until=self.now + LEASE):
            self.held.append((job, self.now + LEASE))
        else:
            assert until <= self.now

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def a_worker_dies(self, data):
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))

    @rule(keep=st.booleans())
    def the_process_dies(self, keep):
        """In the middle of a change that nobody was told of."""
        dying = sqlite3.connect(self.path, isolation_level=None)
        for statement in ("BEGIN IMMEDIATE", "DELETE FROM jobs", "DELETE FROM deliveries"):
            dying.execute(statement)
        dying.close()
        self.queue.close()
        self.queue = Queue(self.path)
        if not keep:
            self.held.clear()

    @rule(seconds=st.floats(0, 2 * LEASE))
    def time_passes(self, seconds):
        self.now += seconds

    @invariant()
    def nothing_is_lost(self):
        assert {job.version for job in self.queue.jobs()} == set(self.accepted.values())
        assert all(len(found) == 1 for found in self.verdicts.values()), "a version was judged twice"

    def teardown(self):
        """Whatever happened, one worker that goes on brings every version to its end."""
        for _ in range(100):
            self.now += LONGEST_WAIT
            job = self.queue.claim("last", now=self.now, lease=LEASE)
            if job is None:
                break
            ended(self.queue, job)
        assert self.queue.counts()["done"] == len(set(self.accepted.values()))
        self.queue.close()
        self.folder.cleanup()


QueueUnderCrashes.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_no_job_is_lost_or_run_twice_whatever_dies = QueueUnderCrashes.TestCase


KILLED = """
import sys, time
from pathlib import Path
from invmm_gate.registry.service.queue import Queue
queue, run = Queue(Path(sys.argv[1])), 1 + int(sys.argv[2])
for number in range(100_000):
    queue.offer("cand", f"{run}{number:05d}", delivery=f"{run}-{number}", now=time.time())
    job = queue.claim("me", now=time.time(), lease=0.0)
    if number % 3 == 0:
        queue.finish(job, state="done", outcome="pass", terms="terms", exit_code=0, log="", now=time.time())
        print(f"done {job.version}", flush=True)
    print(f"accepted {run}-{number}", flush=True)
"""


def test_what_was_acknowledged_survives_kill_9_at_any_time(tmp_path):
    path, said = tmp_path / "queue.sqlite", []
    for run in range(6):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(path), str(run)], stdout=subprocess.PIPE, text=True)
        said += [child.stdout.readline() for _ in range(15 + 7 * run)]
        os.kill(child.pid, signal.SIGKILL)
        said += child.stdout.readlines()
        child.wait()
        child.stdout.close()
    queue = Queue(path)
    words = [line.split() for line in said if line.endswith("\n")]
    accepted = [word for kind, word in words if kind == "accepted"]
    assert len(accepted) > 60
    assert {queue.offer("cand", "1", delivery=word, now=time.time()) for word in accepted} == {"replay"}
    done = {job.version for job in queue.jobs() if job.state == "done"}
    assert {word for kind, word in words if kind == "done"} <= done
    queue.close()
