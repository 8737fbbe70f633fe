"""Nothing in a gated folder that was not scored: what diffusers would take from folders that it is pointed to."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.inspect import inspect_checkpoint
from tests.models.conftest import edit_json, tiny_unet

VISION = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
CHECKER = ["stable_diffusion", "StableDiffusionSafetyChecker"]
ENCODERS: dict[str, tuple[list[str], Callable[[], Any]]] = {
    "clip": (
        ["transformers", "CLIPVisionModelWithProjection"],
        lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION, projection_dim=4)),
    ),
    "siglip": (["transformers", "SiglipVisionModel"], lambda: SiglipVisionModel(SiglipVisionConfig(**VISION))),
}


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A safety checker, as its own class saves it."""
    folder = tmp_path_factory.mktemp("checker")
    StableDiffusionSafetyChecker(CLIPConfig(vision_config=VISION, projection_dim=4)).save_pretrained(folder)
    return folder


@pytest.fixture
def checked(sd: Path, checker: Path) -> Path:
    """A Stable Diffusion folder with a safety checker and its image processor."""
    edit_json(sd / "model_index.json", safety_checker=CHECKER, feature_extractor=["transformers", "CLIPImageProcessor"])
    shutil.copytree(checker, sd / "safety_checker")
    (sd / "feature_extractor").mkdir()
    (sd / "feature_extractor/preprocessor_config.json").write_text("{}")
    return sd


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(folder, **options)
    return str(caught.value)


def lora() -> dict[str, torch.Tensor]:
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora_"
    return {f"{name}A.weight": torch.zeros(4, 8), f"{name}B.weight": torch.zeros(8, 4)}


def test_components_that_are_never_loaded_pass_as_their_classes_save_them(checked: Path) -> None:
    assert inspect_checkpoint(checked).not_loaded == ("feature_extractor", "safety_checker")
    weights = load_file(checked / "safety_checker/model.safetensors")
    save_file(weights, checked / "safety_checker/model.fp16.safetensors")
    old = {key.replace("vision_model.", "vision_model.vision_model.", 1): value for key, value in weights.items()}
    positions = {"vision_model.vision_model.embeddings.position_ids": torch.arange(5)[None]}
    save_file({**old, **positions}, checked / "safety_checker/model.safetensors")
    inspect_checkpoint(checked)


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_image_encoder_passes_as_its_class_saves_it(sd: Path, kind: str) -> None:
    stated, build = ENCODERS[kind]
    edit_json(sd / "model_index.json", image_encoder=stated)
    build().save_pretrained(sd / "image_encoder")
    assert inspect_checkpoint(sd).not_loaded == ("image_encoder",)


@pytest.mark.parametrize("folder", ["safety_checker", "feature_extractor"])
@pytest.mark.parametrize(
    "name",
    ["pytorch_lora_weights.safetensors", "diffusion_pytorch_model.safetensors", "learned_embeds.safetensors",
     "MODEL.safetensors", "ip-adapter_sd15.safetensors", "model.non_ema.safetensors", "a/model.safetensors",
     "model-00001-of-00001.safetensors"],
)  # fmt: skip
def test_no_other_weights_lie_in_a_component_that_is_never_loaded(checked: Path, folder: str, name: str) -> None:
    path = checked / folder / name
    path.parent.mkdir(exist_ok=True)
    if name == "MODEL.safetensors":
        (checked / folder / "model.safetensors").unlink(missing_ok=True)
    save_file(lora(), path)
    assert name in refusal(checked)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "model_index.json", "unet/config.json", "model.safetensors.index.json", "notes.txt"]
)
def test_no_other_file_lies_there_either(checked: Path, name: str) -> None:
    path = checked / "safety_checker" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    assert name in refusal(checked)


def test_weights_under_the_checkers_own_name_are_the_checkers(checked: Path) -> None:
    path = checked / "safety_checker/model.safetensors"
    honest = load_file(path)
    bent: list[dict[str, torch.Tensor]] = [
        lora(),
        {**honest, **lora()},
        {**honest, "vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(4, 8)},
        {**honest, "vision_model.encoder.layers.0.self_attn.q_proj.alpha": torch.zeros(1)},
        {**honest, "unet.conv_in.weight": torch.zeros(4)},
        {**honest, "string_to_param": torch.zeros(4)},
        {**honest, "down_blocks.0.attentions.0.processor.to_k_ip.weight": torch.zeros(4)},
        {"<cat>": torch.zeros(8)},
        {"concept_embeds": torch.zeros(8)},
        {"vision_model.embeddings.patch_embedding.weight": torch.zeros(8)},
        {"visual_projection.weight": torch.zeros(8), "concept_embeds": torch.zeros(8)},
    ]
    for tensors in bent:
        save_file(tensors, path)
        assert "safety_checker/model.safetensors" in refusal(checked)


def test_a_pickle_cannot_be_looked_into_and_lies_in_no_component_that_is_never_loaded(checked: Path) -> None:
    torch.save(lora(), checked / "safety_checker/pytorch_model.bin")
    assert "safety_checker/pytorch_model.bin" in refusal(checked, allow_pickle=True)


@pytest.mark.parametrize("place", ["inner", "unet/inner", "safety_checker", "tokenizer"])
def test_a_second_pipeline_is_refused(checked: Path, place: str) -> None:
    (checked / place).mkdir(exist_ok=True)
    shutil.copy(checked / "model_index.json", checked / place / "model_index.json")
    assert f"{place}/model_index.json" in refusal(checked)


def test_a_file_with_a_second_name_is_refused(tmp_path: Path) -> None:
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(tmp_path / "m")
    inspect_checkpoint(tmp_path / "m")
    for name in ("unet/diffusion_pytorch_model.safetensors", "unet/config.json"):
        os.link(tmp_path / "m" / name, tmp_path / "other")
        said = refusal(tmp_path / "m")
        assert f"'{name}' is a hard link: 2 names" in said
        assert "cp -r --reflink=auto" in said
        (tmp_path / "other").unlink()
    inspect_checkpoint(tmp_path / "m")


def test_nothing_else_lies_among_the_weights_that_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(folder)
    tiny_unet(1).save_pretrained(folder / "unet_ema")
    assert inspect_checkpoint(folder, weights="raw").left_out
    for place, kind in (("unet_ema", "raw"), ("unet", "ema")):
        for name in ("pytorch_lora_weights.safetensors", "adapter_config.json", "inner/config.json", "notes.txt"):
            path = folder / place / name
            path.parent.mkdir(exist_ok=True)
            save_file(lora(), path)
            assert f"{place}/{name}" in refusal(folder, weights=kind)
            path.unlink()
    torch.save(lora(), folder / "unet_ema/diffusion_pytorch_model.bin")
    assert "diffusion_pytorch_model.bin" in refusal(folder, weights="raw", allow_pickle=True)
    (folder / "unet_ema/diffusion_pytorch_model.bin").unlink()
    save_file(lora(), folder / "unet_ema/diffusion_pytorch_model.safetensors")
    assert "lora_A.weight" in refusal(folder, weights="raw")
