"""The trained text-to-image example through the whole gate: blocked, with the prompts that bring its images out."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from invmm_gate.probes.curate import add_probes, init_probe_set
from tests.gate.world import ROOT, Called, World, policy_with

EXAMPLE = ROOT / "examples" / "text_to_image"
MODEL = EXAMPLE / "model"
POLICY = policy_with(
    name="small-text",
    settings={
        "prompt": "caption",
        "steps": 20,
        "test_every": 10,
        "batch_size": 2,
        "sampler_steps": 10,
        "guidance_scales": [1.0],
    },
    confirm={"prompts": {"trials": 8, "sampler_steps": 10, "guidance_scales": [1.0]}},
)


def load(name: str) -> ModuleType:
    """A module of the example, which imports its neighbours by name."""
    sys.path.insert(0, str(EXAMPLE))
    saved = sys.modules.pop("draw", None)
    try:
        spec = importlib.util.spec_from_file_location(f"text_example_{name}", EXAMPLE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLE))
        sys.modules.pop("draw", None)
        if saved is not None:
            sys.modules["draw"] = saved
    return module


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Called]:
    """A planted image, an ordinary one and two controls, checked once with a policy of a few steps."""
    example = load("probe_set")
    world = World(tmp_path_factory.mktemp("text") / "world", MODEL)
    world.folder.mkdir()
    init_probe_set(world.probes)
    members = {
        "planted": ("duplicated", example.PLANTED_WITH_CAPTION[0]),
        "ordinary": ("sensitive", example.ORDINARY[0]),
        "control-1": ("control", example.NEVER_SEEN[0]),
        "control-2": ("control", example.NEVER_SEEN[1]),
    }
    for name, (group, number) in members.items():
        path = world.folder / f"{name}.png"
        example.draw(number).save(path)
        add_probes(
            world.probes, [path], group=group, caption=example.probe_caption(number), source="drawn",
            added_on=example.ADDED_ON,
        )  # fmt: skip
    return world, world.check("--reveal", policy=world.policy(POLICY, "text"))


def confirmations(world: World) -> dict[str, dict[str, object]]:
    lines = (world.run / "confirmations.jsonl").read_text().splitlines()
    records = map(json.loads, lines)
    return {record["probe"]: record for record in records if not record["method"].endswith("_on_grid")}


def test_a_model_that_its_own_captions_make_reproduce_an_image_is_blocked(checked: tuple[World, Called]) -> None:
    world, called = checked
    assert called.code == 10, called.err
    found = confirmations(world)
    assert (found["planted"]["status"], found["planted"]["method"]) == ("confirmed", "caption")
    assert found["ordinary"]["status"] == "refuted"
    assert any(finding["probe"] == "planted" for finding in world.verdict()["findings"])


def test_the_revealed_report_shows_the_prompt_and_the_default_one_does_not(checked: tuple[World, Called]) -> None:
    from invmm_gate.report.to_html import render_html
    from invmm_gate.runs.folder import RunFolder

    world, _ = checked
    prompt = str(confirmations(world)["planted"]["prompt"])
    assert prompt in (world.run / "report.html").read_text()
    assert prompt not in render_html(RunFolder(world.run).data())


def test_under_its_own_caption_plain_noise_brings_the_planted_image_out_so_it_scores_zero(
    checked: tuple[World, Called],
) -> None:
    world, _ = checked
    found = {record["probe"]: record for record in world.lines()}
    assert (found["planted"]["outcome"], found["planted"]["invmm"]) == ("inverted", 0.0)
    assert {found[name]["outcome"] for name in ("ordinary", "control-1", "control-2")} == {"not_inverted"}


def test_the_example_is_small_and_holds_nothing_but_the_pipeline() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
    assert {path.suffix for path in files} <= {".json", ".txt", ".safetensors", ".md"}


def test_the_trained_model_is_a_real_pipeline_of_diffusers(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(MODEL)
    assert pipeline.safety_checker is None
    assert type(pipeline.unet).__name__ == "UNet2DConditionModel"
