"""Models measured by the scheduler that they are released with, in few steps, through the whole gate."""

import json
import shutil
from pathlib import Path

import pytest

from tests.stages.test_text_to_image import MODEL, text_world
from tests.stages.test_text_to_image import POLICY as TEXT_POLICY
from tests.stages.world import new_world, policy_with

RELEASED = {"sampler": "released", "sampler_steps": 8}
POLICY = policy_with(
    name="released",
    settings=RELEASED,
    confirm={
        "plain_sampling": {"trials": 16, "sampler_steps": 8},
        "likelihood": {"draws": 10, "plain_draws": 16},
    },
)


def with_scheduler(model: Path, **changes: object) -> None:
    """Another class of schedulers with the same noise schedule, as a distilled model states its own."""
    path = model / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(config))
    index = json.loads((model / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", config["_class_name"]]
    (model / "model_index.json").write_text(json.dumps(index))


def test_a_model_is_measured_by_its_own_stochastic_scheduler(tmp_path: Path) -> None:
    """The demo is released with DDPM's scheduler, which draws noise at every step: that noise counts too."""
    world = new_world(tmp_path)
    called = world.check(policy=world.policy(POLICY, "released"))
    assert called.code == 10, called.err
    run = json.loads((world.run / "run.json").read_text())["inputs"]
    assert (run["settings"]["sampler"], run["settings"]["sampler_steps"]) == ("released", 8)
    inverted = {line["probe"] for line in world.lines() if line["outcome"] == "inverted"}
    assert "p1" in inverted, "a planted image"
    likely = world.lines("likelihoods.jsonl")
    assert {line["probe"] for line in likely} >= inverted
    assert all(line["lower"] <= line["upper"] for line in likely)
    report = (world.run / "report.html").read_text()
    assert "Scores are of samples as the released pipeline draws, in 8 steps." in report


def test_a_run_on_the_grid_does_not_stand_for_the_released_sampler(tmp_path: Path) -> None:
    world = new_world(tmp_path)
    assert world.check().code == 10
    asked = policy_with(name="released", settings={"sampler": "released"})
    called = world.check(policy=world.policy(asked, "released"))
    assert called.code == 2
    assert "measure.settings" in called.error or "policy" in called.error


@pytest.mark.parametrize("released", [False, True])
def test_steps_at_which_the_released_scheduler_breaks_are_one_line_before_measuring(
    tmp_path: Path, released: bool
) -> None:
    world = new_world(tmp_path, planted=(1,), single=()).copied_model()
    with_scheduler(world.model, _class_name="DDIMScheduler", steps_offset=249, timestep_spacing="leading")
    policy = policy_with(
        name="released",
        settings=RELEASED if released else {},
        confirm={"plain_sampling": {"trials": 16, "sampler_steps": 16}},
    )
    called = world.check(policy=world.policy(policy, "released"))
    assert called.code == 2
    assert f"DDIMScheduler of the released pipeline cannot draw in {8 if released else 16} steps" in called.error
    assert not world.lines()


@pytest.mark.parametrize("kind", ["EulerAncestralDiscreteScheduler", "LCMScheduler"])
def test_a_text_model_is_measured_in_few_steps_of_its_own_scheduler(tmp_path: Path, kind: str) -> None:
    world = text_world(tmp_path, shutil.copytree(MODEL, tmp_path / "ckpt"))
    with_scheduler(world.model, _class_name=kind, timestep_spacing="trailing")
    settings = TEXT_POLICY["measure"]["settings"] | RELEASED | {"sampler_steps": 4}
    confirm = {"prompts": {"trials": 8, "sampler_steps": 4, "guidance_scales": [1.0]}}
    policy = policy_with(name="turbo", settings=settings, confirm=confirm)
    called = world.check(policy=world.policy(policy, "turbo"))
    assert called.code == 10, called.err
    confirmed = {line["probe"] for line in world.lines("confirmations.jsonl") if line["status"] == "confirmed"}
    assert {"planted"} <= confirmed <= {"planted", "planted-control"}
