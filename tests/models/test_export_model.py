"""A clean copy of what diffusers loads: the way from a folder full of other things to one that can be checked."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, DiffusionPipeline, StableDiffusionPipeline
from diffusers.training_utils import EMAModel

from invmm_gate.core.errors import ConfigError, ModelError
from invmm_gate.models.load.agreement import load_verified
from invmm_gate.models.read.description import describe
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.stages.export_model import NOT_LOADED, export_model
from tests.models.conftest import tiny_unet

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def littered(sd: Path) -> Path:
    """A download as it lies on the disk of somebody who took everything."""
    for name in ("unet/" + WEIGHTS.replace(".", ".fp16.", 1), "sd_v1.safetensors", "vae/model.onnx"):
        (sd / name).write_bytes(b"x" * 10)
    torch.save({}, sd / "unet/diffusion_pytorch_model.bin")
    (sd / "app.py").write_text("print()")
    for name in ("README.md", "LICENSE.md", ".gitattributes", "logs/a/events.out.tfevents.1"):
        (sd / name).parent.mkdir(parents=True, exist_ok=True)
        (sd / name).write_text("words")
    (sd / ".git").mkdir()
    return sd


def test_the_copy_is_what_diffusers_loads_and_can_be_checked(littered: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="7 files would not be scored"):
        inspect_checkpoint(littered)
    done = export_model(littered, tmp_path / "out/clean")
    assert set(done.left_behind) == {
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin", "sd_v1.safetensors",
        "vae/model.onnx", "app.py", ".git", ".gitattributes", "logs/a/events.out.tfevents.1",
    }  # fmt: skip
    assert done.left_behind[".gitattributes"] == NOT_LOADED
    assert inspect_checkpoint(tmp_path / "out/clean").digest == done.manifest.digest
    load_verified(inspect_checkpoint(tmp_path / "out/clean"))
    copied = {str(path.relative_to(tmp_path / "out/clean")) for path in (tmp_path / "out/clean").rglob("*.*")}
    assert {"README.md", "LICENSE.md", "model_index.json", f"unet/{WEIGHTS}"} <= copied
    before, after = (StableDiffusionPipeline.from_pretrained(path) for path in (littered, tmp_path / "out/clean"))
    for theirs, ours in zip(before.unet.state_dict().values(), after.unet.state_dict().values(), strict=True):
        assert torch.equal(theirs, ours)
    assert not list(tmp_path.glob("out/.*")), "nothing half made lies beside it"


@pytest.mark.parametrize("name", ["ddpm", "vq", "kl", "bare"])
def test_a_clean_checkpoint_is_copied_whole(checkpoint: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    folder = checkpoint(name)
    done = export_model(folder, tmp_path / "clean")
    assert not done.left_behind
    assert done.manifest.digest == inspect_checkpoint(folder).digest


def test_a_variant_is_copied_as_it_is(sd: Path, tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(sd)
    shutil.rmtree(sd)
    pipeline.save_pretrained(sd, variant="fp16", max_shard_size="20KB")
    done = export_model(sd, tmp_path / "clean")
    assert not done.left_behind
    assert "'fp16'" in done.manifest.notes[0]


def test_chosen_averages_go_where_diffusers_looks_for_weights(ddpm: Path, tmp_path: Path) -> None:
    averaged = EMAModel(tiny_unet(seed=5).parameters(), model_cls=type(tiny_unet()), model_config=tiny_unet().config)
    averaged.save_pretrained(ddpm / "unet_ema")
    with pytest.raises(ModelError, match="two models"):
        export_model(ddpm, tmp_path / "neither")
    assert not (tmp_path / "neither").exists()
    done = export_model(ddpm, tmp_path / "average", weights="ema")
    assert done.manifest.weights == "ema"
    assert all(kind == "weights that are not released" for kind in done.left_behind.values())
    theirs = DDPMPipeline.from_pretrained(tmp_path / "average").unet.state_dict()
    for name, tensor in tiny_unet(seed=5).state_dict().items():
        assert torch.equal(theirs[name], tensor)
    assert export_model(ddpm, tmp_path / "raw", weights="raw").manifest.weights == "raw"


def test_a_place_that_is_taken_or_inside_is_refused(ddpm: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="is there"):
        export_model(ddpm, tmp_path / "taken")
    with pytest.raises(ConfigError, match="inside of the checkpoint"):
        export_model(ddpm, ddpm / "clean")
    with pytest.raises(ModelError, match="single file"):
        export_model(ddpm / "unet" / WEIGHTS, tmp_path / "clean")


def test_what_cannot_be_checked_leaves_no_copy(ddpm: Path, tmp_path: Path) -> None:
    (ddpm / "unet" / WEIGHTS).unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        export_model(ddpm, tmp_path / "clean")
    assert list(tmp_path.iterdir()) == [ddpm]


def test_pickled_weights_are_copied_where_they_are_let_in(ddpm: Path, tmp_path: Path) -> None:
    (ddpm / "unet" / WEIGHTS).unlink()
    torch.save(tiny_unet().state_dict(), ddpm / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"a network's weights as a pickle.*--allow-pickle"):
        export_model(ddpm, tmp_path / "clean")
    done = export_model(ddpm, tmp_path / "clean", allow_pickle=True)
    assert done.manifest.pickles == ("unet/diffusion_pytorch_model.bin",)


def test_a_description_names_parts_sizes_and_what_is_beside(littered: Path, tmp_path: Path) -> None:
    export_model(littered, tmp_path / "clean")
    found = describe(inspect_checkpoint(tmp_path / "clean"))
    assert (found.pipeline, found.family, found.height) == ("StableDiffusionPipeline", "stable_diffusion", 16)
    assert [(part.name, part.kind) for part in found.parts] == [
        ("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"), ("text_encoder", "CLIPTextModel"),
    ]  # fmt: skip
    assert found.parts[0].bytes == (littered / "unet" / WEIGHTS).stat().st_size
    assert found.tokenizers == ("tokenizer",)
    assert found.beside == ("LICENSE.md", "README.md")


def test_averages_are_never_taken_for_raw_weights(ddpm: Path, tmp_path: Path) -> None:
    (ddpm / "unet").rename(ddpm / "unet_ema")
    with pytest.raises(ModelError, match="holds no raw weights"):
        export_model(ddpm, tmp_path / "raw", weights="raw")
    done = export_model(ddpm, tmp_path / "average")
    assert done.moved == "the averaged weights of unet_ema/ are its weights"


@pytest.mark.parametrize(
    "name", ["config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors.index.json",
             "tokenizer/vocab.txt", "notes.json", "unet/notes.json"],
)  # fmt: skip
def test_whatever_a_refusal_names_stays_behind(sd: Path, tmp_path: Path, name: str) -> None:
    (sd / name).write_text("{}")
    with pytest.raises(ModelError, match="model export"):
        inspect_checkpoint(sd)
    assert name in export_model(sd, tmp_path / "clean").left_behind
    inspect_checkpoint(tmp_path / "clean")


def test_the_copy_may_be_read_by_those_who_may_read_the_source(ddpm: Path, tmp_path: Path) -> None:
    for path in (ddpm, *ddpm.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    old = os.umask(0o077)
    try:
        export_model(ddpm, tmp_path / "out/clean")
    finally:
        os.umask(old)
    for path in (tmp_path / "out/clean", *(tmp_path / "out/clean").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def test_a_failed_copy_leaves_no_folder_above_it(ddpm: Path, tmp_path: Path) -> None:
    (ddpm / "README.md").write_bytes(b"\xff\xfe not a text")
    (ddpm / "unet/config.json").write_text("{}")
    with pytest.raises(ModelError):
        export_model(ddpm, tmp_path / "new/deep/clean")
    assert list(tmp_path.iterdir()) == [ddpm]


def test_a_pickle_that_is_the_only_plain_set_is_none_again(ddpm: Path, tmp_path: Path) -> None:
    (ddpm / "unet" / WEIGHTS).rename(ddpm / "unet" / WEIGHTS.replace(".", ".fp16.", 1))
    torch.save(tiny_unet().state_dict(), ddpm / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(ddpm)
    assert "fp16.safetensors' (a variant of weights)" in str(caught.value)
    assert "'unet/diffusion_pytorch_model.bin' (a network's weights as a pickle)" in str(caught.value)
    assert "--allow-pickle" in str(caught.value)
    done = export_model(ddpm, tmp_path / "clean", allow_pickle=True)
    assert done.manifest.pickles == ("unet/diffusion_pytorch_model.bin",)
