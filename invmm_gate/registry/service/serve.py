"""`serve`: the receiver, the passes and the gates put together."""

import re
import signal
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
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.names import Watched, candidate_name, release_name
from invmm_gate.registry.client.webhook_signature import Secrets
from invmm_gate.registry.guard.settings import protected_by_default
from invmm_gate.registry.promote.choices import check_choices, outbox_of, terms_now, trusted_roots
from invmm_gate.registry.promote.gate_version import as_ours
from invmm_gate.registry.promote.held_attestations import ByAttestation, Doubts
from invmm_gate.registry.promote.outbox import Outbox, Parcel
from invmm_gate.registry.service.alias_audit import AliasAudit, ByRecord
from invmm_gate.registry.service.gate_process import TRACKING_URI, gate_command
from invmm_gate.registry.service.ledger import Ledger, only_receiver
from invmm_gate.registry.service.logs import LOGGER
from invmm_gate.registry.service.loop import Loop
from invmm_gate.registry.service.reconcile import Reconciler
from invmm_gate.registry.service.worker import Worker, WorkerSettings

_LOOK_EVERY: Final = 0.2
_PATH: Final = re.compile(r"(/[A-Za-z0-9_.-]+)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The parts that `serve` and `sync` share."""

    tracking_uri: str
    worker: WorkerSettings
    watched: Watched
    aliases: frozenset[str] = frozenset(("champion",))
    enforce: bool = False
    vouch: Callable[[Registry], Doubts] | None = None
    """How an alias is checked; by default by the ledger's own records."""
    outbox: Outbox | None = None
    """The gate's outbox."""
    ours: Callable[[Parcel], Parcel] | None = None
    """Puts what waits there under this gate's own keys and policy."""

    @contextmanager
    def opened(self) -> Iterator[tuple[Reconciler, Worker]]:
        """Hold the state folder. Raises ConfigError if another process does, or if its ledger cannot be used."""
        with only_receiver(self.worker.state):
            ledger, registry = Ledger(self.worker.state / "ledger.json"), Registry(self.tracking_uri)
            audit = AliasAudit(
                registry=registry,
                watched=self.watched,
                doubts=self.vouch(registry) if self.vouch else ByRecord(ledger, self.worker.terms),
                aliases=self.aliases,
                enforce=self.enforce,
            )
            reconciler = Reconciler(
                registry=registry,
                ledger=ledger,
                watched=self.watched,
                audit=audit,
                terms=self.worker.terms,
                outbox=self.outbox,
                ours=self.ours,
            )
            yield reconciler, Worker(Registry(self.tracking_uri), ledger, self.worker)


def door_for(
    choices: GateChoices,
    *,
    tracking_uri: str,
    state: Path,
    watched: Watched,
    protected: Sequence[str] = (),
    enforce: bool = False,
    retries: int = 3,
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
        aliases=frozenset((choices.alias, *protected)) - {""},
        enforce=enforce,
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

    secrets: Secrets
    """The secrets of the webhook."""
    host: str = "127.0.0.1"
    port: int = 8765
    path: str = "/hook"
    every: float = 60.0
    """Seconds between two reconcile passes, at most."""
    workers: int = 1

    def __post_init__(self) -> None:
        """Raises ConfigError for a path that cannot be one."""
        if not _PATH.fullmatch(self.path) or self.path == "/health":
            raise ConfigError(f"--path {self.path!a}", expected="a path such as /hook, other than /health")


def serve(door: Door, listening: Listening) -> int:
    """Receive, reconcile and gate until SIGTERM or SIGINT; then 0. A part that dies ends the whole with 1."""
    from invmm_gate.registry.service.http_server import HttpServer, bind
    from invmm_gate.registry.service.receiver import Receiver, build_app

    with door.opened() as (reconciler, worker), _stopping() as asked:
        loop = Loop(reconciler, worker, every=listening.every, workers=listening.workers)
        receiver = Receiver(secrets=listening.secrets, path=listening.path, wake=loop.wake, alive=loop.alive)
        with HttpServer(build_app(receiver), bind(listening.host, listening.port)) as server:
            LOGGER.info("listening on http://%s:%d%s", listening.host, server.port, listening.path)
            loop.start()
            while server.alive() and loop.alive() and not asked():
                time.sleep(_LOOK_EVERY)
            well = asked()
            LOGGER.info("stopping")
            loop.stop(within=door.worker.grace + 5)
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
