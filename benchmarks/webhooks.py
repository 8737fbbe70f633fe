"""Deliveries to a real receiver at many connections: what is lost, run twice, or run although it was forged.

    python benchmarks/webhooks.py --deliveries 500 --concurrent 50

Starts a receiver with its queue, and a worker whose gate is a small program that records its calls, on loopback. A
fifth of the deliveries repeats an earlier one to the byte, a fifth is signed with another secret; the rest name one new
version each. The versions exist in a registry file, so the worker looks each of them up. Prints answer times, counts
of answers, and exits with 1 if anything was lost, run twice, or run although it was forged.
"""

import argparse
import asyncio
import json
import logging
import random
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.watched import Watched
from invmm_gate.registry.client.webhook_signature import Secrets, sign
from invmm_gate.registry.service.http_server import HttpServer, bind
from invmm_gate.registry.service.logs import LOGGER
from invmm_gate.registry.service.queue import Queue
from invmm_gate.registry.service.receiver import Receiver, build_app
from invmm_gate.registry.service.worker import Worker, WorkerSettings

KEY = b"the-secret-of-the-benchmark"
FORGED = b"somebody-elses-secret-text"
MODEL = "candidate"
GATE = """printf '%s\\n' "$4" >> "{begun}"; printf '{{"name": "pass"}}' > "${{1#--outcome=}}" """


@dataclass(frozen=True)
class Delivery:
    """A request, its kind, and the version that it names."""

    kind: str
    version: str
    data: bytes


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
    return Delivery(kind, version, "\r\n".join([*lines, "", ""]).encode() + body)


def planned(count: int, chance: random.Random) -> list[Delivery]:
    """Good, replayed and forged deliveries in random order, each replay somewhere after its original."""
    forged = [delivery("forged", str(10_000 + number), FORGED) for number in range(count // 5)]
    good = [delivery("good", str(number + 1), KEY) for number in range(count - 2 * (count // 5))]
    replays = [Delivery("replay", one.version, one.data) for one in chance.choices(good, k=count // 5)]
    mixed = [*good, *forged]
    chance.shuffle(mixed)
    for replay in replays:
        first = next(at for at, one in enumerate(mixed) if one.kind == "good" and one.data == replay.data)
        mixed.insert(chance.randint(first + 1, len(mixed)), replay)
    return mixed


async def send(port: int, one: Delivery) -> tuple[int, float]:
    """Status and seconds, connection included."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(one.data)
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]), time.perf_counter() - began


async def send_all(port: int, deliveries: list[Delivery], concurrent: int) -> list[tuple[int, float]]:
    """In their order, so many at a time."""
    slots = asyncio.Semaphore(concurrent)

    async def guarded(one: Delivery) -> tuple[int, float]:
        async with slots:
            return await send(port, one)

    return await asyncio.gather(*(guarded(one) for one in deliveries))


def registry_with(folder: Path, versions: int) -> Registry:
    """A registry in a file, with so many versions without files."""
    registry = Registry(f"sqlite:///{folder / 'mlflow.db'}")
    for _ in range(versions):
        registry.create_version(MODEL, str(folder / "mlartifacts"), tags={}, run_id=None)
    return registry


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deliveries", type=int, default=500)
    parser.add_argument("--concurrent", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not 5 <= given.deliveries <= 5000 or not 1 <= given.concurrent <= 200:
        parser.error("at most 5000 deliveries, 200 at a time")
    deliveries = planned(given.deliveries, random.Random(given.seed))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        LOGGER.addHandler(logging.FileHandler(folder / "lines"))
        LOGGER.setLevel(logging.INFO)
        good = sum(one.kind == "good" for one in deliveries)
        registry, queue, begun = registry_with(folder, good), Queue(folder / "queue.sqlite"), folder / "begun"
        command = ("/bin/sh", "-c", GATE.format(begun=begun), "sh")
        worker = Worker(queue, registry, None, WorkerSettings(command=command, terms=lambda: "benchmark", state=folder))
        receiver = Receiver(queue=queue, secrets=Secrets((KEY,)), watched=Watched(), queued=worker.wake)
        threads = [threading.Thread(target=worker.run) for _ in range(2)]
        with HttpServer(build_app(receiver), bind("127.0.0.1", 0)) as server:
            for thread in threads:
                thread.start()
            started = time.perf_counter()
            answers = asyncio.run(send_all(server.port, deliveries, given.concurrent))
            seconds = time.perf_counter() - started
            while queue.counts()["queued"] or queue.counts()["running"]:
                time.sleep(0.1)
            worked = time.perf_counter() - started
        worker.stop()
        for thread in threads:
            thread.join()
        runs = Counter(begun.read_text().split())
    return report(deliveries, answers, runs, seconds=seconds, worked=worked)


def report(
    deliveries: list[Delivery], answers: list[tuple[int, float]], runs: Counter[str], *, seconds: float, worked: float
) -> int:
    """Prints the figures; 1 if one of them is not as it must be."""
    wanted = {one.version for one in deliveries if one.kind == "good"}
    times = [taken * 1000 for _, taken in answers]
    cuts = quantiles(times, n=100)
    statuses = Counter((one.kind, status) for one, (status, _) in zip(deliveries, answers, strict=True))
    wrong = {
        "lost": len(wanted - set(runs)),
        "run twice": sum(count > 1 for count in runs.values()),
        "forged and run": len(set(runs) - wanted),
        "answered wrongly": sum(
            status not in {"good": (202, 200), "replay": (202, 200), "forged": (401,)}[kind]
            for (kind, status) in statuses.elements()
        ),
    }
    print(f"{len(deliveries)} deliveries in {seconds:.2f} s ({len(deliveries) / seconds:.0f}/s)")
    print(f"answer time: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, longest {max(times):.1f} ms")
    for (kind, status), number in sorted(statuses.items()):
        print(f"  {kind}: {number} answered {status}")
    print(f"{len(runs)} versions gated in {worked:.1f} s; " + ", ".join(f"{name} {n}" for name, n in wrong.items()))
    return 1 if any(wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
