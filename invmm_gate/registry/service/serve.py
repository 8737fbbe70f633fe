"""`serve`: the receiver, the reconcile loop and the workers put together."""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from invmm_gate.attest.demands import demands_of
from invmm_gate.core.errors import INTERNAL_ERROR, PASS, ConfigError
from invmm_gate.core.options import GateChoices
from invmm_gate.policy.schema import load_policy
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.names import candidate_name, release_name
from invmm_gate.registry.client.watched import Watched
from invmm_gate.registry.client.webhook_signature import Secrets
from invmm_gate.registry.guard.settings import protected_by_default
from invmm_gate.registry.promote.choices import check_choices, outbox_of, terms_now, trusted_roots
from invmm_gate.registry.promote.gate_version import as_ours
from invmm_gate.registry.promote.held_attestations import ByAttestation, Doubts
from invmm_gate.registry.promote.outbox import Outbox, Parcel
from invmm_gate.registry.service.claims import Claims
from invmm_gate.registry.service.gate_command import TRACKING_URI, gate_command
from invmm_gate.registry.service.logs import LOGGER
from invmm_gate.registry.service.queue import Queue
from invmm_gate.registry.service.reconcile import ReconcileLoop, Reconciler
from invmm_gate.registry.service.recorded_pass import ByRecord
from invmm_gate.registry.service.worker import Worker, WorkerSettings

_LOOK_EVERY: Final = 0.2
_PATH: Final = re.compile(r"(/[A-Za-z0-9_.-]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What `serve` and `sync` share."""

    tracking_uri: str
    worker: WorkerSettings
    watched: Watched
    secrets: Secrets | None
    """Of the webhook; without them no claims are made, and this must be the only machine that gates the registry."""
    aliases: frozenset[str] = frozenset(("champion",))
    enforce: bool = False
    settle: float = 2.0
    """Seconds between writing a claim and reading it back."""
    depth: int = 10_000
    vouch: Callable[[Registry], Doubts] | None = None
    """How an alias, and a pass of another receiver, is checked; by default an alias by this queue's own records."""
    outbox: Outbox | None = None
    """The gate's outbox."""
    ours: Callable[[Parcel], Parcel] | None = None
    """Puts what waits there under this gate's own keys and policy."""

    def queue(self) -> Queue:
        """The queue of the state folder. Raises ConfigError."""
        return Queue(self.worker.state / "queue.sqlite", depth=self.depth)

    def new_worker(self, queue: Queue) -> Worker:
        """A worker with a registry client of its own."""
        registry = Registry(self.tracking_uri)
        claims = None
        if self.secrets is not None:
            claims = Claims(
                registry,
                self.secrets,
                queue.owner,
                vouched=self._vouched(registry),
                lease=self.worker.lease,
                settle=self.settle,
            )
        return Worker(queue, registry, claims, self.worker)

    def _vouched(self, registry: Registry) -> Callable[[VersionRecord], bool]:
        """Another receiver's pass is proved by what it left in the registry; without roots nothing proves it."""
        if self.vouch is None:
            return lambda _: False
        doubts = self.vouch(registry)
        return lambda record: not doubts.of_alias(record)

    def reconciler(self, queue: Queue) -> Reconciler:
        """A reconciler with a registry client of its own."""
        registry = Registry(self.tracking_uri)
        return Reconciler(
            registry=registry,
            queue=queue,
            watched=self.watched,
            doubts=self.vouch(registry) if self.vouch else ByRecord(queue, self.worker.terms),
            terms=self.worker.terms,
            aliases=self.aliases,
            enforce=self.enforce,
            outbox=self.outbox,
            ours=self.ours,
        )


def door_for(
    choices: GateChoices,
    *,
    tracking_uri: str,
    state: Path,
    watched: Watched,
    secrets: Secrets | None,
    protected: Sequence[str] = (),
    enforce: bool = False,
    retries: int = 3,
    depth: int = 10_000,
    settle: float = 2.0,
) -> Door:
    """The door for versions that are gated by these choices. Raises ConfigError for a slip in them, before any work."""
    for name in watched.names or ("model",):
        check_choices(choices, candidate_name(name, choices.release_name))
        _tell_if_open(release_name(name, choices.release_name), choices.alias)
    terms_now(choices)
    roots, scratch = trusted_roots(choices), state / "scratch"
    vouch = None
    if roots is not None:
        policies = {load_policy(choices.policy).digest: choices.policy}
        demands = partial(demands_of, choices.conditions, roots=roots, policies=policies, weights=choices.weights)
        vouch = partial(ByAttestation, demands=demands, scratch=scratch)
    return Door(
        tracking_uri=tracking_uri,
        worker=WorkerSettings(
            command=gate_command(choices),
            environment={TRACKING_URI: tracking_uri},
            state=state,
            terms=partial(terms_now, choices),
            retries=retries,
        ),
        watched=watched,
        secrets=secrets,
        aliases=frozenset((choices.alias, *protected)) - {""},
        enforce=enforce,
        settle=settle,
        depth=depth,
        vouch=vouch,
        outbox=outbox_of(choices),
        ours=partial(as_ours, choices=choices),
    )


def _tell_if_open(name: str, alias: str) -> None:
    if alias and not protected_by_default(name, alias):
        LOGGER.warning(
            "alias %s of %s is protected only by a guard that is started with --alias %s", alias, name, alias
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where and how `serve` is reached."""

    host: str = "127.0.0.1"
    port: int = 8765
    path: str = "/hook"
    every: float = 60.0
    """Seconds between two reconcile passes."""
    workers: int = 1

    def __post_init__(self) -> None:
        """Raises ConfigError for a path that cannot be one."""
        if not _PATH.fullmatch(self.path) or self.path == "/health":
            raise ConfigError(f"--path {self.path!a}", expected="a path such as /hook, other than /health")


def serve(door: Door, listening: Listening) -> int:
    """Receive, reconcile and gate until SIGTERM or SIGINT; then 0. A part that dies ends the whole with 1."""
    from invmm_gate.registry.service.http_server import HttpServer, bind
    from invmm_gate.registry.service.receiver import Receiver, build_app

    if door.secrets is None:
        raise ConfigError("no webhook secret", expected="one, so that the receiver can tell who sends")
    queue = door.queue()
    workers = [door.new_worker(queue) for _ in range(listening.workers)]

    def wake() -> None:
        for worker in workers:
            worker.wake()

    loop = ReconcileLoop(door.reconciler(queue), every=listening.every, found=wake)
    runs = (*(worker.run for worker in workers), loop.run)
    parts = [threading.Thread(target=run, daemon=True) for run in runs]
    receiver = Receiver(
        queue=queue,
        secrets=door.secrets,
        watched=door.watched,
        path=listening.path,
        queued=wake,
        alive=lambda: all(part.is_alive() for part in parts) and bool(queue.counts()),
    )
    with _stopping() as asked, HttpServer(build_app(receiver), bind(listening.host, listening.port)) as server:
        LOGGER.info("listening on http://%s:%d%s", listening.host, server.port, listening.path)
        for part in parts:
            part.start()
        while server.alive() and all(part.is_alive() for part in parts) and not asked():
            time.sleep(_LOOK_EVERY)
        well = asked()
        LOGGER.info("stopping")
        loop.stop()
        for worker in workers:
            worker.stop()
        for part in parts:
            part.join(door.worker.grace + 5)
    queue.close()
    return PASS if well else INTERNAL_ERROR


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Whether a signal has asked to stop; the signals' old meaning comes back afterwards."""
    seen: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda received, _: seen.append(received)) for number in numbers]
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
