"""`serve` and `sync`: the receiver, the passes and the gates put together, until stopped or once; and their log."""

import datetime
import logging
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, final

from invmm_gate.core.errors import INCONCLUSIVE, INTERNAL_ERROR, PASS, ConfigError
from invmm_gate.core.options import GateChoices, Listening, ServiceChoices
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.client.registry_names import Watched, candidate_name, release_name
from invmm_gate.registry.client.webhooks import read_secrets
from invmm_gate.registry.guard.guard_settings import protected_by_default
from invmm_gate.registry.promote.choices import check_choices, demands_under, terms_now, trusted_roots
from invmm_gate.registry.promote.outbox import outbox_of
from invmm_gate.registry.service.alias_audit import AliasAudit, ByAttestation, ByRecord, Doubts
from invmm_gate.registry.service.gate_process import gate_command
from invmm_gate.registry.service.ledger import Ledger, only_receiver
from invmm_gate.registry.service.reconcile import Loop, Pass, Reconciler
from invmm_gate.registry.service.worker import Worker, WorkerSettings

_LOGGER: Final = logging.getLogger(__name__)
_LOOK_EVERY: Final = 0.2
_PATH: Final = re.compile(r"(/[A-Za-z0-9_.-]+)+")
_LONGEST_LINE: Final = 500


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
    choices: GateChoices | None = None
    """The choices under which what waits in the outbox is sent; without them nothing is sent."""

    @contextmanager
    def opened(self) -> Iterator[tuple[Reconciler, Worker]]:
        """Hold the state folder. Raises ConfigError if another process does, or if its ledger cannot be used."""
        terms = self.worker.terms
        with only_receiver(self.worker.state):
            ledger, registry = Ledger(self.worker.state / "ledger.json"), Registry(self.tracking_uri)
            audit = AliasAudit(
                registry=registry,
                watched=self.watched,
                doubts=self.vouch(registry) if self.vouch else ByRecord(ledger, terms),
                aliases=self.aliases,
                enforce=self.enforce,
            )
            reconciler = Reconciler(registry=registry, ledger=ledger, audit=audit, terms=terms, choices=self.choices)
            yield reconciler, Worker(Registry(self.tracking_uri), ledger, self.worker)


def door_for(choices: GateChoices, service: ServiceChoices) -> Door:
    """The door for versions that are gated by these choices. Raises ConfigError for a slip in them, before any work."""
    for name in service.models or ("model",):
        check_choices(choices, candidate_name(name, choices.release_name))
        _tell_if_open(release_name(name, choices.release_name), choices.alias)
    terms_now(choices)
    roots, vouch = trusted_roots(choices), None
    if roots is not None:
        demands = partial(demands_under, choices, roots)
        vouch = partial(ByAttestation, demands=demands, scratch=service.state / "scratch")
    return Door(
        tracking_uri=service.tracking_uri,
        worker=WorkerSettings(
            command=gate_command(choices),
            state=service.state,
            terms=partial(terms_now, choices),
            retries=service.retries,
        ),
        watched=Watched(names=service.models, release=choices.release_name),
        aliases=frozenset((choices.alias, *service.protect)) - {""},
        enforce=service.enforce,
        vouch=vouch,
        choices=choices,
    )


def _tell_if_open(name: str, alias: str) -> None:
    if alias and not protected_by_default(name, alias):
        _LOGGER.warning(
            "alias %s of %s is protected only by a guard that is started with --alias %s", alias, name, alias
        )


def serve(door: Door, listening: Listening) -> int:
    """Receive, reconcile and gate until SIGTERM or SIGINT; then 0. A part that dies ends the whole with 1.

    Raises ConfigError for a path that cannot be one, and without a secret.
    """
    from invmm_gate.registry.service.receiver import answering, bind, build_app

    path, secrets = listening.path, read_secrets(listening.secret_file)
    if not _PATH.fullmatch(path) or path == "/health":
        raise ConfigError(f"--path {path!a}", expected="a path such as /hook, other than /health")
    with door.opened() as (reconciler, worker), _stopping() as asked:
        loop = Loop(reconciler, worker, every=listening.every, workers=listening.workers)
        app = build_app(secrets=secrets, wake=loop.wake, alive=loop.alive, path=path)
        bound = bind(listening.host, listening.port)
        with answering(app, bound) as thread:
            _LOGGER.info("listening on http://%s:%d%s", listening.host, bound.getsockname()[1], path)
            loop.start()
            while thread.is_alive() and loop.alive() and not asked():
                time.sleep(_LOOK_EVERY)
            well = asked()
            _LOGGER.info("stopping")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """The result of one `sync`."""

    swept: Pass
    outcomes: dict[str, int]
    """Outcome, or `queued` where there is none yet -> number of versions."""
    waiting: int
    """Verdicts that the registry does not know yet."""

    @property
    def unsettled(self) -> int:
        """Versions without a pass or block."""
        return sum(number for outcome, number in self.outcomes.items() if outcome not in ("pass", "block"))

    @property
    def exit_code(self) -> int:
        """0 if every version has a verdict that the registry knows, and nothing is without a proof; a block counts."""
        wrong = self.unsettled or self.waiting or self.swept.alerts or self.swept.found.unusable
        return INCONCLUSIVE if wrong else PASS

    def summary(self) -> dict[str, object]:
        """For machines."""
        return {
            "listed": self.swept.found.listed,
            "queued": [record.label for record in self.swept.found.due],
            "outcomes": self.outcomes,
            "without_verdict": self.unsettled,
            "not_sent": self.waiting,
            "unusable_names": list(self.swept.found.unusable),
            "alerts": [str(alert) for alert in self.swept.alerts],
            "lapsed": [str(alert) for alert in self.swept.lapsed],
            "exit_code": self.exit_code,
        }

    def __str__(self) -> str:
        """One line."""
        found, outcomes = self.swept.found, ", ".join(f"{number} {name}" for name, number in self.outcomes.items())
        return (
            f"{found.listed} versions listed, {len(found.due)} new; all so far: {outcomes or 'none'};"
            f" {self.unsettled} without a verdict, {self.waiting} not sent yet, {len(self.swept.alerts)} alerts,"
            f" {len(self.swept.lapsed)} lapsed approvals"
        )


def sync(door: Door, *, again: bool = False, gate: bool = True) -> Synced:
    """One pass, one step of each version that is due, and a last look. Raises RegistryError where a look fails."""
    with door.opened() as (reconciler, worker):
        swept = reconciler.once(again=again)
        for record in swept.found.due if gate else ():
            worker.gate(record)
        states = reconciler.find().states
    outcomes = {"queued" if state == "open" else state: number for state, number in sorted(states.items())}
    waiting = len(outbox_of(door.choices).parcels()) if door.choices else 0
    return Synced(swept=swept, outcomes=outcomes, waiting=waiting)


@final
class OneLine(logging.Formatter):
    """Time in UTC, level, message. Control characters are spelled out, so that no name can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; of an exception only its kind and message."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        text = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            error = record.exc_info[1]
            text += f": {type(error).__name__}: {error}"
        shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
        return f"{time}Z {record.levelname.lower()} {shown[:_LONGEST_LINE]}"


def log_to_stderr() -> None:
    """Send the lines of the service and of its HTTP server to stderr, and nowhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    for name, level in (("invmm_gate.registry", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
        logger.setLevel(level)
