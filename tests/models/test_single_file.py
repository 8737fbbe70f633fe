"""Stable Diffusion 1 and 2 in one file with the names of the CompVis code, its configurations in a folder beside."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.inspect import changed_files, inspect_checkpoint
from tests.models.conftest import edit_json
from tests.models.test_refusals import refusal
from tests.models.test_text_load import estimate, load

Tensors = dict[str, torch.Tensor]
LAYERS = 1
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}  # fmt: skip


def replaced(text: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(old, new)
    return text


def unet_name(key: str, attentions: set[int]) -> str:
    block = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key)
    if block is None:
        key = replaced(key, UNET_ENDS)
        return replaced(key, RESNET) if key.startswith(("middle_block.0", "middle_block.2")) else key
    side, level, kind, number, rest = block[1], int(block[2]), block[3], int(block[4]), block[5]
    first = level * (LAYERS + 1) + (1 if side == "down" else 0)
    name = "input_blocks" if side == "down" else "output_blocks"
    if kind == "resnets":
        return f"{name}.{first + number}.0.{replaced(rest, RESNET)}"
    if kind == "attentions":
        return f"{name}.{first + number}.1.{rest}"
    if kind == "downsamplers":
        return f"{name}.{first + LAYERS}.0.{rest.replace('conv', 'op')}"
    return f"{name}.{first + LAYERS}.{2 if level in attentions else 1}.{rest}"


def vae_name(key: str, levels: int) -> str:
    key = re.sub(r"decoder\.up_blocks\.(\d+)", lambda found: f"decoder.up.{levels - 1 - int(found[1])}", key)
    key = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        key = replaced(key.replace("mid_block.attentions.0", "mid.attn_1"), ATTENTION)
    names = {
        "encoder.down_blocks": "encoder.down", ".resnets.": ".block.", ".downsamplers.0.": ".downsample.",
        ".upsamplers.0.": ".upsample.", "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out",
    }  # fmt: skip
    return replaced(key, names)


def to_compvis(folder: Path, *, open_clip: bool = False) -> Tensors:
    """The inverse of diffusers' conversion, written down from the layout of the CompVis code."""
    unet = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    attentions = {int(found[1]) for key in unet if (found := re.match(r"up_blocks\.(\d+)\.attentions", key))}
    tensors = {f"model.diffusion_model.{unet_name(key, attentions)}": tensor for key, tensor in unet.items()}
    for key, tensor in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        name = vae_name(key, levels=2)
        convolution = ".attn_1." in name and tensor.ndim == 2
        tensors[f"first_stage_model.{name}"] = tensor[..., None, None].clone() if convolution else tensor
    text = load_file(folder / "text_encoder/model.safetensors")
    flat = {key.removeprefix("text_model."): tensor for key, tensor in text.items()}
    return {**tensors, **(as_open_clip(flat) if open_clip else as_clip(flat))}


def as_clip(flat: Tensors) -> Tensors:
    prefix = "cond_stage_model.transformer.text_model."
    positions = {f"{prefix}embeddings.position_ids": torch.arange(16)[None]}
    return {**{prefix + key: tensor for key, tensor in flat.items()}, **positions}


def as_open_clip(flat: Tensors) -> Tensors:
    named = {
        "positional_embedding": flat["embeddings.position_embedding.weight"],
        "token_embedding.weight": flat["embeddings.token_embedding.weight"],
        "ln_final.weight": flat["final_layer_norm.weight"],
        "ln_final.bias": flat["final_layer_norm.bias"],
        "text_projection": torch.eye(16),
        "logit_scale": torch.ones([]),
    }
    for number in range(3):
        old, new = f"encoder.layers.{number}.", f"transformer.resblocks.{number}."
        for kind in ("weight", "bias"):
            parts = [flat[f"{old}self_attn.{which}_proj.{kind}"] for which in "qkv"]
            named[f"{new}attn.in_proj_{kind}"] = torch.cat(parts)
            for theirs, ours in OPEN_CLIP.items():
                named[f"{new}{ours}.{kind}"] = flat[f"{old}{theirs}.{kind}"]
    named["transformer.resblocks.23.ln_1.weight"] = torch.ones(16)
    return {f"cond_stage_model.model.{key}": tensor.clone() for key, tensor in named.items()}


