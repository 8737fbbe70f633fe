"""Helpers of the door's tests: signed deliveries, a recording gate, a `serve` process."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from invmm_gate.registry.client.registry_names import Watched
from invmm_gate.registry.client.webhooks import SECRET_VARIABLE, sign
from invmm_gate.registry.service.alias_audit import AliasAudit, ByRecord
from invmm_gate.registry.service.ledger import Ledger
from invmm_gate.registry.service.reconcile import Reconciler

SECRET = "a-webhook-secret-of-some-length"
KEY = SECRET.encode()


def event(name="cand", version="1", *, entity="model_version", action="created", **data):
    """The body of a delivery, as MLflow writes it."""
    content = {"name": name, "version": version, "source": "models:/m-1", "run_id": None, "tags": {}} | data
    return json.dumps(
        {"entity": entity, "action": action, "timestamp": "2026-11-21T16:37:16+00:00", "data": content}
    ).encode()


def headers(body, *, key=KEY, delivery=None, at=None, **others):
    """The headers that MLflow sends with a body."""
    delivery, stamp = delivery or str(uuid.uuid4()), str(int(time.time() if at is None else at))
    return {
        "Content-Type": "application/json",
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": stamp,
        "X-MLflow-Signature": sign(key, delivery=delivery, timestamp=stamp, body=body),
    } | {name.replace("_", "-"): value for name, value in others.items()}


def post(port, body=b"", head=None, path="/hook", method="POST"):
    """Status and decoded answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers(body) if head is None else head)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content), dict(answer.getheaders())
    finally:
        connection.close()


def deliver(port, name="cand", version="1", **signing):
    """Status of a well-formed delivery."""
    body = event(name, version)
    return post(port, body, headers(body, **signing))[0]


def until(true: Callable[[], object], seconds=90.0, what="it"):
    """Polls; the first true value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = true()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def sweeping(registry, folder, *, names=(), doubts=None, terms=lambda: "terms", enforce=False):
    """A reconciler with its ledger in the folder."""
    ledger, watched = Ledger(folder / "ledger.json"), Watched(names=tuple(names))
    doubts = doubts or ByRecord(ledger, terms)
    audit = AliasAudit(registry=registry, watched=watched, doubts=doubts, enforce=enforce)
    return Reconciler(registry=registry, ledger=ledger, audit=audit, terms=terms)


def due(found):
    """Labels of what a pass wants to be gated."""
    return [record.label for record in found.due]


RECORDER = """
import pathlib, sys, time, os
folder, code, seconds = pathlib.Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
name, version = sys.argv[-2:]
assert sys.argv[-3] == "--", sys.argv
told = pathlib.Path(sys.argv[-4].removeprefix("--outcome="))
with (folder / "begun").open("a") as file:
    file.write(f"{name}/{version} {os.getpid()}\\n")
until = time.time() + seconds
while time.time() < until and not (folder / "go").exists():
    time.sleep(0.02)
with (folder / "ended").open("a") as file:
    file.write(f"{name}/{version}\\n")
print("gated", name, version)
chosen = folder / f"exit-{name}-{version}"
code = int(chosen.read_text()) if chosen.exists() else int(code)
ended = {0: "pass", 10: "block", 2: "bad_input", 11: "inconclusive"}.get(code)
says = folder / f"says-{name}-{version}"
ended = says.read_text() if says.exists() else ended
if ended and not (folder / f"broken-{name}-{version}").exists():
    told.write_text('{"name": "%s", "terms": "%s"}' % (ended, (folder / "terms").read_text()))
sys.exit(code)
"""


class Gate:
    """A small real program in the gate's place: it records its calls and ends with a chosen exit code."""

    def __init__(self, folder: Path, code=0, seconds=0.0):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.judges_under("terms")
        (folder / "gate.py").write_text(RECORDER)
        self.command = (sys.executable, "-S", str(folder / "gate.py"), str(folder), str(code), str(seconds))

    def judges_under(self, terms):
        """Policy, probe set and so on from now on."""
        (self.folder / "terms").write_text(terms)

    def terms(self):
        """What versions are judged under now."""
        return (self.folder / "terms").read_text()

    def exits(self, name, version, code):
        """The exit code for one version."""
        (self.folder / f"exit-{name}-{version}").write_text(str(code))

    def breaks(self, name, version, code):
        """An exit code for one version that is no end: the gate itself cannot work."""
        self.exits(name, version, code)
        (self.folder / f"broken-{name}-{version}").touch()

    def says(self, name, version, outcome):
        """The outcome that it tells of for one version, whatever its exit code."""
        (self.folder / f"says-{name}-{version}").write_text(outcome)

    def works(self, name, version, code):
        """As `exits`, after `breaks`."""
        self.exits(name, version, code)
        (self.folder / f"broken-{name}-{version}").unlink()

    def go(self):
        """Let every gate that waits end."""
        (self.folder / "go").touch()

    @property
    def begun(self) -> list[str]:
        """Versions, in the order in which their gates began."""
        return self._lines("begun")

    @property
    def ended(self) -> list[str]:
        """Versions, in the order in which their gates ended."""
        return self._lines("ended")

    def _lines(self, name):
        path = self.folder / name
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


SERVE = """
import json, sys
from pathlib import Path
from invmm_gate.registry.client.registry_names import Watched
from invmm_gate.core.options import Listening
from invmm_gate.registry.service.serve import Door, log_to_stderr, serve
from invmm_gate.registry.service.worker import WorkerSettings
given = json.loads(sys.argv[1])
log_to_stderr()
worker = WorkerSettings(command=tuple(given["command"]), state=Path(given["state"]),
                        terms=(Path(given["gate"]) / "terms").read_text, **given["worker"])
door = Door(tracking_uri=given["uri"], worker=worker, watched=Watched(names=tuple(given["names"])))
sys.exit(serve(door, Listening(port=0, **given["listening"])))
"""


class Served:
    """A `serve` process with another gate command."""

    def __init__(self, process, log):
        self.process, self.log = process, log
        self.port = None

    @property
    def lines(self) -> str:
        """What it logged."""
        return self.log.read_text()

    def ready(self):
        """Wait until it listens."""

        def port():
            assert self.process.poll() is None, self.lines
            found = [line for line in self.lines.splitlines() if "listening on" in line]
            return found and int(found[0].rpartition(":")[2].partition("/")[0])

        self.port = until(port, what="the receiver")
        return self

    def kill(self):
        """kill -9, this process only."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(50)


@contextmanager
def serving(state: Path, gate: Gate, uri: str, *, names=(), worker=None, listening=None):
    """A running `serve`; killed at the end if it still runs."""
    state.mkdir(parents=True, exist_ok=True)
    given = {
        "command": gate.command,
        "gate": str(gate.folder),
        "state": str(state),
        "uri": uri,
        "names": names,
        "worker": {"first_wait": 0.2, "grace": 2.0} | (worker or {}),
        "listening": {"every": 3600.0} | (listening or {}),
    }
    log = state / f"serve-{uuid.uuid4().hex[:6]}.txt"
    environment = os.environ | {SECRET_VARIABLE: SECRET, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, json.dumps(given)], stdout=output, stderr=output, env=environment
        )
    try:
        yield Served(process, log).ready()
    finally:
        process.kill()
        process.wait()
