"""A training image among the controls, on the demo's memorizing checkpoint: the whole check, not the judge alone."""

from pathlib import Path

from tests.stages.world import add_picture, call, new_world, policy_with

SAMPLING = {"plain_sampling": {"trials": 32, "sampler_steps": 10, "confidence": 0.95, "probes": "all"}}
CONFIRMED = {"rule": "confirmed", "rate_limit": 0.0}


def test_a_control_that_was_trained_on_is_named_by_its_copies_and_by_its_score(tmp_path: Path) -> None:
    world = new_world(tmp_path / "world", planted=())
    add_picture(world, 3, "control")  # planted 32 times
    policy = world.policy(policy_with(confirm=SAMPLING, rules=[CONFIRMED]))
    said = world.check(policy=policy)
    assert said.code == 11
    assert "samples are copies of the control p3: it looks as if it had been trained on" in said.out
    named = {finding["probe"]: finding for finding in world.verdict()["findings"]}
    assert (set(named), named["p3"]["rule"]) == ({"p3"}, "controls")
    assert {line["probe"] for line in world.lines("confirmations.jsonl")} == {"p16", "p100000", "p100001", "p3"}
    by_score = world.policy(policy_with(rules=[{"rule": "invmm_below", "threshold": 0.5}], confirm={}), "by_score")
    judged = call("judge", world.run, "--policy", by_score)
    assert judged.code == 11
    assert "p3 (control) scores" in judged.out
