"""What inspection refuses: each line of the table is a way to be fooled, and the message names the file."""

import io
import json
import os
import pickle
import shutil
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from invmm_gate.core.errors import BAD_INPUT, ModelError
from invmm_gate.models.read.inspect import inspect_checkpoint
from tests.models.conftest import edit_json, tiny_unet

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Payload:
    """Unpickling this writes a marker file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def refusal(path: Path, *, allow_pickle: bool = False) -> str:
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(path, allow_pickle=allow_pickle)
    assert caught.value.exit_code == BAD_INPUT
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def payloads(tmp_path: Path) -> dict[str, bytes]:
    evil = Payload(tmp_path / "marker")
    buffer, legacy = io.BytesIO(), io.BytesIO()
    torch.save(evil, buffer)
    torch.save(evil, legacy, _use_new_zipfile_serialization=False)
    plain = {f"protocol {number}": pickle.dumps(evil, protocol=number) for number in range(6)}
    return {"torch zip": buffer.getvalue(), "torch legacy": legacy.getvalue(), **plain}


def test_a_pickle_is_refused_under_any_name(ddpm: Path, payloads: dict[str, bytes], tmp_path: Path) -> None:
    """Protocols 0 and 1 have no magic; they are refused where weights or an image are expected, and inert as text."""
    for kind, data in payloads.items():
        for name in ("unet/model.bin", "a.pt", "a.pth", "b.ckpt", "c.pkl", "d.npy", "x.weights"):
            (ddpm / name).write_bytes(data)
            assert name in refusal(ddpm), (kind, name)
            (ddpm / name).unlink()
        for name in ("evil.safetensors", "image.png", "evil.json"):
            (ddpm / name).write_bytes(data)
            assert name in refusal(ddpm), (kind, name)
            (ddpm / name).unlink()
        if kind not in ("protocol 0", "protocol 1"):
            (ddpm / "README.md").write_bytes(data)
            assert "README.md" in refusal(ddpm), kind
            (ddpm / "README.md").unlink()
    inspect_checkpoint(ddpm)
    assert not (tmp_path / "marker").exists()


def test_a_pickle_in_place_of_the_weights_is_named_as_one(ddpm: Path, payloads: dict[str, bytes]) -> None:
    (ddpm / "unet" / WEIGHTS).write_bytes(payloads["protocol 4"])
    assert "pickle (protocol 4) under a .safetensors name" in refusal(ddpm)
    (ddpm / "unet" / WEIGHTS).write_bytes(payloads["torch zip"])
    assert "zip archive" in refusal(ddpm)


def test_a_file_that_is_safetensors_and_pickle_at_once_is_refused(ddpm: Path) -> None:
    """The text opcode V swallows the header up to a newline, so what follows would be unpickled."""
    body = pickle.dumps({"payload": 1})
    header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]\n}}' % (len(body), len(body))
    length = int.from_bytes(b"\x80\x02V\x00", "little")
    data = length.to_bytes(8, "little") + header[:-2] + b"}}" + b" " * (length - len(header)) + body
    (ddpm / "unet" / WEIGHTS).write_bytes(data)
    assert WEIGHTS in refusal(ddpm)


@pytest.mark.parametrize(
    "name",
    ["pipeline.py", "unet/model.py", "lib.so", "run.sh", "x.PYC", "train.ipynb", "flax_model.msgpack", "model.onnx"]
    + ["unet/" + name for name in ("model.h5", "strange", "weights.data")],
)
def test_code_and_foreign_files_are_refused(ddpm: Path, name: str) -> None:
    (ddpm / name).write_bytes(b"hello")
    assert name in refusal(ddpm)


@pytest.mark.parametrize("data", [b"\x7fELF\x02", b"#!/bin/sh", b"\x1f\x8b\x08", b"PK\x03\x04", b"bin\0ary"])
def test_a_text_that_is_none_is_refused(ddpm: Path, data: bytes) -> None:
    (ddpm / "README.md").write_bytes(data)
    assert "README.md" in refusal(ddpm)


@pytest.mark.parametrize("key", ["auto_map", "custom_pipeline", "trust_remote_code", "quantization_config"])
@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_keys_that_bring_code_are_refused_at_any_depth(ddpm: Path, key: str, file: str) -> None:
    edit_json(ddpm / file, _deep=[{"inside": {key: "x"}}])
    message = refusal(ddpm)
    assert key in message
    assert file in message


def test_links_pipes_and_odd_names_are_refused(ddpm: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    shutil.move(ddpm / "unet" / WEIGHTS, outside)
    (ddpm / "unet" / WEIGHTS).symlink_to(outside)
    assert f"unet/{WEIGHTS}" in refusal(ddpm)
    assert "symbolic link" in refusal(ddpm)
    (ddpm / "unet" / WEIGHTS).unlink()
    shutil.copy(outside, ddpm / "unet" / WEIGHTS)
    inspect_checkpoint(ddpm)

    (ddpm / "more").symlink_to(tmp_path, target_is_directory=True)
    assert "'more' is a symbolic link" in refusal(ddpm)
    (ddpm / "more").unlink()
    os.mkfifo(ddpm / "notes.txt")
    assert "'notes.txt' is a folder, pipe or device" in refusal(ddpm)


@pytest.mark.parametrize("name", ["a\nb.txt", "a\x1b[31m.txt", "a\u202etxt.md", "a\\b.txt", b"\xff.txt"])
def test_names_with_control_characters_are_refused(ddpm: Path, name: str | bytes) -> None:
    (ddpm / os.fsdecode(name)).write_text("x")
    message = refusal(ddpm)
    assert message.isprintable()
    assert "control character" in message


def test_names_that_other_file_systems_confuse_are_refused(ddpm: Path) -> None:
    (ddpm / "readme.MD").write_text("x")
    (ddpm / "README.md").write_text("x")
    assert "differ only in case" in refusal(ddpm)
    (ddpm / "readme.MD").unlink()
    for form in ("NFC", "NFD"):
        (ddpm / unicodedata.normalize(form, "é.txt")).write_text("x")
    assert "Unicode form" in refusal(ddpm)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("unet/diffusion_pytorch_model.fp16.safetensors", "variant"),
        ("unet/diffusion_pytorch_model.non_ema.safetensors", "variant"),
        ("pytorch_lora_weights.safetensors", "adapter"),
        ("unet/second.safetensors", "would not be scored"),
        ("controlnet/diffusion_pytorch_model.safetensors", "would not be scored"),
    ],
)
def test_weights_that_would_not_be_scored_are_refused(ddpm: Path, name: str, word: str) -> None:
    (ddpm / name).parent.mkdir(exist_ok=True)
    shutil.copy(ddpm / "unet" / WEIGHTS, ddpm / name)
    message = refusal(ddpm)
    assert name in message
    assert word in message


def test_an_adapter_configuration_is_refused(ddpm: Path) -> None:
    (ddpm / "unet/adapter_config.json").write_text("{}")
    assert "adapter" in refusal(ddpm)


def test_a_model_index_that_names_foreign_code_is_refused(ddpm: Path) -> None:
    index = ddpm / "model_index.json"
    before = index.read_text()
    for value in (["os", "system"], ["../../outside", "Evil"], ["diffusers", "StableDiffusionPipeline"], [None, None]):
        edit_json(index, unet=value)
        assert "model_index.json" in refusal(ddpm)
        index.write_text(before)
    edit_json(index, safety_checker=["diffusers", "UNet2DModel"])
    assert "safety_checker" in refusal(ddpm)
    for name in ("StableDiffusionInpaintPipeline", "../Evil", None, 3):
        edit_json(index, _class_name=name)
        assert "DDPMPipeline, DDIMPipeline, LDMPipeline" in refusal(ddpm)


def test_each_file_of_a_pipeline_is_needed(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("vq")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        path.unlink()
        refusal(folder)
        path.write_bytes(data)
    inspect_checkpoint(folder)


def test_an_empty_folder_or_a_wrong_path_is_one_clear_line(ddpm: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "model folder without weights" in refusal(tmp_path / "empty")
    (ddpm / "unet" / WEIGHTS).unlink()
    assert "model folder without weights" in refusal(ddpm)
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "no path" in refusal(Path("nul\0byte"))
    (tmp_path / "model.txt").write_text("x")
    assert "no weights file" in refusal(tmp_path / "model.txt")
    (tmp_path / "only").mkdir()
    shutil.copy(tmp_path / "model.txt", tmp_path / "only" / "x.txt")
    save_file({"a": torch.zeros(1)}, tmp_path / "only/model.safetensors")
    assert "neither model_index.json nor config.json" in refusal(tmp_path / "only")


def test_an_index_cannot_lead_to_pickles_or_outside(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = checkpoint("bare")
    shutil.move(folder / WEIGHTS, tmp_path / "outside.safetensors")
    (folder / "sub").mkdir()
    shutil.copy(tmp_path / "outside.safetensors", folder / "sub/w.safetensors")
    assert "sub/w.safetensors" in refusal(folder)
    shutil.rmtree(folder / "sub")
    for shard in (
        "sub/w.safetensors",
        "w.bin",
        "../outside.safetensors",
        "missing.safetensors",
        str(tmp_path / "outside.safetensors"),
        7,
    ):
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"conv_in.weight": shard}}))
        assert "names the shard" in refusal(folder)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {}}))
    assert "weight_map" in refusal(folder)


def test_an_index_must_agree_with_its_shards(tmp_path: Path) -> None:
    tiny_unet().save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "scheduler_config.json").write_text('{"_class_name": "DDPMScheduler"}')
    inspect_checkpoint(tmp_path)
    index = tmp_path / f"{WEIGHTS}.index.json"
    content = json.loads(index.read_text())
    content["weight_map"].pop("conv_in.bias")
    index.write_text(json.dumps(content))
    assert "conv_in.bias" in refusal(tmp_path)


BOMBS = {
    "scheduler/scheduler_config.json": [
        {"num_train_timesteps": 2_000_000_000}, {"num_train_timesteps": 1000.5}, {"num_train_timesteps": True},
        {"num_train_timesteps": "1000"}, {"num_train_timesteps": 0}, {"beta_start": float("nan")}, {"beta_end": 1e9},
        {"beta_schedule": "exp"}, {"trained_betas": [0.1, 0.2]}, {"trained_betas": [0.1] * 20_000},
        {"prediction_type": "flow_prediction"}, {"prediction_type": "anything"}, {"surprise": 1},
        {"rescale_betas_zero_snr": True}, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, {"_class_name": []},
        {"use_flow_sigmas": True}, {"timestep_type": "continuous"}, {"clip_sample": {"a": 1}}, {"scheduler": "x"},
        {"clip_sample_range": 0.45}, {"clip_sample_range": float("nan")},
        {"clip_sample_range": "1"}, {"sample_max_value": 0.8}, {"sample_max_value": None}, {"timesteps": 50},
        {"solver_order": 10**9}, {"solver_order": "2"}, {"predictor_order": 0}, {"corrector_order": True},
    ],
    "unet/config.json": [
        {"block_out_channels": [8000, 16_000]}, {"block_out_channels": [8000, 8000]}, {"block_out_channels": [8] * 40},
        {"block_out_channels": "88"}, {"block_out_channels": [8, "16"]}, {"layers_per_block": 10**6},
        {"block_out_channels": [128, 256]}, {"sample_size": 10**9}, {"sample_size": None}, {"sample_size": 9},
        {"num_class_embeds": 0}, {"class_embed_type": "timestep"}, {"time_embedding_type": "fourier"},
        {"time_embedding_type": "learned", "num_train_timesteps": 10}, {"down_block_types": ["os.system", "x"]},
        {"in_channels": 5, "out_channels": 5}, {"out_channels": 5}, {"act_fn": "evil"}, {"surprise": 1},
        {"_class_name": "UNet2DConditionModel"}, {"norm_eps": float("inf")}, {"up_block_types": ["UpBlock2D"]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("file", BOMBS)
def test_numbers_out_of_range_and_unknown_keys_are_refused(ddpm: Path, file: str) -> None:
    before = (ddpm / file).read_text()
    for change in BOMBS[file]:
        edit_json(ddpm / file, **change)
        message = refusal(ddpm)
        assert file in message or "sample_size" in message or "network" in message, (change, message)
        (ddpm / file).write_text(before)
    inspect_checkpoint(ddpm)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', "[1]", "{", "", "[" * 200_000, '{"a": ' * 50_000, '{"a": ' + "9" * 10_000 + "}", "\udcff"],
    ids=["duplicate", "list", "cut", "empty", "deep list", "deep object", "long number", "no utf-8"],
)
def test_broken_json_is_one_clear_line(ddpm: Path, text: str) -> None:
    (ddpm / "unet/config.json").write_bytes(text.encode(errors="surrogateescape"))
    assert "unet/config.json" in refusal(ddpm)


def test_a_huge_json_file_is_refused_without_being_parsed(ddpm: Path) -> None:
    (ddpm / "model_index.json").write_text('{"a": "' + "x" * 10_000_001 + '"}')
    assert "model_index.json" in refusal(ddpm)


def test_latents_that_do_not_fit_the_autoencoder_are_refused(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("vq")
    edit_json(folder / "vqvae/config.json", sample_size=32)
    assert "latent of 8x8 decodes to 16x16" in refusal(folder)
    edit_json(folder / "vqvae/config.json", sample_size=16, latent_channels=4)
    assert "4 channels" in refusal(folder)
    edit_json(folder / "vqvae/config.json", latent_channels=3, scaling_factor=0)
    assert "scaling_factor" in refusal(folder)


def test_a_second_scheduler_or_configuration_is_ambiguous(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = checkpoint("bare")
    (folder / "scheduler").mkdir()
    shutil.copy(folder / "scheduler_config.json", folder / "scheduler")
    assert "2 scheduler configurations" in refusal(folder)
    path = tmp_path / "model.safetensors"
    save_file(tiny_unet().state_dict(), path)
    assert "neither" in refusal(path)
    save_file(tiny_unet().state_dict(), path, metadata={"unet_config": tiny_unet().to_json_string()})
    (tmp_path / "model.config.json").write_text(tiny_unet().to_json_string())
    assert "both" in refusal(path)


def test_raw_and_ema_weights_side_by_side_are_two_models(ddpm: Path) -> None:
    """Diffusers would load `unet/` whatever was scored, so nobody but the user can say which of them is released."""
    with pytest.raises(ModelError, match="no ema weights"):
        inspect_checkpoint(ddpm, weights="ema")
    tiny_unet().save_pretrained(ddpm / "unet_ema")
    assert "two models" in refusal(ddpm)
    assert "--weights raw or --weights ema" in refusal(ddpm)
    shutil.rmtree(ddpm / "unet")
    with pytest.raises(ModelError, match="no raw weights"):
        inspect_checkpoint(ddpm, weights="raw")


def test_allowed_pickles_are_the_weights_of_a_network_and_nothing_else(ddpm: Path, tmp_path: Path) -> None:
    (ddpm / "unet" / WEIGHTS).unlink()
    torch.save(tiny_unet().state_dict(), ddpm / "unet/diffusion_pytorch_model.bin")
    assert "--allow-pickle" in refusal(ddpm)
    assert inspect_checkpoint(ddpm, allow_pickle=True).pickles == ("unet/diffusion_pytorch_model.bin",)
    for name in ("optimizer.bin", "unet/other.ckpt", "random_states_0.pkl", "unet/diffusion_pytorch_model.pt"):
        torch.save({}, ddpm / name)
        assert name in refusal(ddpm, allow_pickle=True)
        (ddpm / name).unlink()
    save_file(tiny_unet().state_dict(), ddpm / "unet" / WEIGHTS)
    assert "diffusion_pytorch_model.bin" in refusal(ddpm, allow_pickle=True)


def test_a_zip_bomb_under_a_text_name_is_not_opened(ddpm: Path) -> None:
    with zipfile.ZipFile(ddpm / "README.md", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"\0" * 1_000_000)
    assert "zip archive" in refusal(ddpm)


def test_folders_without_an_end_are_refused(ddpm: Path) -> None:
    deep = ddpm / "/".join("abcdefghijk")
    deep.mkdir(parents=True)
    assert "too deep" in refusal(ddpm)
    shutil.rmtree(ddpm / "a")
    (ddpm / "many").mkdir()
    for number in range(10_000):
        (ddpm / "many" / f"{number}.txt").touch()
    assert "more than 10000 files" in refusal(ddpm)


def test_a_pipe_given_as_the_checkpoint_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    assert "pipe" in refusal(tmp_path / "model.safetensors")


def test_an_ldm_pipeline_needs_its_autoencoder(ddpm: Path) -> None:
    edit_json(ddpm / "model_index.json", _class_name="LDMPipeline")
    assert "'vqvae'" in refusal(ddpm)
