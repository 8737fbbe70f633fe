"""What inspection accepts, and what it says about it."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file

from invmm_gate.core.records import ModelFile
from invmm_gate.models.read.checkpoint_files import digest_of
from invmm_gate.models.read.inspect import changed_files, inspect_checkpoint
from tests.models.conftest import tiny_unet

WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_a_pipeline_folder_gives_a_manifest_of_every_file(ddpm: Path) -> None:
    (ddpm / "README.md").write_text("made by a test")
    manifest = inspect_checkpoint(ddpm)
    assert manifest.pipeline == "DDPMPipeline"
    assert (manifest.name, manifest.weights, manifest.pickles) == ("ddpm", "raw", ())
    assert (manifest.scheduler, manifest.prediction_type) == ("DDPMScheduler", "epsilon")
    assert {file.path for file in manifest.files} == {
        "README.md", "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", f"unet/{WEIGHTS}",
    }  # fmt: skip
    for file in manifest.files:
        assert file.sha256 == hashlib.sha256((ddpm / file.path).read_bytes()).hexdigest()
        assert file.size == (ddpm / file.path).stat().st_size


def test_the_digest_is_what_its_description_says() -> None:
    files = (ModelFile(path="b", size=2, sha256="22"), ModelFile(path="a/\u0065\u0301", size=1, sha256="11"))
    by_hand = hashlib.sha256("a/\u00e9\x001\x0011\nb\x002\x0022\n".encode()).hexdigest()
    assert digest_of(files) == digest_of(reversed(files)) == by_hand


def test_the_digest_changes_with_any_file_and_any_name(ddpm: Path) -> None:
    digests = {inspect_checkpoint(ddpm).digest}
    (ddpm / "README.md").write_text("a")
    digests.add(inspect_checkpoint(ddpm).digest)
    (ddpm / "README.md").write_text("b")
    digests.add(inspect_checkpoint(ddpm).digest)
    (ddpm / "README.md").rename(ddpm / "README.txt")
    digests.add(inspect_checkpoint(ddpm).digest)
    assert len(digests) == 4


def test_all_documented_layouts_are_accepted(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    DDIMPipeline(tiny_unet(), DDIMScheduler()).save_pretrained(tmp_path / "ddim")
    assert inspect_checkpoint(tmp_path / "ddim").pipeline == "DDIMPipeline"
    assert inspect_checkpoint(checkpoint("vq")).pipeline == "LDMPipeline"
    assert inspect_checkpoint(checkpoint("kl")).pipeline == "LDMPipeline"
    bare = checkpoint("bare")
    assert inspect_checkpoint(bare).pipeline == "UNet2DModel"
    (bare / "scheduler").mkdir()
    (bare / "scheduler_config.json").rename(bare / "scheduler/scheduler_config.json")
    assert inspect_checkpoint(bare).pipeline == "UNet2DModel"


def test_a_link_to_the_checkpoint_itself_is_followed(ddpm: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(ddpm, target_is_directory=True)
    assert inspect_checkpoint(tmp_path / "latest").digest == inspect_checkpoint(ddpm).digest


def save_ema(folder: Path) -> None:
    ema = EMAModel(tiny_unet(seed=5).parameters(), model_cls=UNet2DModel, model_config=tiny_unet().config)
    ema.save_pretrained(folder / "unet_ema")


def test_of_two_models_in_one_folder_the_chosen_one_is_covered_by_the_digest(ddpm: Path) -> None:
    alone = inspect_checkpoint(ddpm)
    save_ema(ddpm)
    raw, ema = inspect_checkpoint(ddpm, weights="raw"), inspect_checkpoint(ddpm, weights="ema")
    assert (raw.weights, raw.digest) == ("raw", alone.digest)
    assert all(name.startswith("unet_ema/") for name in raw.left_out)
    assert ema.weights == "ema"
    assert ema.digest != raw.digest
    assert ema.left_out == ("unet/config.json", f"unet/{WEIGHTS}")
    (ddpm / "unet" / WEIGHTS).write_bytes(b"")
    assert changed_files(ema) == ()
    assert changed_files(raw) == (f"unet/{WEIGHTS}",)
    shutil.rmtree(ddpm / "unet")
    assert (inspect_checkpoint(ddpm).weights, inspect_checkpoint(ddpm).digest) == ("ema", ema.digest)


def test_a_bare_export_of_ema_weights_is_announced(tmp_path: Path) -> None:
    unet = tiny_unet()
    EMAModel(unet.parameters(), model_cls=UNet2DModel, model_config=unet.config).save_pretrained(tmp_path)
    DDPMScheduler().save_pretrained(tmp_path)
    assert inspect_checkpoint(tmp_path).weights == "ema"


def test_a_header_of_640_bytes_is_not_taken_for_a_pickle(ddpm: Path) -> None:
    path = ddpm / "unet" / WEIGHTS
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    padded = next(size for size in range(length, length + 0x10000) if size % 0x10000 == 0x0280)
    path.write_bytes(
        padded.to_bytes(8, "little") + data[8 : 8 + length] + b" " * (padded - length) + data[8 + length :]
    )
    assert path.read_bytes().startswith(b"\x80\x02")
    assert inspect_checkpoint(ddpm).pipeline == "DDPMPipeline"


def test_changed_added_and_removed_files_are_found(ddpm: Path) -> None:
    manifest = inspect_checkpoint(ddpm)
    assert changed_files(manifest) == ()
    (ddpm / "unet/extra.safetensors").write_bytes(b"")
    (ddpm / "model_index.json").write_text("{}")
    (ddpm / "scheduler/scheduler_config.json").unlink()
    assert changed_files(manifest) == ("model_index.json", "scheduler/scheduler_config.json", "unet/extra.safetensors")


def test_inspection_imports_neither_torch_nor_diffusers(ddpm: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from invmm_gate.models.read.inspect import inspect_checkpoint;"
        "print(inspect_checkpoint(Path(sys.argv[1])).digest);"
        "heavy = {'torch', 'diffusers', 'numpy', 'safetensors', 'transformers'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, ddpm], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == inspect_checkpoint(ddpm).digest


@pytest.mark.parametrize("source", ["metadata", "siblings"])
def test_a_single_file_carries_its_configuration_along(tmp_path: Path, source: str) -> None:
    unet, scheduler = tiny_unet(), DDPMScheduler()
    texts = {"unet_config": unet.to_json_string(), "scheduler_config": scheduler.to_json_string()}
    path = tmp_path / "model.safetensors"
    save_file(unet.state_dict(), path, metadata=texts if source == "metadata" else None)
    if source == "siblings":
        (tmp_path / "model.config.json").write_text(texts["unet_config"])
        (tmp_path / "model.scheduler_config.json").write_text(texts["scheduler_config"])
    manifest = inspect_checkpoint(path)
    assert (manifest.name, manifest.pipeline) == ("model", "UNet2DModel")
    assert len(manifest.files) == (1 if source == "metadata" else 3)