def single(folder: Path, target: Path, *, open_clip: bool = False) -> tuple[Path, Tensors]:
    """`target`/model.safetensors, and `target`/model/ without weights."""
    tensors = to_compvis(folder, open_clip=open_clip)
    shutil.copytree(folder, target / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    schedule = {"alphas_cumprod": torch.linspace(0.9, 0.1, 1000), "betas": torch.linspace(0.01, 0.02, 1000)}
    tensors |= schedule
    save_file(tensors, target / "model.safetensors")
    return target / "model.safetensors", tensors


@pytest.mark.parametrize(("name", "open_clip"), [("sd1", False), ("sd2", True)])
def test_one_file_is_the_same_model_as_the_folder(
    text_checkpoint: Callable[[str], Path], tmp_path: Path, name: str, open_clip: bool
) -> None:
    folder = text_checkpoint(name)
    path, _ = single(folder, tmp_path / "single", open_clip=open_clip)
    assert torch.equal(estimate(load(path)), estimate(load(folder)))
    manifest = inspect_checkpoint(path)
    assert (manifest.name, manifest.pipeline) == ("model", "StableDiffusionPipeline")
    assert {file.path for file in manifest.files} > {"model.safetensors", "model/unet/config.json"}
    (path.parent / "unrelated.bin").write_bytes(b"x")
    assert changed_files(manifest) == ()
    edit_json(path.parent / "model/scheduler/scheduler_config.json", beta_end=0.02)
    assert changed_files(manifest) == ("model/scheduler/scheduler_config.json",)


def test_what_has_no_place_in_the_network_is_refused(sd: Path, tmp_path: Path) -> None:
    path, tensors = single(sd, tmp_path / "single")
    for strange in (
        "model_ema.diffusion_modelinput_blocks00weight",
        "evil.weight",
        "model.diffusion_model.input_blocks.0.0.lora",
        "model.diffusion_model.label_emb.weight",
        "first_stage_model.loss.weight",
        "cond_stage_model.transformer.vision_model.x",
    ):
        save_file({**tensors, strange: torch.ones(3)}, path)
        with pytest.raises(ModelError):
            load(path)


def test_numbers_of_an_average_that_is_not_there_are_passed_over(sd: Path, tmp_path: Path) -> None:
    path, tensors = single(sd, tmp_path / "single")
    numbers = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(1000)}
    save_file(tensors | numbers, path)
    assert torch.equal(estimate(load(path)), estimate(load(sd)))
    for strange in ({"model_ema.decay": torch.ones(3)}, {"model_ema.diffusion_modelx": torch.tensor(1.0)}):
        save_file(tensors | numbers | strange, path)
        with pytest.raises(ModelError, match="averaged weights too"):
            load(path)


def test_a_single_file_without_any_one_tensor_is_refused(sd: Path, tmp_path: Path) -> None:
    path, tensors = single(sd, tmp_path / "single")
    for prefix in ("model.diffusion_model.", "first_stage_model.", "cond_stage_model."):
        keys = sorted(key for key in tensors if key.startswith(prefix) and "position_ids" not in key)
        for key in (*keys[:: max(1, len(keys) // 4)], keys[-1]):
            save_file({other: tensor for other, tensor in tensors.items() if other != key}, path)
            with pytest.raises(ModelError):
                load(path)


def test_weights_in_the_folder_of_configurations_are_refused(sd: Path, tmp_path: Path) -> None:
    path, _ = single(sd, tmp_path / "single")
    shutil.copy(sd / "vae/diffusion_pytorch_model.safetensors", path.parent / "model/vae")
    assert "model/vae/diffusion_pytorch_model.safetensors" in refusal(path)


def test_other_pipelines_are_not_read_from_one_file(text_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = text_checkpoint("sdxl")
    shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    save_file({"a": torch.zeros(60_000)}, tmp_path / "model.safetensors")
    assert "Stable Diffusion 1 or 2" in refusal(tmp_path / "model.safetensors")
