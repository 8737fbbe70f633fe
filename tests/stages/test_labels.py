"""A class-conditional model that memorized an image under one label is blocked, with labels in the manifest or none."""

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from invmm_gate.core.options import NewProbes
from invmm_gate.probes.edit import add_probes, init_probe_set
from tests.stages import labelled
from tests.stages.world import POLICY, Called, World, call, policy_with

CONTROLS = 8
LABELS = policy_with(
    name="labels",
    settings={"steps": 40, "test_every": 20, "batch_size": 4, "sampler_steps": 10},
    confirm={
        "prompts": {"trials": 16, "sampler_steps": 20, "guidance_scales": [1.0, 7.0], "gcg": {"controls": 1}},
        "likelihood": {"draws": 10},
    },
    rules=[
        {"rule": "invmm_below", "threshold": 0.5},
        {"rule": "confirmed", "rate_limit": 0.0},
        {"rule": "extraction_likelihood", "one_in": 1000, "kinds": ["none", "caption", "typed"]},
    ],
)


@pytest.fixture(scope="session")
def memorizing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional checkpoint that knows `labelled.planted()` under the label `labelled.PLANTED_UNDER`."""
    return labelled.train(tmp_path_factory.mktemp("labelled") / "model")


def new_world(folder: Path, model: Path, *, planted: int | None, single: int | None) -> World:
    """The planted image, one that no training saw, and controls without labels."""
    world = World(folder / "world", model)
    world.folder.mkdir()
    init_probe_set(world.probes)
    others = labelled.patterns(1 + CONTROLS, torch.Generator().manual_seed(99))
    add(world, labelled.planted(), "planted", "duplicated", planted)
    add(world, others[0], "single", "sensitive", single)
    for number, image in enumerate(others[1:]):
        add(world, image, f"control{number}", "control", None)
    return world


def add(world: World, image: torch.Tensor, name: str, group: Any, label: int | None) -> None:
    path = labelled.save_picture(image, world.folder / f"{name}.png")
    add_probes(world.probes, [path], NewProbes(group=group, added_on=datetime.date(2026, 11, 21), label=label))
    path.unlink()


def check(world: World, policy: dict[str, Any]) -> Called:
    """With as many rows as make the samples of a label one call."""
    return world.check("--rows", "64", policy=world.policy(policy))


def of(world: World, name: str, probe: str, **fields: object) -> list[dict[str, Any]]:
    """Lines of a file of records about a probe."""
    lines = [line for line in world.lines(name) if line["probe"] == probe]
    return [line for line in lines if all(line[key] == value for key, value in fields.items())]


@pytest.mark.parametrize("given", [True, False])
def test_an_image_that_is_memorized_under_one_label_blocks(tmp_path: Path, memorizing: Path, given: bool) -> None:
    label = labelled.PLANTED_UNDER
    world = new_world(tmp_path, memorizing, planted=label if given else None, single=2 if given else None)
    called = check(world, LABELS)
    assert called.code == 10, called.err
    verdict = world.verdict()
    blocking = [finding for finding in verdict["findings"] if finding["effect"] == "block"]
    assert {finding["probe"] for finding in blocking} == {"planted"}
    assert any("an input found by its label replicates planted" in finding["message"] for finding in blocking)
    assert any("of generations under its class label" in finding["message"] for finding in blocking)
    assert verdict["tested"]["guidance_scales"] == [1.0]

    (measured,) = of(world, "measurements.jsonl", "planted")
    assert (measured["label"], measured["label_found"]) == (label, not given)
    drawn = of(world, "confirmations.jsonl", "planted", method="label")[0]
    assert (drawn["status"], drawn["label"], drawn["prompt"], drawn["token_ids"]) == ("confirmed", label, None, None)
    assert drawn["sampler"].startswith("SchedulerLoopWithLabels, DDPMScheduler")
    assert of(world, "likelihoods.jsonl", "planted")[0]["prompt_kind"] == "label"

    (single,) = of(world, "confirmations.jsonl", "single", method="label")
    assert (single["status"], single["hits"], single["labels_left"]) == ("refuted", 0, 0)
    best = of(world, "measurements.jsonl", "single")[0]["label"]
    tried = len({2, best}) if given else labelled.CLASSES
    assert single["evaluations"] == tried * 16 * 20
    # The labels of a probe without one share the error of the policy's confidence.
    assert single["interval"]["confidence"] == pytest.approx(1 - 0.05 / tried)
    report = (world.run / "report.html").read_text()
    assert "found: the image is denoised best under it" in report
    assert ("given in the manifest" in report) == given
    assert "its caption" not in report


def test_a_search_tries_the_other_labels_of_a_probe_that_a_rule_found_and_of_a_control(
    tmp_path: Path, memorizing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a policy asks for a prompt search, and neither the manifest's label nor the best one brings it out."""
    monkeypatch.setattr("invmm_gate.policy.judge._flagged", lambda *_: frozenset({"planted"}))
    monkeypatch.setattr("invmm_gate.stages.labels.by_denoising_error", lambda *_, **__: (2, 0, 1))
    world = new_world(tmp_path, memorizing, planted=2, single=0)
    policy = LABELS | {"rules": LABELS["rules"][:2], "confirm": {"prompts": LABELS["confirm"]["prompts"]}}
    assert check(world, policy).code == 10
    for method in ("label", "label_on_grid"):
        (own,) = of(world, "confirmations.jsonl", "planted", method=method)
        assert (own["label"], own["status"]) == (2, "refuted")
    (found,) = of(world, "confirmations.jsonl", "planted", method="label_search")
    assert (found["status"], found["label"], found["labels_left"]) == ("confirmed", labelled.PLANTED_UNDER, 0)
    searched = [line for line in world.lines("confirmations.jsonl") if line["method"] == "label_search"]
    assert sorted(line["probe"].rstrip("0123456789") for line in searched) == ["control", "planted"]
    messages = [finding["message"] for finding in world.verdict()["findings"]]
    assert any("an input found by label search replicates planted" in message for message in messages)
    assert "The label search brought out 0 of 1 controls" in (world.run / "summary.md").read_text()


