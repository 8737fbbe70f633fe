"""The released sampler from a given noise: the very latents of the pipeline, by each scheduler that the gate reads."""

from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    LDMPipeline,
)
from torch import Tensor

from invmm_gate.core.errors import ModelError
from invmm_gate.diffusion.prediction import take_rows
from invmm_gate.diffusion.samplers import GridSampler, seeds_from, streams_of
from invmm_gate.models.adapters.released_pipeline import PipelineSampler
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.models.read.scheduler_config import SCHEDULERS, WITHOUT_GENERATOR
from tests.models.conftest import tiny_unet, tiny_vq
from tests.models.test_released import sampler_of, streams

STEPS = 4
PROMPT = "a red cat and the dog"


def sampler(path: Path) -> PipelineSampler:
    found = sampler_of(load_model(inspect_checkpoint(path)))
    assert isinstance(found, PipelineSampler)
    return found


def from_the_noise_of(drawn: PipelineSampler, *numbers: int, scale: float = 1.0, prompt: str | None = None) -> Tensor:
    """Images from the noise that the pipeline draws first of each stream, and from what is left of that stream."""
    model, given = drawn.model, streams(*numbers)
    noise = torch.stack([torch.randn(*model.latent_shape, generator=each) for each in given])
    condition = None
    if model.prompts is not None:
        condition = model.prompts.encode([prompt or ""] * len(numbers))
    return model.decode(drawn.x_0(noise, given, steps=STEPS, condition=condition, guidance_scale=scale))


def scheduled(kind: str, config: object) -> diffusers.SchedulerMixin:
    scheduler: diffusers.SchedulerMixin = getattr(diffusers, kind).from_config(config)
    return scheduler


@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_prompt_draws_what_the_pipeline_draws_by_each_scheduler(
    text_checkpoint: Callable[[str], Path], kind: str, scale: float
) -> None:
    if kind == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    drawn = sampler(text_checkpoint("sd1"))
    drawn.pipeline.scheduler = scheduled(kind, drawn.pipeline.scheduler.config)
    each = [[number] for number in (0, 1, 2)] if kind == "DPMSolverSDEScheduler" else [[0, 1, 2]]
    for numbers in each:  # a scheduler without generators draws one noise for all rows together
        expected = drawn.images(streams(*numbers), steps=STEPS, prompt=PROMPT, guidance_scale=scale)
        found = from_the_noise_of(drawn, *numbers, scale=scale, prompt=PROMPT)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        assert float(expected.std()) > 0.01


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("name", ["sdxl", "sd3", "lcm", "sana", "aura_flow"])
def test_each_text_pipeline_draws_so(text_checkpoint: Callable[[str], Path], name: str, scale: float) -> None:
    drawn = sampler(text_checkpoint(name))
    expected = drawn.images(streams(0, 1), steps=STEPS, prompt=PROMPT, guidance_scale=scale)
    found = from_the_noise_of(drawn, 0, 1, scale=scale, prompt=PROMPT)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["sde-dpmsolver++", "dpmsolver++"])
@pytest.mark.parametrize("last", ["zero", "sigma_min"])
def test_sana_draws_so_with_each_solver(text_checkpoint: Callable[[str], Path], kind: str, last: str) -> None:
    drawn = sampler(text_checkpoint("sana"))
    config = {**drawn.pipeline.scheduler.config, "algorithm_type": kind, "final_sigmas_type": last, "flow_shift": 6.0}
    drawn.pipeline.scheduler = scheduled("DPMSolverMultistepScheduler", config)
    assert drawn.name == "SanaPipeline, DPMSolverMultistepScheduler, x_0 not clipped"
    expected = drawn.images(streams(0, 1), steps=STEPS, prompt=PROMPT, guidance_scale=4.5)
    found = from_the_noise_of(drawn, 0, 1, scale=4.5, prompt=PROMPT)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


UNCONDITIONAL: dict[str, Callable[[], diffusers.DiffusionPipeline]] = {
    **{
        f"ddpm, {kind}": lambda kind=kind: DDPMPipeline(
            tiny_unet(), scheduled(kind, DDPMScheduler(clip_sample=False).config)
        )
        for kind in SCHEDULERS
        if kind not in WITHOUT_GENERATOR
    },
    "ddpm, clipped": lambda: DDPMPipeline(tiny_unet(), DDPMScheduler()),
    "ddpm, learned variance": lambda: DDPMPipeline(
        tiny_unet(out_channels=6), DDPMScheduler(variance_type="learned_range")
    ),
    "ddpm, sde": lambda: DDPMPipeline(
        tiny_unet(), DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    ),
    "ddim": lambda: DDIMPipeline(tiny_unet(), DDPMScheduler()),
    "ldm": lambda: LDMPipeline(tiny_vq(), tiny_unet(), diffusers.DDIMScheduler(clip_sample=False)),
    "ldm, euler": lambda: LDMPipeline(tiny_vq(), tiny_unet(), diffusers.EulerDiscreteScheduler()),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCONDITIONAL)
