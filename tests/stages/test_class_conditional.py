"""The class-conditional example, a DiT that memorizes three pictures: blocked by their labels, and without any."""

import pytest

from tests.stages.example_modules import load
from tests.stages.world import ROOT, World, policy_with

EXAMPLE = ROOT / "examples" / "class_conditional"
POLICY = policy_with(
    name="small-classes",
    settings={"steps": 100, "test_every": 25, "batch_size": 4, "sampler_steps": 10, "guidance_scales": [1.0, 4.0]},
    confirm={"prompts": {"trials": 8, "sampler_steps": 10, "guidance_scales": [1.0, 4.0]}},
)
MEMBERS = {
    "planted": ("duplicated", (0, 1)),
    "ordinary": ("sensitive", (100,)),
    "never_seen": ("control", (100_000, 100_001)),
}


@pytest.mark.parametrize("labelled", [True, False])
def test_a_dit_that_memorizes_is_blocked(tmp_path_factory: pytest.TempPathFactory, labelled: bool) -> None:
    example = load(EXAMPLE, "probe_set")
    world = World(tmp_path_factory.mktemp("classes"), EXAMPLE / "model")
    example.write_probe_set(world.probes, MEMBERS, labelled=labelled)
    called = world.check("--rows", "32", policy=world.policy(POLICY, "classes"))
    assert called.code == 10, called.err
    confirmed = {line["probe"] for line in world.lines("confirmations.jsonl") if line["status"] == "confirmed"}
    assert confirmed == {"planted-0", "planted-1"}
    inverted = {line["probe"]: line["label"] for line in world.lines() if line["outcome"] == "inverted"}
    label = load(EXAMPLE, "planted").label
    assert inverted == {"planted-0": label(0), "planted-1": label(1)}
