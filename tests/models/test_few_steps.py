"""A checkpoint that shows signs of distillation is told how to be measured as its users draw it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from invmm_gate.models.read.inspect import inspect_checkpoint
from tests.models import tiny_text
from tests.models.conftest import edit_json

DISTILLED: dict[str, tuple[Callable[[], tiny_text.Tiny], dict[str, object], str]] = {
    "LCM": (tiny_text.latent_consistency, {}, "LatentConsistencyModelPipeline and LCMScheduler"),
    "a LoRA of LCM merged": (tiny_text.stable_diffusion, {"_class_name": "TCDScheduler"}, "TCDScheduler"),
    "SD-Turbo": (
        tiny_text.stable_diffusion,
        {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
        "EulerAncestralDiscreteScheduler with trailing timesteps",
    ),
    "schnell": (lambda: tiny_text.flux(guidance=False), {}, "a FLUX.1 network without guidance_embeds, as schnell"),
    "klein": (lambda: tiny_text.klein(distilled=True), {}, "is_distilled"),
}
OTHERS: dict[str, tuple[Callable[[], tiny_text.Tiny], dict[str, object]]] = {
    "Stable Diffusion": (tiny_text.stable_diffusion, {}),
    "of zero SNR": (tiny_text.stable_diffusion, {"timestep_spacing": "trailing"}),
    "dev": (tiny_text.flux, {}),
    "klein base": (tiny_text.klein, {}),
}


def notes(folder: Path, tiny: tiny_text.Tiny, scheduler: dict[str, object]) -> list[str]:
    tiny.pipeline.save_pretrained(folder)
    edit_json(folder / "scheduler" / "scheduler_config.json", **scheduler)
    if "_class_name" in scheduler:
        edit_json(folder / "model_index.json", scheduler=["diffusers", scheduler["_class_name"]])
    return [note for note in inspect_checkpoint(folder).notes if "distilled" in note]


@pytest.mark.parametrize("name", DISTILLED)
def test_signs_of_distillation_are_told(tmp_path: Path, name: str) -> None:
    build, scheduler, sign = DISTILLED[name]
    (note,) = notes(tmp_path / "model", build(), scheduler)
    assert note.startswith(f"The checkpoint may be distilled ({sign}): ")
    assert "measure.settings.sampler released" in note


@pytest.mark.parametrize("name", OTHERS)
def test_other_checkpoints_are_not_called_distilled(tmp_path: Path, name: str) -> None:
    build, scheduler = OTHERS[name]
    assert notes(tmp_path / "model", build(), scheduler) == []
