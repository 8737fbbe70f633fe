"""Checkpoints as they lie on people's disks: read where diffusers reads them, and refused with all faults at once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiffusionPipeline, PNDMScheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from invmm_gate.core.errors import ModelError
from invmm_gate.models.load.agreement import load_verified
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.stages.export_model import export_model
from tests.models.conftest import edit_json, tiny_unet

WEIGHTS = "diffusion_pytorch_model.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def refusal(folder: Path, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(folder, **options)
    assert "\n" not in str(caught.value)
    return caught.value


# The scheduler's two classes.
def test_the_class_of_model_index_is_taken_where_the_schedule_is_the_same(sd: Path) -> None:
    edit_json(sd / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    manifest = inspect_checkpoint(sd)
    assert manifest.scheduler == "PNDMScheduler"
    assert len(manifest.notes) == 1
    assert "names PNDMScheduler, scheduler/scheduler_config.json DDIMScheduler: read as the first" in manifest.notes[0]
    load_verified(manifest)
    assert isinstance(DiffusionPipeline.from_pretrained(sd).scheduler, PNDMScheduler)


def test_two_classes_with_two_schedules_are_refused(ddpm: Path) -> None:
    content = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000}  # the betas are left to the class
    (ddpm / "scheduler/scheduler_config.json").write_text(json.dumps(content))
    edit_json(ddpm / "model_index.json", scheduler=["diffusers", "LCMScheduler"])
    assert "names LCMScheduler, scheduler/scheduler_config.json DDPMScheduler: they differ in beta_start" in str(
        refusal(ddpm)
    )


# Files in the root.
def test_a_pipeline_with_all_its_files_in_the_root_is_read_as_diffusers_reads_it(ddpm: Path, tmp_path: Path) -> None:
    root = tmp_path / "google"
    root.mkdir()
    for source in (ddpm / "model_index.json", *(ddpm / "unet").iterdir(), *(ddpm / "scheduler").iterdir()):
        shutil.copy(source, root)
    DDPMPipeline.from_pretrained(root)
    manifest = inspect_checkpoint(root)
    assert (manifest.pipeline, manifest.weights) == ("DDPMPipeline", "raw")
    load_verified(manifest)
    shutil.copytree(ddpm / "unet", root / "unet")  # now diffusers loads that one
    assert f"'{WEIGHTS}' (weights)" in str(refusal(root))


def test_a_pipeline_of_many_networks_has_none_in_its_root(sd: Path) -> None:
    shutil.move(sd / "unet/config.json", sd / "config.json")
    assert "'unet' has no unet/config.json" in str(refusal(sd))


# Variants.
def as_variant(folder: Path, variant: str = "fp16", **options: Any) -> Path:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    shutil.rmtree(folder)
    pipeline.save_pretrained(folder, variant=variant, **options)
    return folder


@pytest.mark.parametrize(("variant", "options"), [("fp16", {}), ("bf16", {"max_shard_size": "20KB"}), ("non_ema", {})])
def test_one_complete_variant_alone_is_scored_with_a_note(sd: Path, variant: str, options: dict[str, Any]) -> None:
    folder = as_variant(sd, variant, **options)
    assert not list(folder.rglob(WEIGHTS))
    manifest = inspect_checkpoint(folder)
    assert any(f"{variant!r} is there, and it was scored" in note for note in manifest.notes)
    load_verified(manifest)


def test_a_bare_network_as_a_variant_is_scored(tmp_path: Path) -> None:
    tiny_unet().half().save_pretrained(tmp_path, variant="fp16")
    DDPMScheduler().save_pretrained(tmp_path)
    manifest = inspect_checkpoint(tmp_path)
    assert "'fp16'" in manifest.notes[0]
    load_verified(manifest)


def test_an_incomplete_variant_set_is_one_clear_line(sd: Path) -> None:
    (sd / "unet" / WEIGHTS).rename(sd / "unet" / WEIGHTS.replace(".", ".fp16.", 1))
    said = str(refusal(sd))
    assert said.startswith("unet/ holds weights only as 'fp16': an incomplete variant set")


def test_variants_of_two_kinds_are_no_set(sd: Path) -> None:
    as_variant(sd, "fp16")
    (sd / "vae" / WEIGHTS.replace(".", ".fp16.", 1)).rename(sd / "vae" / WEIGHTS.replace(".", ".bf16.", 1))
    assert "vae/ holds weights only as 'bf16': an incomplete variant set" in str(refusal(sd))


def test_a_variant_beside_plain_weights_would_not_be_scored(sd: Path) -> None:
    shutil.copy(sd / "unet" / WEIGHTS, sd / "unet" / WEIGHTS.replace(".", ".fp16.", 1))
    assert "'unet/diffusion_pytorch_model.fp16.safetensors' (a variant of weights)" in str(refusal(sd))


# What other tools leave behind.
def test_image_processors_and_a_switch_that_is_off_decide_nothing(sd: Path) -> None:
    (sd / "feature_extractor").mkdir()
    (sd / "feature_extractor/preprocessor_config.json").write_text("{}")
    for kind in ("CLIPImageProcessorFast", "CLIPImageProcessor", "CLIPFeatureExtractor"):
        edit_json(sd / "model_index.json", feature_extractor=["transformers", kind])
        assert inspect_checkpoint(sd).not_loaded == ("feature_extractor",)
    edit_json(sd / "tokenizer/tokenizer_config.json", trust_remote_code=False)
    inspect_checkpoint(sd)
    edit_json(sd / "tokenizer/tokenizer_config.json", trust_remote_code=True)
    assert "trust_remote_code" in str(refusal(sd))


def test_a_git_clone_is_told_of_in_one_word(ddpm: Path) -> None:
    for number in range(50):
        path = ddpm / f".git/objects/{number:02}/{'0' * 38}"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x\x9c")
    assert str(refusal(ddpm)).startswith("1 file would not be scored: '.git' (a git repository's own folder)")


@pytest.mark.parametrize("name", [f"unet/{WEIGHTS}", "unet/config.json", "model_index.json", "README.md", "a.png"])
def test_a_git_lfs_pointer_is_called_one(ddpm: Path, name: str) -> None:
    (ddpm / name).write_bytes(POINTER)
    error = refusal(ddpm)
    assert error.found.startswith(f"{name!r} is a Git LFS pointer")
    assert "git lfs pull" in error.do


def test_all_pointers_are_named_in_one_message(sd: Path) -> None:
    for path in sd.rglob("*.safetensors"):
        path.write_bytes(POINTER)
    error = refusal(sd)
    assert error.found == (
        "'text_encoder/model.safetensors', 'unet/diffusion_pytorch_model.safetensors', "
        "'vae/diffusion_pytorch_model.safetensors' are Git LFS pointers of a few lines, not the files themselves"
    )


# All at once.
def test_every_fault_of_a_folder_is_told_with_its_own_remedy(sd: Path) -> None:
    (sd / "app.py").write_text("print()")
    edit_json(sd / "unet/config.json", class_embed_type="timestep")
    edit_json(sd / "scheduler/scheduler_config.json", prediction_type="anything")
    (sd / "vae" / WEIGHTS).unlink()
    edit_json(sd / "tokenizer/tokenizer_config.json", trust_remote_code=True)
    error = refusal(sd)
    assert error.found == "5 things stand in the way of reading this checkpoint"
    said = [str(fault) for fault in error.faults]
    for text, line in zip(
        (
            "'app.py' (code)",
            "trust_remote_code",
            "'class_embed_type' is 'timestep'",
            "vae/ holds no weights",
            "prediction_type",
        ),
        said,
        strict=True,
    ):
        assert text in line
    assert all("; " in line for line in said)
    assert error.lines[0] == f"{error.found}:"
    assert error.lines[1:] == tuple(f"  {number}. {line}" for number, line in enumerate(said, start=1))


def test_all_strange_components_of_an_index_are_told_at_once(sd: Path) -> None:
    edit_json(sd / "model_index.json", controlnet=["diffusers", "ControlNetModel"], vae=["diffusers", "AsymmetricKL"])
    assert [str(fault).split(";")[0] for fault in refusal(sd).faults] == [
        "model_index.json names the component 'controlnet'",
        "model_index.json gives ['diffusers', 'AsymmetricKL'] for the component 'vae'",
    ]


def test_a_pipeline_that_is_not_supported_is_said_to_be_that_and_nothing_else(sd: Path) -> None:
    edit_json(sd / "model_index.json", _class_name="WuerstchenDecoderPipeline")
    (sd / "app.py").write_text("print()")
    error = refusal(sd)
    assert not error.faults
    assert "'WuerstchenDecoderPipeline', which is not supported" in error.found
    assert "StableDiffusionXLPipeline" in error.expected


def test_no_advice_is_taken_back_by_the_next_message(checkpoint: Callable[[str], Path]) -> None:
    ddpm = checkpoint("ddpm")
    (ddpm / "unet/diffusion_pytorch_model.bin").write_bytes(b"PK\x03\x04")
    beside = str(refusal(ddpm))
    assert "'unet/diffusion_pytorch_model.bin' (the same weights again, as a pickle)" in beside
    assert "--allow-pickle" not in beside
    (ddpm / "unet" / WEIGHTS).unlink()
    assert "--allow-pickle" in str(refusal(ddpm))
    torch.save(tiny_unet().state_dict(), ddpm / "unet/diffusion_pytorch_model.bin")
    inspect_checkpoint(ddpm, allow_pickle=True)
    (ddpm / "unet/diffusion_pytorch_model.bin").unlink()
    for name in ("diffusion_pytorch_model-00001-of-00002.bin", "diffusion_pytorch_model.bin.index.json"):
        (ddpm / "unet" / name).write_bytes(b"{}")
    shards = str(refusal(ddpm))
    assert "(a part of pickled weights)" in shards
    assert "--allow-pickle" not in shards
    assert "safe_serialization=True" in shards


def test_averages_beside_a_root_layout_stay_two_models(ddpm: Path) -> None:
    EMAModel(tiny_unet().parameters(), model_cls=type(tiny_unet()), model_config=tiny_unet().config).save_pretrained(
        ddpm / "unet_ema"
    )
    assert "two models" in str(refusal(ddpm))
    assert load_model(inspect_checkpoint(ddpm, weights="raw")).latent_shape == (3, 8, 8)
    assert DDIMScheduler.from_pretrained(ddpm / "scheduler").config.num_train_timesteps == 1000


# Weights and configurations of another kind.
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8])
def test_quantised_weights_are_called_that(ddpm: Path, dtype: torch.dtype) -> None:
    path = ddpm / "unet" / WEIGHTS
    save_file({key: tensor.to(dtype) for key, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    assert "holds quantised weights" in str(refusal(ddpm))


def test_a_quantisation_in_the_configuration_is_told_with_its_remedy(ddpm: Path) -> None:
    edit_json(ddpm / "unet/config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert "check the checkpoint before it is quantised" in str(refusal(ddpm))


def test_the_old_key_predict_epsilon_is_read_where_it_says_what_diffusers_does(ddpm: Path) -> None:
    place = ddpm / "scheduler/scheduler_config.json"
    edit_json(place, predict_epsilon=True)
    assert inspect_checkpoint(ddpm).prediction_type == "epsilon"
    load_verified(inspect_checkpoint(ddpm))
    for change in ({"predict_epsilon": False}, {"predict_epsilon": True, "prediction_type": "sample"}):
        edit_json(place, **change)
        assert "predict_epsilon is" in str(refusal(ddpm))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("flux-q4.gguf", "quantised weights"),
        ("controlnet/config.json", "a ControlNet or an adapter, which nobody scores"),
        ("controlnet/diffusion_pytorch_model.safetensors", "a ControlNet or an adapter, which nobody scores"),
        ("ip-adapter_sd15.safetensors", "a ControlNet or an adapter, which nobody scores"),
        ("learned_embeds.safetensors", "an adapter"),
        ("other/model_index.json", "the index of another pipeline"),
    ],
)
def test_what_lies_beside_a_model_is_called_what_it_is(ddpm: Path, name: str, kind: str) -> None:
    (ddpm / name).parent.mkdir(exist_ok=True)
    (ddpm / name).write_bytes(b"{}")
    assert f"{name!r} ({kind})" in str(refusal(ddpm))


def test_a_quantised_file_given_as_the_model_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "sd.gguf").write_bytes(b"GGUF")
    assert "(quantised weights)" in str(refusal(tmp_path / "sd.gguf"))


def test_a_variant_where_diffusers_finds_none_is_refused(ddpm: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for source in (ddpm / "model_index.json", *(ddpm / "unet").iterdir(), *(ddpm / "scheduler").iterdir()):
        shutil.copy(source, root)
    (root / WEIGHTS).rename(root / WEIGHTS.replace(".", ".fp16.", 1))
    with pytest.raises(ValueError, match="variant"):
        DDPMPipeline.from_pretrained(root, variant="fp16")
    assert "only as the variant 'fp16', in the root of the folder" in str(refusal(root))
    (ddpm / "unet").rename(ddpm / "unet_ema")
    (ddpm / "unet_ema" / WEIGHTS).rename(ddpm / "unet_ema" / WEIGHTS.replace(".", ".fp16.", 1))
    assert "only as the variant 'fp16', in unet_ema/" in str(refusal(ddpm))


def test_two_classes_of_a_network_are_refused(checkpoint: Callable[[str], Path]) -> None:
    vq = checkpoint("vq")
    edit_json(vq / "model_index.json", vqvae=["diffusers", "AutoencoderKL"])
    assert "model_index.json names AutoencoderKL for 'vqvae', vqvae/config.json VQModel" in str(refusal(vq))


def test_files_at_fault_are_one_fault(sd: Path) -> None:
    (sd / "app.py").write_text("print()")
    (sd / "config.json").write_text("{}")  # has a place in some checkpoint, and none in this one
    error = refusal(sd)
    assert not error.faults
    assert error.found.startswith("2 files would not be scored: 'app.py' (code), 'config.json'")


def test_averages_beside_weights_in_the_root_are_two_models(ddpm: Path, tmp_path: Path) -> None:
    (ddpm / "unet").rename(ddpm / "unet_ema")
    for source in (ddpm / "unet_ema").iterdir():
        shutil.copy(source, ddpm)
    DDPMPipeline.from_pretrained(ddpm)  # reads those in the root
    assert "two models: that of the folder's root" in str(refusal(ddpm))
    with pytest.raises(ModelError, match="two models"):
        export_model(ddpm, tmp_path / "clean")
