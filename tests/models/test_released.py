"""The released sampler: the very images that a user of the pipeline gets, one random stream an image."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    LDMPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor

from invmm_gate.core.errors import MeasurementError, ModelError
from invmm_gate.core.protocols import DiffusionModel, Sampler
from invmm_gate.measure.distributions import stream
from invmm_gate.models.adapters.released_pipeline import released_pipeline
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint, layout_of
from tests.models.conftest import edit_json, tiny_unet, tiny_vq


def sampler_of(model: DiffusionModel) -> Sampler:
    assert model.released is not None
    return model.released


def sampler(path: Path) -> Sampler:
    return sampler_of(load_model(inspect_checkpoint(path)))


def streams(*numbers: int) -> list[torch.Generator]:
    return [stream(7, number) for number in numbers]


def user(path: Path, *numbers: int, steps: int, **given: object) -> Tensor:
    """What `DiffusionPipeline.from_pretrained(path)(...)` gives, in [-1, 1]."""
    pipeline = DiffusionPipeline.from_pretrained(path, local_files_only=True)
    batch = {} if "prompt" in given else {"batch_size": len(numbers)}
    drawn = pipeline(**given, **batch, generator=streams(*numbers), num_inference_steps=steps, output_type="np")
    return torch.from_numpy(drawn.images).permute(0, 3, 1, 2) * 2 - 1


PIPELINES: dict[str, Callable[[], DiffusionPipeline]] = {
    "ddpm": lambda: DDPMPipeline(tiny_unet(), DDPMScheduler()),
    "ddpm, cosine, trailing": lambda: DDPMPipeline(
        tiny_unet(), DDPMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    ),
    "ddpm, v, no clipping": lambda: DDPMPipeline(
        tiny_unet(), DDPMScheduler(prediction_type="v_prediction", clip_sample=False)
    ),
    "ddim": lambda: DDIMPipeline(tiny_unet(), DDIMScheduler()),
    "ddim pipeline around another scheduler": lambda: DDIMPipeline(tiny_unet(), DDPMScheduler()),
    "ddpm pipeline around a solver": lambda: DDPMPipeline(tiny_unet(), DPMSolverMultistepScheduler()),
    "learned variance": lambda: DDPMPipeline(
        tiny_unet(out_channels=6), DDPMScheduler(variance_type="learned_range")
    ),
    "grey": lambda: DDPMPipeline(tiny_unet(in_channels=1, out_channels=1), DDPMScheduler()),
    "vq": lambda: LDMPipeline(tiny_vq(), tiny_unet(), DDIMScheduler()),
}  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_images_are_those_that_a_user_of_the_pipeline_gets(tmp_path: Path, name: str) -> None:
    PIPELINES[name]().save_pretrained(tmp_path / "m")
    found = sampler(tmp_path / "m").images(streams(0, 1, 2), steps=5)
    expected = user(tmp_path / "m", 0, 1, 2, steps=5)
    torch.testing.assert_close(found, expected.expand(-1, 3, -1, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3"])
def test_prompts_draw_what_they_draw_for_a_user(
    text_checkpoint: Callable[[str], Path], name: str, scale: float
) -> None:
    path, prompt = text_checkpoint(name), "a red cat and the dog"
    found = sampler(path).images(streams(0, 1), steps=3, prompt=prompt, guidance_scale=scale)
    more = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3" else {}
    pipeline = DiffusionPipeline.from_pretrained(path, local_files_only=True, **more)
    drawn = pipeline(
        prompt=[prompt] * 2, guidance_scale=scale, generator=streams(0, 1), num_inference_steps=3, output_type="np"
    )
    expected = torch.from_numpy(drawn.images).permute(0, 3, 1, 2) * 2 - 1
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_a_sample_does_not_depend_on_its_batch(ddpm: Path) -> None:
    drawn = sampler(ddpm)
    together = drawn.images(streams(0, 1, 2, 3), steps=4)
    for rows in ((3,), (2, 3), (3, 0, 1, 2)):
        torch.testing.assert_close(drawn.images(streams(*rows), steps=4)[rows.index(3)], together[3], atol=1e-4, rtol=0)


def test_a_pipeline_that_draws_noise_from_a_global_stream_is_repeatable_and_leaves_that_stream_alone(
    tmp_path: Path,
) -> None:
    LDMPipeline(tiny_vq(), tiny_unet(), DDPMScheduler(clip_sample=False)).save_pretrained(tmp_path / "m")
    drawn = sampler(tmp_path / "m")
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one = drawn.images(streams(0, 1), steps=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    assert torch.equal(drawn.images(streams(0, 1), steps=4), one)


@pytest.mark.parametrize(("name", "scale"), [("ddpm", 1.0), ("sd1", 1.0), ("sd1", 5.0)])
def test_the_forwards_are_the_networks_own(
    checkpoint: Callable[[str], Path], text_checkpoint: Callable[[str], Path], name: str, scale: float
) -> None:
    path = checkpoint(name) if name == "ddpm" else text_checkpoint(name)
    model = load_model(inspect_checkpoint(path))
    rows = 0

    def count(_: object, arguments: tuple[Tensor, ...]) -> None:
        nonlocal rows
        rows += arguments[0].shape[0]

    model.network.register_forward_pre_hook(count)  # type: ignore[attr-defined]
    prompt = None if model.prompts is None else "a cat"
    sampler_of(model).images(streams(0, 1, 2), steps=4, prompt=prompt, guidance_scale=scale)
    assert rows == 3 * sampler_of(model).forwards(steps=4, guidance_scale=scale)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_never_an_image(ddpm: Path, value: float) -> None:
    model = load_model(inspect_checkpoint(ddpm))
    with torch.no_grad():
        model.network.conv_out.bias.fill_(value)  # type: ignore[attr-defined]
    with pytest.raises(MeasurementError, match=r"DDPMPipeline, DDPMScheduler.*gave NaN or infinity"):
        sampler_of(model).images(streams(0), steps=3)


def test_the_name_says_scheduler_spacing_and_limits(ddpm: Path) -> None:
    assert sampler(ddpm).name == "DDPMPipeline, DDPMScheduler, leading spacing, x_0 clipped to [-1, 1]"
    edit_json(ddpm / "scheduler/scheduler_config.json", thresholding=True, timestep_spacing="trailing")
    limits = "x_0 thresholded at its quantile 0.995, at most 1"
    assert sampler(ddpm).name == f"DDPMPipeline, DDPMScheduler, trailing spacing, {limits}"


def test_stable_diffusion_never_clips_whatever_its_scheduler_says(text_checkpoint: Callable[[str], Path]) -> None:
    path = text_checkpoint("sd1")
    edit_json(path / "scheduler/scheduler_config.json", clip_sample=True)
    assert sampler(path).name.endswith("x_0 not clipped")
    assert StableDiffusionPipeline.from_pretrained(path).scheduler.config.clip_sample is False


def test_parts_that_diffusers_cannot_put_together_are_refused(ddpm: Path) -> None:
    _, layout = layout_of(inspect_checkpoint(ddpm))
    with pytest.raises(ModelError, match="diffusers cannot put DDPMPipeline together"):
        released_pipeline(layout, {}, {})
