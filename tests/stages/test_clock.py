"""A clock that is set while a run is under way leaves no verdict; a machine that sleeps does."""

import datetime
import json
import time
from dataclasses import dataclass, field

import pytest

from invmm_gate.core.options import Finish, Options
from invmm_gate.stages.check import check, confirm, measure
from invmm_gate.stages.clock import LARGEST_JUMP, SYSTEM_CLOCKS, Clocks
from tests.stages.world import LENIENT, Watching, World, call

TODAY = datetime.date(2026, 11, 22)
HOUR = 3600.0


@dataclass
class Machine:
    """Its two clocks, in seconds."""

    wall: float = 1_000_000.0
    steady: float = 50.0

    @property
    def clocks(self) -> Clocks:
        return Clocks(wall=lambda: self.wall, steady=lambda: self.steady)

    def sleep(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def set_clock(self, seconds: float) -> None:
        self.wall += seconds


@dataclass
class Happening(Watching):
    """Something that happens when a stage begins."""

    stage: str = ""
    what: list = field(default_factory=list)

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        super().begin(stage, total, done)
        if stage == self.stage:
            self.what.pop()()


def at(stage: str, what) -> Happening:
    return Happening(stage=stage, what=[what])


@pytest.mark.parametrize("jump", [LARGEST_JUMP + 0.5, HOUR, -LARGEST_JUMP - 0.5, -400 * 24 * HOUR])
def test_a_clock_that_is_set_by_more_than_five_minutes_is_said_with_its_jump_and_what_to_do(jump):
    machine = Machine()
    watch = machine.clocks.watch()
    machine.sleep(30 * HOUR)
    machine.set_clock(jump)
    found = watch.check("clock")
    assert not found.passed
    assert f"the clock was set {'ahead' if jump > 0 else 'back'} by {abs(jump):.0f} s" in found.detail
    assert found.detail.endswith("measure again: give another --out, or move this run folder away")
    assert "\n" not in found.detail
    assert (found.value, found.limit) == (pytest.approx(jump, abs=1e-3), LARGEST_JUMP)


@pytest.mark.parametrize("jump", [0.0, 2.0, LARGEST_JUMP, -LARGEST_JUMP])
def test_sleep_and_a_clock_that_is_set_a_little_are_no_jump_and_always_told_alike(jump):
    machine = Machine(wall=1024.0, steady=0.0)
    watch = machine.clocks.watch()
    machine.sleep(64 * HOUR)
    machine.set_clock(jump)
    found = watch.check("clock")
    assert found.passed
    assert found == Machine().clocks.watch().check("clock"), "equal runs have equal files"


def test_the_clocks_of_this_machine_go_on_together_from_now_and_from_boot():
    watch = SYSTEM_CLOCKS.watch()
    assert watch.clocks.wall() == pytest.approx(time.time(), abs=60)
    assert watch.check("clock").passed
    uptime = getattr(time, "CLOCK_BOOTTIME", None)
    if uptime is not None:
        assert watch.clocks.steady() == pytest.approx(time.clock_gettime(uptime), abs=60)


def test_without_a_clock_that_counts_sleep_the_monotonic_one_is_asked(monkeypatch):
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.delattr(time, "CLOCK_MONOTONIC_RAW", raising=False)
    assert SYSTEM_CLOCKS.steady() == pytest.approx(time.monotonic(), abs=60)


def options(world: World) -> Options:
    """As World.check gives them."""
    policy = world.policy(LENIENT, "lenient")
    return Options(model=world.model, policy=str(policy), probes=world.probes, out=world.run, rows=4, seed=0)


@pytest.fixture(scope="module")
def passed(pristine, tmp_path_factory) -> World:
    """A finished check under a policy that lets the checkpoint pass. Not to be changed."""
    world = pristine.copy(tmp_path_factory.mktemp("passed") / "world")
    assert world.check(policy=world.policy(LENIENT, "lenient")).code == 0
    return world


@pytest.fixture
def run(passed, tmp_path) -> World:
    """The test's own copy: what is measured and confirmed there is not done again, so stages take seconds."""
    return passed.copy(tmp_path / "world")


def failed(world: World) -> list[str]:
    recorded = [*world.lines("self_checks.jsonl"), *json.loads((world.run / "confirm.json").read_text())["self_checks"]]
    return [found["name"] for found in recorded if not found["passed"]]


def judged(world: World) -> int:
    return call("judge", world.run, "--policy", world.folder / "lenient.yaml").code


def test_a_check_ends_with_a_sound_clock_in_both_stages_and_on_a_machine_that_sleeps_too(run):
    names = {line["name"] for line in run.lines("self_checks.jsonl")}
    confirmed = json.loads((run.run / "confirm.json").read_text())["self_checks"]
    assert "clock_unchanged" in names
    assert "clock_unchanged_in_confirm" in {found["name"] for found in confirmed}
    before = (run.run / "self_checks.jsonl").read_bytes(), (run.run / "confirm.json").read_bytes()
    machine = Machine()
    lid = at("measure", lambda: machine.sleep(8 * HOUR))
    checked = check(options(run), Finish(track=False), lid, today=TODAY, clocks=machine.clocks)
    assert not lid.what, "it slept"
    assert checked.verdict.exit_code == 0
    assert ((run.run / "self_checks.jsonl").read_bytes(), (run.run / "confirm.json").read_bytes()) == before


def test_a_check_during_which_the_clock_is_set_is_inconclusive_and_stays_so(run):
    machine = Machine()
    someone = at("measure", lambda: machine.set_clock(-2 * HOUR))
    checked = check(options(run), Finish(track=False), someone, today=TODAY, clocks=machine.clocks)
    assert checked.verdict.exit_code == 11
    assert "clock_unchanged failed: the clock was set back by 7200 s" in checked.verdict.reasons[0]
    assert "set the clock right and measure again" in checked.verdict.reasons[0]
    assert failed(run) == ["clock_unchanged"], "the confirmations came after that"
    again = check(options(run), Finish(track=False), Watching(), today=TODAY, clocks=machine.clocks)
    assert again.verdict.exit_code == 11
    assert failed(run) == ["clock_unchanged"]
    assert call("verdict", run.run).code == 11


def test_measuring_while_the_clock_is_set_leaves_nothing_to_judge(run):
    machine = Machine()
    measure(options(run), at("measure", lambda: machine.set_clock(HOUR)), clocks=machine.clocks)
    assert judged(run) == 11
    assert "set ahead by 3600 s" in run.verdict()["reasons"][0]


def test_confirming_while_the_clock_is_set_leaves_nothing_to_judge(run):
    machine = Machine()
    readings = iter([machine.wall, machine.wall + HOUR])
    clocks = Clocks(wall=lambda: next(readings), steady=lambda: machine.steady)
    confirm(run.run, Watching(), today=TODAY, policy=str(run.folder / "lenient.yaml"), clocks=clocks)
    assert failed(run) == ["clock_unchanged_in_confirm"]
    assert judged(run) == 11


def test_a_run_that_goes_on_after_a_boot_is_held_against_its_own_session_only(run):
    for machine in (Machine(steady=90_000.0), Machine(wall=1_500_000.0, steady=3.0)):
        measure(options(run), Watching(), clocks=machine.clocks)
        confirm(run.run, Watching(), today=TODAY, policy=str(run.folder / "lenient.yaml"), clocks=machine.clocks)
    assert failed(run) == []
    assert judged(run) == 0
