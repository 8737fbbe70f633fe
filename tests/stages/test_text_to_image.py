"""The trained text-to-image example through the whole gate: blocked, with the prompts that bring its images out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from invmm_gate.confirm.gcg import PromptTarget, find_prompt
from invmm_gate.confirm.plain_sampling import Confirmed
from invmm_gate.confirm.prompt_sampling import Attempts
from invmm_gate.core.options import NewProbes
from invmm_gate.core.settings import GcgPlan
from invmm_gate.diffusion.samplers import GridSampler
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.policy.confirm_schema import PromptConfirmation
from invmm_gate.policy.schema import load_policy, shipped_policies
from invmm_gate.probes.edit import add_probes, init_probe_set
from invmm_gate.similarity.pixel import PixelRmse
from tests.stages.example_modules import load
from tests.stages.world import ROOT, Called, World, call, policy_with

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
    confirm={"prompts": {"trials": 8, "sampler_steps": 10}},
)
SHIPPED = {name: load_policy(name).confirm.prompts for name in shipped_policies()}


def text_world(folder: Path, model: Path = MODEL) -> World:
    """A planted image, an ordinary one and three controls, one of them planted too."""
    example = load(EXAMPLE, "probe_set")
    world = World(folder, model)
    world.folder.mkdir(exist_ok=True)
    init_probe_set(world.probes)
    members = {
        "planted": ("duplicated", example.PLANTED_WITH_CAPTION[0]),
        "ordinary": ("sensitive", example.ORDINARY[0]),
        "control-1": ("control", example.NEVER_SEEN[0]),
        "control-2": ("control", example.NEVER_SEEN[1]),
        "planted-control": ("control", example.PLANTED_WITH_CAPTION[1]),
    }
    for name, (group, number) in members.items():
        path = world.folder / f"{name}.png"
        example.draw(number).save(path)
        add_probes(
            world.probes, [path], NewProbes(group=group, caption=example.probe_caption(number), source="drawn",
            added_on=example.ADDED_ON),
        )  # fmt: skip
    return world


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Called]:
    """Checked once, in a few steps."""
    world = text_world(tmp_path_factory.mktemp("text") / "world")
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


def test_the_positive_control_is_found_by_its_noise_and_by_its_words(checked: tuple[World, Called]) -> None:
    world, _ = checked
    lines = map(json.loads, (world.run / "self_checks.jsonl").read_text().splitlines())
    (check,) = [line for line in lines if line["name"] == "positive_control"]
    assert [part.split(" was inverted at step ")[0] for part in check["detail"].split(", ")] == [
        "a closed-form model that memorizes a pattern",
        "a closed-form text model that memorizes a pattern",
    ]


def test_a_control_that_its_caption_brings_out_is_named(checked: tuple[World, Called]) -> None:
    world, _ = checked
    found = confirmations(world)
    assert found["planted-control"]["hits"] == found["planted-control"]["trials"] == 8
    assert {found[name]["hits"] for name in ("control-1", "control-2")} == {0}
    messages = [item["message"] for item in world.verdict()["findings"] if item["probe"] == "planted-control"]
    assert any(said.startswith("8 of 8 samples are copies of the control planted-control") for said in messages)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_caption_that_guidance_hides_is_found_at_the_scales_of_every_shipped_policy(
    checked: tuple[World, Called], name: str
) -> None:
    """At 7 its caption brings the planted image out 0 times in 16, at 1 16 times."""
    scales = SHIPPED[name].guidance_scales
    assert {1.0, 7.0} <= set(scales)
    assert scales == PromptConfirmation().guidance_scales, "what the check above tried"
    assert confirmations(checked[0])["planted"]["guidance_scale"] == 1.0


def test_at_guidance_7_alone_nothing_is_found(checked: tuple[World, Called], tmp_path: Path) -> None:
    hidden = World(tmp_path, MODEL)
    shutil.copytree(checked[0].run, hidden.run)
    prompts = POLICY["confirm"]["prompts"] | {"guidance_scales": [7.0]}
    policy = hidden.policy(POLICY | {"confirm": {"prompts": prompts}})
    assert call("confirm", hidden.run, "--policy", policy, "--replace").code == 0
    assert confirmations(hidden)["planted"]["status"] == "refuted"


@pytest.mark.parametrize(("scales", "status"), [(GcgPlan().guidance_scales, "confirmed"), ((7.0,), "refuted")])
def test_a_search_sees_a_prompt_that_guidance_hides(scales: tuple[float, ...], status: str) -> None:
    example = load(EXAMPLE, "probe_set")
    number = example.PLANTED_WITH_CAPTION[0]
    model = load_model(inspect_checkpoint(MODEL))
    pixels = torch.from_numpy(np.asarray(example.draw(number).convert("RGB")).copy())
    image, metric = pixels.permute(2, 0, 1).float() / 127.5 - 1, PixelRmse(0.1)
    plan = GcgPlan(
        tokens=16, steps=1, candidates=2, top_k=4, noises=2, first_noises=2, merges=0, guidance_scales=scales,
        sampler_steps=10, look_steps=5, look_every=1, stop_samples=2, trials=4, rows=4,
    )  # fmt: skip
    start = example.probe_caption(number)
    attempts = Attempts(sampler=GridSampler(model), prompts=model.prompts, metric=metric)
    target = PromptTarget(probe="planted", image=image, references=(metric.embed(image[None]),), start=start)
    events = find_prompt(model, attempts, target, plan, generator=torch.Generator().manual_seed(0))
    (found,) = [event.confirmation for event in events if isinstance(event, Confirmed)]
    assert (found.status, found.guidance_scale) == (status, scales[0])


def test_the_revealed_report_shows_the_prompt_and_the_default_one_does_not(checked: tuple[World, Called]) -> None:
    from invmm_gate.report.formats import render_html
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