def test_a_pipeline_without_prompts_draws_so(tmp_path: Path, name: str) -> None:
    UNCONDITIONAL[name]().save_pretrained(tmp_path / "m")
    drawn = sampler(tmp_path / "m")
    expected = drawn.images(streams(0, 1, 2), steps=STEPS)
    torch.testing.assert_close(from_the_noise_of(drawn, 0, 1, 2), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler"])
def test_steps_at_which_a_scheduler_breaks_are_told_before_anything_is_drawn(tmp_path: Path, kind: str) -> None:
    """With this offset four steps stay within the 1,000 timesteps, and eight do not."""
    scheduler = getattr(diffusers, kind)(steps_offset=249, timestep_spacing="leading")
    DDPMPipeline(tiny_unet(), scheduler).save_pretrained(tmp_path / "m")
    drawn = sampler(tmp_path / "m")
    before = torch.get_rng_state()
    assert drawn.forwards(steps=4) == 4
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(
        ModelError, match=f"{kind} of the released pipeline cannot draw in 8 steps: index 1124.*steps to 4 in"
    ):
        drawn.forwards(steps=8)


def test_a_scheduler_that_needs_more_steps_says_how_many(text_checkpoint: Callable[[str], Path]) -> None:
    """The warm-up steps of PNDM need four: fewer would be no remedy."""
    drawn = sampler(text_checkpoint("sd1"))
    drawn.pipeline.scheduler = diffusers.PNDMScheduler()
    with pytest.raises(ModelError, match=r"PNDMScheduler .* in 1 steps: .*; set sampler_steps to 4 in the policy"):
        drawn.forwards(steps=1)
    assert drawn.forwards(steps=4) > 4


def test_a_scheduler_that_never_draws_is_to_be_corrected(tmp_path: Path) -> None:
    DDPMPipeline(tiny_unet(), diffusers.DDIMScheduler(timestep_spacing="even")).save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match=r"even is not supported.*; correct scheduler_config\.json"):
        sampler(tmp_path / "m").forwards(steps=8)


@pytest.mark.parametrize(
    ("kind", "changes", "steps", "why", "advice"),
    [
        ("PNDMScheduler", {}, 2, "operands could not be broadcast", "set sampler_steps to 4 in the policy"),
        ("LCMScheduler", {"original_inference_steps": 8}, 20, "8 x 1.0", "set sampler_steps to"),
        ("LCMScheduler", {"original_inference_steps": 0}, 4, "by zero", "correct scheduler_config.json"),
        (
            "DPMSolverMultistepScheduler",
            {"use_karras_sigmas": True, "sigma_min": 0.0},
            8,
            "NaN or infinity, whatever the network predicts",
            "correct scheduler_config.json",
        ),
    ],
)
def test_advice_about_steps_names_steps_that_the_scheduler_takes(
    text_checkpoint: Callable[[str], Path], kind: str, changes: dict[str, object], steps: int, why: str, advice: str
) -> None:
    drawn = sampler(text_checkpoint("sd1"))
    drawn.pipeline.scheduler = scheduled(kind, {**drawn.pipeline.scheduler.config, **changes})
    with pytest.raises(ModelError) as caught:
        drawn.forwards(steps=steps)
    assert why in str(caught.value)
    assert advice in caught.value.do
    if "set sampler_steps" in advice:
        advised = int(caught.value.do.split(" to ")[1].split(" ")[0])
        assert drawn.images(streams(0), steps=advised, prompt=PROMPT).isfinite().all()


@pytest.mark.parametrize("kind", ["EulerAncestralDiscreteScheduler", "LCMScheduler", "DPMSolverSDEScheduler"])
def test_what_a_scheduler_draws_is_the_rows_own(text_checkpoint: Callable[[str], Path], kind: str) -> None:
    """The same seed gives the same sample in any company, and another seed another sample from the same noise."""
    if kind == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    drawn = sampler(text_checkpoint("sd1"))
    drawn.pipeline.scheduler = scheduled(kind, drawn.pipeline.scheduler.config)
    noise = torch.randn(3, *drawn.model.latent_shape, generator=torch.Generator().manual_seed(1))
    seeds = seeds_from(torch.Generator().manual_seed(2), 3)
    before = torch.get_rng_state()
    condition = drawn.model.prompts.encode(["a cat", "a dog", "a red cat"])
    together = drawn.x_0(noise, streams_of(seeds), steps=STEPS, condition=condition)
    assert torch.equal(torch.get_rng_state(), before)
    back = take_rows(condition, torch.tensor([2, 1, 0]))
    turned = drawn.x_0(noise.flip(0), streams_of(seeds.flip(0)), steps=STEPS, condition=back)
    torch.testing.assert_close(turned.flip(0), together, atol=1e-5, rtol=0)
    again = drawn.x_0(noise, streams_of(seeds + 1), steps=STEPS, condition=condition)
    assert bool(((again - together).flatten(1).norm(dim=1) > 0.1).all())


def test_grid_and_released_differ_where_the_scheduler_is_another(text_checkpoint: Callable[[str], Path]) -> None:
    drawn = sampler(text_checkpoint("sd1"))
    drawn.pipeline.scheduler = scheduled("EulerAncestralDiscreteScheduler", drawn.pipeline.scheduler.config)
    noise = torch.randn(2, *drawn.model.latent_shape, generator=torch.Generator().manual_seed(1))
    given = streams_of(torch.arange(2))
    on_grid = GridSampler(drawn.model).x_0(noise, given, steps=STEPS)
    assert not torch.allclose(drawn.x_0(noise, given, steps=STEPS), on_grid, atol=0.1)
