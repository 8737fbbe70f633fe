"""The seed comes from what is gated, so that nobody can draw until a model that leaks passes."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from invmm_gate.core.options import Options
from invmm_gate.core.progress import Silent
from invmm_gate.runs.copies import Circumstances
from invmm_gate.stages.check import confirm
from invmm_gate.stages.preflight import prepare
from tests.stages.world import CONTROLS, POLICY, World, add_picture, call


def options(world: World) -> Options:
    return Options(model=world.model, policy=str(world.policy()), probes=world.probes, out=world.run, rows=4)


def rewritten(world: World, change: Callable[[list[dict[str, str]]], None]) -> None:
    with world.manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with world.manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_nothing_but_content_moves_the_seed(world: World, tmp_path: Path) -> None:
    asked = options(world)
    seed = prepare(asked).seed
    elsewhere = world.copy(tmp_path / "elsewhere")
    rewritten(elsewhere, lambda rows: rows.reverse())
    moved = options(elsewhere)
    for other in (
        replace(asked, out=tmp_path / "another", device="cuda:1", rows=64, command="again", sscd=tmp_path / "sscd.pt"),
        replace(moved, model=world.copied_model().model),
    ):
        assert prepare(other).seed == seed
    assert prepare(replace(asked, seed=7)).seed == 7
    assert prepare(replace(asked, seed=0)).seed == 0, "zero is a seed that somebody chose"


CHANGES: dict[str, Callable[[World], object]] = {
    "an id": lambda world: rewritten(world, lambda rows: rows[0].update(id="renamed")),
    "a category": lambda world: rewritten(world, lambda rows: rows[0].update(category="other")),
    "a caption": lambda world: rewritten(world, lambda rows: rows[0].update(caption="other")),
    "another control": lambda world: add_picture(world, CONTROLS[-1] + 7, "control"),
    "the policy's name": lambda world: world.policy(POLICY | {"name": "other"}),
    "the policy's version": lambda world: world.policy(POLICY | {"version": 2}),
    "a byte of the model": lambda world: (world.model / "model_index.json").write_bytes(
        (world.model / "model_index.json").read_bytes() + b"\n"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whoever_changes_content_for_another_draw_changes_a_digest_that_is_attested(world: World, change: str) -> None:
    own = world.copied_model()
    asked = options(own)
    before = prepare(asked)
    CHANGES[change](own)
    after = prepare(asked)
    digests = [(each.model.digest, each.probe_set.digest, each.policy.digest) for each in (before, after)]
    assert digests[0] != digests[1]
    assert before.seed != after.seed


def test_a_run_says_the_seed_that_content_gave_and_nobody_is_warned(world: World) -> None:
    called = call(*world.by_content())
    record, verdict = json.loads((world.run / "run.json").read_text()), world.verdict()
    asked = prepare(Options(model=world.model, policy=str(world.folder / "small.yaml"), probes=world.probes))
    assert record["inputs"]["seed"] == verdict["tested"]["seed"] == asked.seed
    assert (record["context"]["seed_given"], verdict["tested"]["seed_chosen"]) == (False, False)
    assert record["inputs"]["image_size"] == verdict["tested"]["image_size"] == [16, 16]
    assert "is not the one that model" not in called.out + (world.run / "report.html").read_text()
    assert json.loads((world.run / "public" / "verdict.json").read_text())["tested"] == verdict["tested"]


def test_a_chosen_seed_is_said_wherever_the_verdict_is(world: World) -> None:
    called = world.check("--seed", 0)
    assert "  seed 0 is not the one that model, probe set and policy give\n" in called.out
    tested = world.verdict()["tested"]
    assert (tested["seed"], tested["seed_chosen"]) == (0, True)
    for name in ("report.html", "summary.md", "public/report.html", "public/summary.md"):
        assert "The seed 0 is not the one that model, probe set and policy give" in (world.run / name).read_text()
    assert world.check("--seed", 0).code == called.code, "the same command goes on"
    assert "holds a run with another seed" in call(*world.by_content()).error


def test_a_run_goes_on_and_is_confirmed_with_the_seed_that_it_began_with(world: World) -> None:
    policy = world.policy()
    assert call("measure", *world.by_content()[1:-1]).code == 0
    seed = json.loads((world.run / "run.json").read_text())["inputs"]["seed"]
    other = world.policy(POLICY | {"name": "other"}, "other")
    confirm(world.run, Silent(), beside=Circumstances(), policy=str(other))
    assert call("judge", world.run, "--policy", other).code != 2
    tested = world.verdict()["tested"]
    assert (tested["seed"], tested["seed_chosen"]) == (seed, True), "that of the policy it was measured under"
    assert call("judge", world.run, "--policy", policy).code != 2
    assert world.verdict()["tested"]["seed_chosen"] is False
