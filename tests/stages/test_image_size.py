"""A checkpoint that does not say for which size it was trained is measured at the size that a policy names."""

import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from invmm_gate.core.options import NewProbes
from invmm_gate.models.load.agreement import load_verified
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.probes.edit import add_probes, init_probe_set
from tests.models import tiny_text
from tests.stages.world import World, draw, policy_with

OF_ANY_SIZE: dict[str, Callable[[], tiny_text.Tiny]] = {
    "flux": tiny_text.flux,
    "klein": tiny_text.klein,
    "chroma": tiny_text.chroma,
    "qwen_image": tiny_text.qwen_image,
    "z_image": tiny_text.z_image,
    "aura_flow": tiny_text.aura_flow,
}
SIDE = 32


def saved(folder: Path, tiny: tiny_text.Tiny) -> Path:
    tiny.pipeline.save_pretrained(folder)
    return folder


def at(side: int, **changes: Any) -> dict[str, Any]:
    settings = {"prompt": "caption", "guidance_scales": [1.0], "image_size": side}
    prompts = {"trials": 4, "sampler_steps": 2, "guidance_scales": [1.0]}
    return policy_with(name="sized", settings=settings | changes, confirm={"prompts": prompts})


def world_of(folder: Path, model: Path) -> World:
    world = World(folder / "world", model)
    world.folder.mkdir()
    init_probe_set(world.probes)
    for number, group in ((1, "sensitive"), (100_000, "control"), (100_001, "control")):
        path = world.folder / f"{group}-{number}.png"
        draw(number, size=SIDE).save(path)
        new = NewProbes(group=group, caption="a cat", added_on=datetime.date(2026, 12, 1))
        add_probes(world.probes, [path], new)
    return world


@pytest.mark.parametrize("name", OF_ANY_SIZE)
def test_a_model_of_any_size_is_loaded_at_the_one_asked_for_and_agrees_with_diffusers(
    tmp_path: Path, name: str
) -> None:
    found = inspect_checkpoint(saved(tmp_path / name, OF_ANY_SIZE[name]()))
    model = load_verified(dataclasses.replace(found, asked_size=SIDE))
    assert model.image_size == (SIDE, SIDE)
    default = load_verified(found)
    assert model.decode(torch.zeros(1, *model.latent_shape)).shape == (1, 3, SIDE, SIDE)
    assert default.image_size != model.image_size
    # Where noise is shifted with the size, the levels are those of the size that was asked for.
    shifts = default.pipeline.scheduler.config.use_dynamic_shifting
    levels = [float(each.schedule.grid(4)[1].sigma) for each in (model, default)]
    assert (levels[0] < levels[1]) == bool(shifts)


def test_a_check_draws_and_measures_at_the_size_that_the_policy_names(tmp_path: Path) -> None:
    world = world_of(tmp_path, saved(tmp_path / "flux", tiny_text.flux()))
    called = world.check(policy=world.policy(at(SIDE)))
    assert called.code == 11, called.err  # inconclusive: a network of random weights fails the self-checks
    assert f'"asked_size": {SIDE}' in (world.run / "run.json").read_text()
    refused = world.check("--out", tmp_path / "other", policy=world.policy(at(SIDE) | {"measure": {"profile": "gate"}}))
    assert refused.code == 2
    assert "the size that the model makes" in refused.error
    assert refused.error.endswith("name it in the policy, measure.settings.image_size")
    refused = world.check("--out", tmp_path / "other", policy=world.policy(at(2 * SIDE)))
    assert refused.code == 2
    assert "expected at least 64 x 64, the size that the model makes" in refused.error


def test_a_size_that_the_checkpoint_cannot_have_is_one_line(tmp_path: Path) -> None:
    world = world_of(tmp_path, saved(tmp_path / "flux", tiny_text.flux()))
    patch = 2 * tiny_text.flux().pipeline.vae_scale_factor
    called = world.check(policy=world.policy(at(SIDE + 1)))
    assert called.code == 2
    assert called.error == (
        f"error: measure.settings.image_size is {SIDE + 1}; expected a multiple of {patch}, the pixels of one patch of "
        f"FluxPipeline; take {SIDE}"
    )
    world = World(world.folder, saved(tmp_path / "sd", tiny_text.stable_diffusion()))
    called = world.check(policy=world.policy(at(SIDE)))
    assert called.code == 2
    assert "measure.settings.image_size is 32, and the checkpoint states its own size, " in called.error
    assert called.error.endswith("expected none for such a checkpoint; leave it out of the policy")


@pytest.mark.parametrize(("name", "places"), [("z_image", 512), ("aura_flow", 64)])
def test_a_size_beyond_the_positions_of_a_transformer_is_one_line(tmp_path: Path, name: str, places: int) -> None:
    tiny = OF_ANY_SIZE[name]()
    world = world_of(tmp_path, saved(tmp_path / name, tiny))
    patch = 2 * tiny.pipeline.vae_scale_factor
    most = places * patch
    called = world.check(policy=world.policy(at(most + patch)))
    assert called.code == 2
    assert called.error == (
        f"error: measure.settings.image_size is {most + patch}; expected at most {most}, as the transformer has no "
        f"positions beyond; take {most} or less"
    )
