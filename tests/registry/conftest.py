"""Servers and worlds of the registry's tests.

`plain_server` has no guard, `guarded_server` has one that trusts `signer` and accepts the two policies; webhooks to
loopback are allowed on both. There is one of each for the session: give every test models of its own, and stop neither.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from invmm_gate.attest.keys import KeyPair, new_key_pair
from invmm_gate.core.options import GateChoices
from invmm_gate.core.progress import Silent
from invmm_gate.registry.client.client import Registry
from invmm_gate.registry.promote.gate_version import Registered, register
from tests.registry.servers import Server, mlflow_server
from tests.stages.conftest import _elsewhere, _one_thread, _remembered  # noqa: F401  (fixtures)
from tests.stages.world import World, new_world, policy_with

SHORT = {"steps": 2, "test_every": 2, "batch_size": 1, "sampler_steps": 10, "test_samples": 2, "learning_rate": 0.5}
"""A measurement in about a second: what it finds is of no interest here, only what becomes of it.

At the usual learning rate the positive control would not be inverted in two steps.
"""
FEW = {"plain_sampling": {"trials": 2, "sampler_steps": 2, "confidence": 0.95, "probes": "flagged"}}
ANYTHING = [{"name": "pixel_rmse", "threshold": 0.9}]
"""A copy metric that takes any two pictures for copies, so that any model is blocked."""
PASSING = policy_with(name="passing", settings=SHORT, confirm=FEW, rules=[{"rule": "invmm_below", "threshold": 1e-6}])
BLOCKING = PASSING | {"name": "blocking", "metric": ANYTHING, "rules": [{"rule": "invmm_below", "threshold": 50.0}]}


@dataclass(frozen=True)
class Desk:
    """What somebody who gates versions has at hand."""

    world: World
    key: KeyPair
    passing: GateChoices
    blocking: GateChoices

    def at(self, runs: Path, **changes: object) -> "Desk":
        """The same desk with a state folder of its own."""
        changed = {"runs": runs / "runs", **changes}
        return replace(self, passing=replace(self.passing, **changed), blocking=replace(self.blocking, **changed))


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A world with a signing key, and with choices that pass or block whatever model there is."""
    folder = tmp_path_factory.mktemp("desk")
    world = new_world(folder / "world", single=())
    key = new_key_pair(folder / "gate")
    passing = GateChoices(
        policy=str(world.policy(PASSING, "passing")),
        probes=world.probes,
        key=key.private,
        rows=4,
        runs=folder / "state" / "runs",
    )
    blocking = replace(passing, policy=str(world.policy(BLOCKING, "blocking")))
    return Desk(world, key, passing, blocking)


@pytest.fixture
def mine(desk: Desk, tmp_path: Path) -> GateChoices:
    """Choices that pass, with a state folder of the test's own, in which what `passed` measured need not be again."""
    choices = desk.at(tmp_path / "state").passing
    if desk.passing.runs.exists():
        shutil.copytree(desk.passing.runs, choices.runs, ignore=shutil.ignore_patterns(".*"))
    return choices


@pytest.fixture(scope="session")
def plain_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An MLflow server as it comes."""
    with mlflow_server(tmp_path_factory.mktemp("plain-server")) as server:
        yield server


@pytest.fixture(scope="session")
def guarded_server(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An MLflow server behind the guard."""
    settings = {
        "INVMM_GATE_GUARD_ROOTS": str(desk.key.public),
        "INVMM_GATE_GUARD_POLICIES": f"{desk.passing.policy},{desk.blocking.policy}",
    }
    disk = tmp_path_factory.mktemp("guarded-server")
    with mlflow_server(disk, app="invmm-gate", environment=settings) as server:
        yield server


@pytest.fixture(scope="session")
def new_name() -> Callable[[str], str]:
    """Names of models that no other test uses."""
    numbers = itertools.count(1)
    return lambda stem: f"{stem}-{next(numbers)}"


@pytest.fixture(scope="session")
def passed(guarded_server: Server, desk: Desk) -> Registered:
    """A version that passed and was promoted. Not to be changed."""
    registry = Registry(guarded_server.uri)
    return register(desk.world.model, "passed", registry, choices=desk.passing, progress=Silent())


@pytest.fixture(scope="session")
def blocked(guarded_server: Server, desk: Desk) -> Registered:
    """A version that was blocked. Not to be changed."""
    registry = Registry(guarded_server.uri)
    return register(desk.world.model, "blocked", registry, choices=desk.blocking, progress=Silent())
