"""What a text-to-image model asks of policy and probe set: one clear line before anything is measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.models.tiny_text import build, stable_diffusion
from tests.stages.world import CAPTION, POLICY, World, add_picture, new_world, policy_with

LONG = "the cat and the dog " * 10
PROMPTS = {"prompts": {"trials": 2, "sampler_steps": 2}}


def text_policy(*, confirm: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    return policy_with(confirm=confirm or PROMPTS, settings=settings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "ckpt"
    build("sd1").pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def world(saved: Path, tmp_path: Path) -> World:
    """With a model of random weights."""
    return World(with_readable_captions(tmp_path).folder, saved)


def with_readable_captions(folder: Path) -> World:
    """Pictures whose captions fit the tiny tokenizer."""
    made = new_world(folder / "world", planted=(1,), single=())
    made.manifest.write_text(made.manifest.read_text().replace(CAPTION, "the red cat"))
    return made


def check(world: World, policy: dict[str, Any], *extra: object) -> Any:
    return world.check(*extra, policy=world.policy(policy, "tested"))


@pytest.fixture(scope="module")
def measured(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A long caption cut, a control without one, and a safety checker beside the model: measured all the same."""
    world = with_readable_captions(tmp_path_factory.mktemp("measured"))
    shutil.copytree(saved, world.folder / "with_checker")
    measured = World(world.folder, world.folder / "with_checker")
    index = json.loads((measured.model / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (measured.model / "model_index.json").write_text(json.dumps(index))
    (measured.model / "safety_checker").mkdir()
    (measured.model / "safety_checker" / "config.json").write_text("{}")
    with_caption(measured, LONG.strip())
    with_caption(measured, "", line=3)
    called = check(measured, text_policy(long_captions="truncate"))
    assert called.code == 11, called.err  # random weights do not denoise
    return measured


def with_caption(world: World, caption: str, line: int = 2) -> None:
    lines = world.manifest.read_text().splitlines()
    lines[line - 1] = lines[line - 1].replace("the red cat", caption)
    world.manifest.write_text("\n".join(lines) + "\n")


def test_a_caption_beyond_the_tokenizer_s_limit_is_an_error_that_names_the_line(world: World) -> None:
    with_caption(world, LONG.strip())
    called = check(world, text_policy())
    assert called.code == 2
    assert f"{world.manifest}:2: probe p1 has a caption of 50 tokens" in called.error
    assert "at most 14" in called.error
    assert "long_captions" in called.error


def test_where_the_policy_truncates_the_record_says_how_much_was_cut(measured: World) -> None:
    assert json.loads((measured.run / "run.json").read_text())["context"]["truncated_captions"] == {"p1": 36}
    assert "1 captions are longer than the tokenizer takes" in (measured.run / "report.html").read_text()


def test_the_report_says_what_ships_with_the_checkpoint_and_was_not_measured(measured: World) -> None:
    assert "not loaded, so its effect was not measured: safety_checker" in (measured.run / "report.html").read_text()


def test_joint_inversion_needs_no_caption(measured: World) -> None:
    record = json.loads((measured.run / "run.json").read_text())
    assert record["inputs"]["settings"]["prompt"] == "joint"
    captions = {probe["id"]: probe["caption"] for probe in record["probe_set"]["probes"]}
    assert (captions["p100000"], captions["p100001"]) == ("", "the red cat")


def test_a_probe_without_a_caption_is_refused_where_captions_are_measured(world: World) -> None:
    with_caption(world, "")
    called = check(world, text_policy(prompt="caption"))
    assert (called.code, f"{world.manifest}:2: probe p1 has no caption" in called.error) == (2, True)


def test_a_policy_that_cannot_confirm_this_kind_of_model_is_refused(world: World) -> None:
    called = check(world, POLICY)
    assert (called.code, "needs confirm.prompts for a model with prompts" in called.error) == (2, True)


@pytest.mark.parametrize("budget", [71, 72])
def test_a_budget_below_one_step_of_the_search_is_refused_before_anything_is_measured(
    world: World, budget: int
) -> None:
    """72 is the least at one forward a step; guidance 7 takes two."""
    search = {"candidates": 1, "noises": 1, "max_evaluations": budget}
    called = check(world, text_policy(confirm={"prompts": {**PROMPTS["prompts"], "gcg": search}}))
    assert (called.code, f"gcg: max_evaluations is {budget}; expected at least " in called.error) == (2, True)
    assert ("tested.yaml:" in called.error, "loading" in called.err) == (
        (True, False) if budget == 71 else (False, True)
    )
    assert not world.run.exists()


def test_settings_of_text_models_are_refused_for_unconditional_ones(tmp_path: Path) -> None:
    world = new_world(tmp_path / "world", planted=(1,), single=())
    called = check(world, policy_with(settings={"prompt": "joint"}))
    assert called.code == 2
    assert "'joint' for an unconditional model" in called.error
    assert not world.run.exists(), "nothing was begun"


def test_a_lora_that_is_not_there_is_refused_before_the_model_is_loaded(world: World) -> None:
    called = check(world, text_policy(), "--lora", world.folder / "style.safetensors")
    assert called.code == 2
    assert "style.safetensors" in called.error
    assert "loading" not in called.err


def test_a_guidance_distilled_model_takes_scales_from_one_on_and_the_report_says_so(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "distilled"
    stable_diffusion(time_cond_proj_dim=8).pipeline.save_pretrained(folder)
    distilled = World(world.folder, folder)
    called = check(distilled, text_policy(guidance_scales=[0.0, 3.0]))
    assert (called.code, "without an unconditional branch" in called.error) == (2, True)
    confirm = {"prompts": {**PROMPTS["prompts"], "guidance_scales": [0.5]}}
    assert "without an unconditional branch" in check(distilled, text_policy(confirm=confirm)).error
    assert check(distilled, text_policy()).code == 11
    assert "The network is guidance-distilled" in (world.run / "report.html").read_text()


def test_pictures_are_still_checked_first(world: World) -> None:
    add_picture(world, 7, "sensitive", size=12, identifier="small")
    assert "small" in check(world, text_policy()).error