def test_a_wrong_label_in_the_manifest_hides_nothing(tmp_path: Path, memorizing: Path) -> None:
    """Or one of a numbering that the trainer changed: the measure and the samples look under the best label too."""
    world = new_world(tmp_path, memorizing, planted=2, single=0)
    assert check(world, LABELS).code == 10
    (measured,) = of(world, "measurements.jsonl", "planted")
    assert (measured["label"], measured["label_found"]) == (labelled.PLANTED_UNDER, True)
    for method in ("label", "label_on_grid"):
        (drawn,) = of(world, "confirmations.jsonl", "planted", method=method)
        assert (drawn["label"], drawn["status"]) == (labelled.PLANTED_UNDER, "confirmed")
    assert {finding["probe"] for finding in world.verdict()["findings"] if finding["effect"] == "block"} == {"planted"}


@pytest.mark.parametrize(("label", "code"), [(3, 2), (2, None)])
def test_a_label_beyond_the_models_classes_is_one_line(
    tmp_path: Path, memorizing: Path, label: int, code: int | None
) -> None:
    world = new_world(tmp_path, memorizing, planted=1, single=label)
    called = world.check("--rows", "1", policy=world.policy(LABELS))  # too few rows: what comes after the labels
    assert called.code == 2
    if code is None:
        assert "--rows 1" in called.error
        return
    assert called.error == (
        f"error: {world.manifest}:3: probe single has the label 3; expected a class of the model, 0 to 2; correct it, "
        "or leave it empty where nobody knows the class: the model's labels are then tried"
    )


def test_a_model_without_classes_is_not_told_the_labels_and_the_gate_says_so(tmp_path: Path) -> None:
    from tests.stages.world import new_world as demo_world

    world = demo_world(tmp_path / "world", single=(), controls=2)
    lines = world.manifest.read_text().splitlines()
    world.manifest.write_text("\n".join([f"{lines[0]},label", *(f"{line},7" for line in lines[1:])]) + "\n")
    called = world.check("--rows", "1", policy=world.policy(POLICY))
    assert called.code == 2
    assert "the model has no classes: it is not told the labels of 4 probes" in called.err


def test_a_policy_for_another_kind_of_model_is_refused(tmp_path: Path, memorizing: Path) -> None:
    world = new_world(tmp_path, memorizing, planted=1, single=2)
    without = LABELS | {"confirm": {"plain_sampling": {"trials": 16, "sampler_steps": 5}}, "rules": LABELS["rules"][:2]}
    called = world.check(policy=world.policy(without))
    assert called.code == 2
    assert "rule 'confirmed' needs confirm.prompts for a class-conditional model" in called.error
    captions = json.loads(json.dumps(LABELS))
    captions["measure"]["settings"]["prompt"] = "caption"
    called = world.check(policy=world.policy(captions))
    assert called.code == 2
    assert "measure.settings.prompt is 'caption' for a class-conditional model" in called.error


def test_a_class_conditional_checkpoint_is_inspected_as_any_other(memorizing: Path) -> None:
    called = call("model", "inspect", memorizing)
    assert called.code == 0
    assert called.out.startswith("DDPMPipeline, 8x8, raw weights, predicts epsilon")


def test_a_copy_of_the_checkpoint_without_its_scheduler_is_refused(tmp_path: Path, memorizing: Path) -> None:
    broken = shutil.copytree(memorizing, tmp_path / "broken")
    shutil.rmtree(broken / "scheduler")
    assert new_world(tmp_path, broken, planted=1, single=2).check().code == 2
