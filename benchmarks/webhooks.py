"""Deliveries to a receiver that is killed again and again: what is lost, gated twice, or accepted although forged.

    python benchmarks/webhooks.py --deliveries 500 --kills 50

Starts `serve` as a process on loopback, with a gate that is a small program which records its calls. The process is
killed with SIGKILL at random moments, also while it starts, and started again at once; the gates that it leaves behind
go on. Half of the deliveries are sent meanwhile, each once, and are lost where nobody listens; the other half goes to
the last receiver, many at a time. A fifth repeats an earlier delivery to the byte, a fifth is signed with another
secret, the rest tells of one new version each. Exits with 1 unless every version has one verdict of one gate.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from invmm_gate.core.options import Listening
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.registry_names import Watched
from invmm_gate.registry.client.webhooks import SECRET_VARIABLE, sign
from invmm_gate.registry.service.serve import Door, log_to_stderr, serve
from invmm_gate.registry.service.worker import WorkerSettings

KEY = b"the-secret-of-the-benchmark"
FORGED = b"somebody-elses-secret-text"
MODEL = "candidate"
GATE = """printf '%s\\n' "$4" >> "{0}/begun"; sleep 1.5; printf '%s\\n' "$4" >> "{0}/ended"
printf '{{"name": "pass"}}' > "${{1#--outcome=}}" """
UNANSWERED = 0
PATIENCE = 600.0
"""Seconds for the gates of the last receiver."""


@dataclass(frozen=True)
class Delivery:
    """A request and its kind."""

    kind: str
    data: bytes


@dataclass(frozen=True)
class Answer:
    """What became of a delivery."""

    kind: str
    status: int
    seconds: float


def delivery(kind: str, version: str, key: bytes) -> Delivery:
    """The bytes that MLflow would send."""
    content = {"name": MODEL, "version": version, "source": "models:/m-1", "run_id": None, "tags": {}}
    body = json.dumps({"entity": "model_version", "action": "created", "timestamp": "", "data": content}).encode()
    name, stamp = str(uuid.uuid4()), str(int(time.time()))
    lines = [
        "POST /hook HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"X-MLflow-Delivery-Id: {name}",
        f"X-MLflow-Timestamp: {stamp}",
        f"X-MLflow-Signature: {sign(key, delivery=name, timestamp=stamp, body=body)}",
    ]
    return Delivery(kind, "\r\n".join([*lines, "", ""]).encode() + body)


class Sender:
    """Makes the deliveries as they are sent; a new version is in the registry before its delivery."""

    def __init__(self, registry: Registry, folder: Path, count: int, chance: random.Random) -> None:
        self.registry, self.folder, self.chance = registry, folder, chance
        kinds = ["forged"] * (count // 5) + ["replay"] * (count // 5)
        self.kinds = kinds + ["good"] * (count - len(kinds))
        chance.shuffle(self.kinds)
        self.sent: list[Delivery] = []
        self.versions = self.created = 0
        self.answers: list[Answer] = []

    def made(self) -> Delivery:
        kind = self.kinds.pop()
        if kind == "replay" and self.sent:
            return Delivery(kind, self.chance.choice(self.sent[-20:]).data)
        if kind == "forged":
            return delivery(kind, "1", FORGED)
        self.versions += 1
        self.create(self.versions)
        self.sent.append(delivery("good", str(self.versions), KEY))
        return self.sent[-1]

    def create(self, number: int) -> None:
        """Versions up to this number."""
        while self.created < number:
            self.registry.create_version(MODEL, str(self.folder / "mlartifacts"), tags={}, run_id=None)
            self.created += 1

    async def send(self, port: int, one: Delivery, after: float = 0.0) -> None:
        """Once, connection included; a sender that gets no answer does not try again."""
        await asyncio.sleep(after)
        began = time.perf_counter()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(one.data)
            answer = await reader.read()
            writer.close()
            status = int(answer.split(b" ", 2)[1]) if answer else UNANSWERED
        except ConnectionError:
            status = UNANSWERED
        self.answers.append(Answer(one.kind, status, time.perf_counter() - began))

    async def send_all(self, port: int, concurrent: int) -> float:
        """What is left, so many at a time; the seconds that it took."""
        left, slots = [self.made() for _ in range(len(self.kinds))], asyncio.Semaphore(concurrent)

        async def guarded(one: Delivery) -> None:
            async with slots:
                await self.send(port, one)

        began = time.perf_counter()
        await asyncio.gather(*map(guarded, left))
        return time.perf_counter() - began


def receive(folder: Path, port: int) -> int:
    """The receiver's process."""
    os.environ[SECRET_VARIABLE] = KEY.decode()
    log_to_stderr()
    command = ("/bin/sh", "-c", GATE.format(folder), "sh")
    worker = WorkerSettings(command=command, terms=lambda: "benchmark", state=folder / "state", first_wait=0.2)
    door = Door(tracking_uri=uri(folder), worker=worker, watched=Watched())
    return serve(door, Listening(port=port, every=5.0, workers=2))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def started(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, __file__, "--receive", str(folder), "--port", str(port)]
    with (folder / "receiver.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


async def listening(port: int) -> None:
    """Wait until somebody does."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


async def killed_often(sender: Sender, port: int, kills: int) -> int:
    """Half of the deliveries, spread over so many lives of the receiver; how often a gate was under way at a kill."""
    half, busy = len(sender.kinds) // 2, 0
    sender.create(sender.kinds[-half:].count("good"))  # so that there is always something to be gated
    began, process = time.perf_counter(), started(sender.folder, port)
    while not lines(sender.folder, "begun"):
        await asyncio.sleep(0.05)
    longest = 3 * (time.perf_counter() - began)
    for life in range(kills):
        lasts = sender.chance.uniform(0.0, longest)
        number = half * (life + 1) // kills - half * life // kills
        at = [sender.chance.uniform(0.0, lasts) for _ in range(number)]
        tasks = [asyncio.create_task(sender.send(port, sender.made(), after)) for after in at]
        await asyncio.sleep(lasts)
        process.kill()
        process.wait()
        busy += len(lines(sender.folder, "begun")) > len(lines(sender.folder, "ended"))
        await asyncio.gather(*tasks)
        process = started(sender.folder, port)
    process.kill()
    process.wait()
    return busy


def lines(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text().split() if path.exists() else []


def verdicts(folder: Path) -> dict[str, str]:
    path = folder / "state" / "ledger.json"
    found = json.loads(path.read_text())["versions"] if path.exists() else {}
    return {label.rpartition("/")[2]: entry["state"] for label, entry in found.items()}


async def run(folder: Path, given: argparse.Namespace) -> int:
    registry = Registry(uri(folder))
    registry.create_version("other-release", str(folder / "mlartifacts"), tags={}, run_id=None)  # makes the database
    sender = Sender(registry, folder, given.deliveries, random.Random(given.seed))
    began = time.perf_counter()
    busy = await killed_often(sender, given.port, given.kills)
    killing = time.perf_counter() - began
    while_killed, sender.answers = sender.answers, []
    last = started(folder, given.port)
    await listening(given.port)
    sending = await sender.send_all(given.port, given.concurrent)
    until = time.perf_counter() + PATIENCE
    while list(verdicts(folder).values()).count("pass") < sender.versions and time.perf_counter() < until:
        await asyncio.sleep(0.3)
    last.send_signal(signal.SIGTERM)
    print(f"{given.kills} kills in {killing:.0f} s, {busy} of them while a gate was under way")
    told("while it was killed", while_killed)
    times = sorted(answer.seconds * 1000 for answer in sender.answers)
    cuts = quantiles(times, n=100)
    told(f"afterwards, {given.concurrent} at a time", sender.answers)
    print(f"  {len(times) / sending:.0f}/s; answer time: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms")
    wrong = faults(folder, sender, while_killed) | {"last receiver's exit code": last.wait(60)}
    print(f"{sender.versions} versions; " + ", ".join(f"{name} {number}" for name, number in wrong.items()))
    return 1 if any(wrong.values()) else 0


def told(when: str, answers: list[Answer]) -> None:
    counts = Counter((answer.kind, answer.status or "no answer") for answer in answers)
    print(
        f"{len(answers)} deliveries {when}: " + ", ".join(f"{kind} {what} x{n}" for (kind, what), n in counts.items())
    )


def faults(folder: Path, sender: Sender, while_killed: list[Answer]) -> dict[str, int]:
    """How often something is not as it must be."""
    wanted = {str(number + 1) for number in range(sender.versions)}
    begun, ended, found = Counter(lines(folder, "begun")), Counter(lines(folder, "ended")), verdicts(folder)
    fine = {"good": 202, "replay": 202, "forged": 401}
    return {
        "without a verdict": sum(found.get(version) != "pass" for version in wanted),
        "gated twice": sum(count > 1 for count in (begun | ended).values()),
        "gated and not there": len(begun.keys() - wanted),
        "answered wrongly": sum(answer.status not in (fine[answer.kind], UNANSWERED) for answer in while_killed)
        + sum(answer.status != fine[answer.kind] for answer in sender.answers),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deliveries", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--concurrent", type=int, default=50)
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--receive", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.receive:
        return receive(given.receive, given.port)
    if not 10 <= given.deliveries <= 1000 or not 1 <= given.concurrent <= 200 or not 1 <= given.kills <= 500:
        parser.error("10 to 1000 deliveries, at most 200 at a time, 1 to 500 kills")
    given.port = given.port or free_port()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        return asyncio.run(run(Path(name), given))


if __name__ == "__main__":
    sys.exit(main())
