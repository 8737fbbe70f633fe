"""What diffusers makes of a configuration is what the gate believes: held against diffusers itself."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel, UNet2DModel, VQModel

from invmm_gate.core.errors import ModelError
from invmm_gate.models.load.load import alpha_bar_of
from invmm_gate.models.read.autoencoder_configs import VQConfig
from invmm_gate.models.read.diffusers_config import CLIPPED, WITHOUT_OFFSET, scheduler_as_loaded, validated
from invmm_gate.models.read.image_sizes import image_size
from invmm_gate.models.read.inspect import inspect_checkpoint, layout_of
from invmm_gate.models.read.network_configs import UNetConfig, encoder_config, network_config
from invmm_gate.models.read.pipelines import PIPELINES, read_index
from invmm_gate.models.read.scheduler_config import SCHEDULERS, SchedulerConfig, read_scheduler
from tests.models.conftest import TINY, edit_json, tiny_vq

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers' own, with numpy 2

Checkpoints = Callable[[str], Path]
NETWORK = {
    **TINY,
    "_class_name": "UNet2DConditionModel",
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}


def stable_diffusion(**parts: Any) -> Any:
    """The pipeline around these parts alone; what it changes in them it changes without the others."""
    blank = dict.fromkeys(("vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker"))
    return StableDiffusionPipeline(**{**blank, **parts}, feature_extractor=None, requires_safety_checker=False)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("version", "size", "drawn"),
    [
        ("0.6.0", 8, 64), ("0.8.1", 63, 64), ("0.9.0.dev0", 8, 8), ("0.9", 8, 8), ("0.9.0rc1", 8, 8), ("0.35.1", 8, 8),
        ("0.8.0.dev0", 8, 64), ("0.6.0", 96, 96), ("0.6.0", [8, 16], (8, 16)), (None, 8, 8), ("0.6.0", None, None),
    ],
)  # fmt: skip
def test_an_old_unet_is_drawn_at_the_size_that_its_pipeline_puts_there(
    version: str | None, size: object, drawn: object
) -> None:
    content = {**NETWORK, "sample_size": size, "_diffusers_version": version}
    content = {key: value for key, value in content.items() if value is not None}
    network = UNet2DConditionModel.from_config(content)
    theirs = stable_diffusion(unet=network).unet.config.sample_size
    kinds = ("UNet2DConditionModel",)
    _, ours = network_config(content, name="c", allowed=kinds, pipeline="StableDiffusionPipeline")
    assert tuple(theirs) == drawn if isinstance(theirs, list) else theirs == drawn
    assert ours.sample_size == drawn  # type: ignore[union-attr]
    _, elsewhere = network_config(content, name="c", allowed=kinds, pipeline="StableDiffusionXLPipeline")
    assert elsewhere.sample_size == (tuple(size) if isinstance(size, list) else size)  # type: ignore[union-attr]


@pytest.mark.parametrize("version", ["", "old", 0.6, ["0.6.0"], "0.6.0; rm", "1!0.6", "v" * 1000])
def test_a_version_that_is_none_is_refused_where_it_decides(version: object) -> None:
    content = {**NETWORK, "_diffusers_version": version}
    with pytest.raises(ModelError, match="_diffusers_version"):
        network_config(content, name="c", allowed=("UNet2DConditionModel",), pipeline="StableDiffusionPipeline")


def test_a_checkpoint_older_than_0_9_is_measured_at_the_size_that_users_get(sd: Path) -> None:
    assert image_size(layout_of(inspect_checkpoint(sd))[1]) == (16, 16)
    edit_json(sd / "unet/config.json", _diffusers_version="0.6.0")
    assert image_size(layout_of(inspect_checkpoint(sd))[1]) == (128, 128)
    edit_json(sd / "unet/config.json", _use_default_values=["sample_size"])
    with pytest.raises(ModelError, match="no sample_size"):
        inspect_checkpoint(sd)


@pytest.mark.parametrize("side", [16, 32])
def test_ldm_with_prompts_draws_an_eighth_of_what_it_asks_for(text_checkpoint: Checkpoints, side: int) -> None:
    folder = text_checkpoint("ldm")
    edit_json(folder / "unet/config.json", sample_size=side)
    pipeline = diffusers.LDMTextToImagePipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline("cat", num_inference_steps=1, output_type="pt").images
    assert image_size(layout_of(inspect_checkpoint(folder))[1]) == tuple(drawn.shape[-2:]) == (side // 2, side // 2)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_stable_diffusion_takes_clipping_and_offset_from_no_file(kind: str) -> None:
    for stated in ({}, {"clip_sample": True, "steps_offset": 0}, {"clip_sample": False, "steps_offset": 7}):
        content = {"_class_name": kind, **stated}
        scheduler = getattr(diffusers, kind).from_config(content)
        theirs = stable_diffusion(scheduler=scheduler).scheduler.config
        ours = scheduler_as_loaded("StableDiffusionPipeline", content, "c")
        known = set(inspect.signature(type(scheduler).__init__).parameters) & {"clip_sample", "steps_offset"}
        assert known == ({"clip_sample"} if kind in CLIPPED else set()) | (
            set() if kind in WITHOUT_OFFSET else {"steps_offset"}
        )
        assert {key: ours[key] for key in known} == {key: theirs[key] for key in known}
        assert scheduler_as_loaded("DDPMPipeline", content, "c") == content


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_ddim_pipeline_makes_a_ddim_scheduler_of_any(kind: str) -> None:
    network = UNet2DModel(**TINY)
    for stated in ({}, {"beta_end": 0.012, "prediction_type": "v_prediction"}, {"beta_schedule": "scaled_linear"}):
        content = {"_class_name": kind, **stated}
        pipeline = DDIMPipeline(network, getattr(diffusers, kind).from_config(content))
        ours = read_scheduler(scheduler_as_loaded("DDIMPipeline", content, "c"), "c")
        assert isinstance(pipeline.scheduler, DDIMScheduler)
        assert isinstance(ours, SchedulerConfig)
        assert (ours.scheduler, ours.prediction_type) == ("DDIMScheduler", pipeline.scheduler.config.prediction_type)
        torch.testing.assert_close(alpha_bar_of(ours), pipeline.scheduler.alphas_cumprod, rtol=0, atol=0)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_zero_snr_counts_only_where_the_scheduler_knows_it(kind: str) -> None:
    content = {"_class_name": kind, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    theirs = getattr(diffusers, kind).from_config(content).alphas_cumprod
    if theirs[-1] > 1e-6:
        with pytest.raises(ModelError, match="ignores rescale_betas_zero_snr"):
            read_scheduler(content, "c")
    else:
        ours = read_scheduler(content, "c")
        assert isinstance(ours, SchedulerConfig)
        torch.testing.assert_close(alpha_bar_of(ours), theirs, rtol=0, atol=1e-7)


def test_clip_sample_is_true_or_false() -> None:
    for value in (1, 0, "true", None, [True]):
        with pytest.raises(ModelError, match="clip_sample"):
            scheduler_as_loaded("StableDiffusionPipeline", {"_class_name": "DDIMScheduler", "clip_sample": value}, "c")


def test_keys_that_a_file_tells_diffusers_to_ignore_are_ignored() -> None:
    content = {**TINY, "_class_name": "UNet2DModel", "downsample_padding": 0, "flip_sin_to_cos": False}
    for listed in ([], ["downsample_padding"], ["downsample_padding", "flip_sin_to_cos", "nothing"]):
        given = {**content, "_use_default_values": listed}
        theirs = UNet2DModel.from_config(given).config
        _, ours = network_config(given, name="c", allowed=("UNet2DModel",))
        assert isinstance(ours, UNetConfig)
        assert (ours.downsample_padding, ours.flip_sin_to_cos) == (theirs.downsample_padding, theirs.flip_sin_to_cos)
    noise = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    for listed in (["beta_schedule"], ["prediction_type", "beta_schedule"]):
        given = {**noise, "_use_default_values": listed}
        scheduler = diffusers.DDPMScheduler.from_config(given)
        found = read_scheduler(given, "c")
        assert isinstance(found, SchedulerConfig)
        assert found.prediction_type == scheduler.config.prediction_type
        torch.testing.assert_close(alpha_bar_of(found), scheduler.alphas_cumprod, rtol=0, atol=0)
    index = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    with pytest.raises(ModelError, match="'unet'"):
        read_index({**index, "_use_default_values": ["unet"]}, PIPELINES["DDPMPipeline"])


@pytest.mark.parametrize("listed", ["downsample_padding", None, {"a": 1}, [1], ["_diffusers_version"], [["a"]]])
def test_a_list_of_ignored_keys_that_is_none_is_refused(listed: object) -> None:
    content = {**TINY, "_class_name": "UNet2DModel", "_use_default_values": listed}
    with pytest.raises(ModelError, match="_use_default_values"):
        network_config(content, name="c", allowed=("UNet2DModel",))


@pytest.mark.parametrize("key", ["_ignore_files", "_auto_class", "_attn_implementation", "_x", "__class__", "_"])
def test_a_hidden_key_that_nobody_knows_is_refused(key: str) -> None:
    for read in (
        lambda: network_config({**TINY, "_class_name": "UNet2DModel", key: 1}, name="c", allowed=("UNet2DModel",)),
        lambda: read_scheduler({"_class_name": "DDPMScheduler", key: 1}, "c"),
        lambda: encoder_config({key: 1}, name="c", kind="CLIPTextModel"),
        lambda: read_index({"unet": ["diffusers", "UNet2DModel"], key: 1}, PIPELINES["DDPMPipeline"]),
    ):
        with pytest.raises(ModelError, match=f"'{key}' is no key"):
            read()


def test_bookkeeping_of_real_files_passes() -> None:
    kept = {"_name_or_path": "a/b", "_diffusers_version": "0.6.0", "_commit_hash": "f", "_class_name": "UNet2DModel"}
    assert network_config({**TINY, **kept}, name="c", allowed=("UNet2DModel",))[0] == "UNet2DModel"
    encoder_config({"_name_or_path": "x", "_attn_implementation_autoset": True}, name="c", kind="CLIPTextModel")


def test_an_encoder_in_a_type_that_the_gate_does_not_measure_is_refused() -> None:
    for key in ("torch_dtype", "dtype"):
        for value in (None, "float32", "float16", "bfloat16"):
            encoder_config({key: value}, name="c", kind="CLIPTextModel")
        for value in ("float8_e4m3fn", "int8", "auto", 16, ["float32"], {"": "float32"}):
            with pytest.raises(ModelError, match=key):
                encoder_config({key: value}, name="c", kind="CLIPTextModel")


def test_a_vq_latent_is_scaled_alike_before_and_after_a_second_save(tmp_path: Path) -> None:
    content = {key: value for key, value in tiny_vq().config.items() if key != "scaling_factor"}
    once = VQModel.from_config(content)
    once.save_pretrained(tmp_path)
    kept = {key: value for key, value in VQModel.load_config(tmp_path).items() if key[:1] != "_"}
    given = {key: value for key, value in content.items() if key[:1] != "_"}
    scales = [validated(VQConfig, each, "c").scaling_factor for each in (given, kept)]
    assert scales == [once.config.scaling_factor] * 2
