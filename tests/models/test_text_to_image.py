"""The text-to-image adapter against diffusers' own pipelines and schedulers, and its promises."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import (
    AuraFlowPipeline,
    ChromaPipeline,
    Flux2KleinPipeline,
    FluxPipeline,
    Lumina2Pipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    QwenImagePipeline,
    SanaPipeline,
    ZImagePipeline,
)
from torch import Tensor

from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import Condition, DiffusionModel, NoiseLevel
from invmm_gate.diffusion.prediction import take_rows
from invmm_gate.diffusion.sampling import sample
from invmm_gate.models.adapters.network_calls import guidance_embedding
from invmm_gate.models.adapters.text_to_image import TextToImageModel
from tests.models.tiny_text import (
    LARGE,
    LARGEST,
    NAMES,
    PROMPTS,
    SIZE,
    Tiny,
    build,
    sana,
    stable_diffusion,
    stable_diffusion_xl,
)

STEPS = 5
"""Divides 1000: DDIM in diffusers steps back by 1000 // steps, not to the next timestep of its grid."""
FAMILIES = tuple(name for name in NAMES if name != "ldm")
ON_GRID = tuple(name for name in FAMILIES if name != "lcm")
"""Pipelines that can draw with a scheduler of the measure's own grid: LCM's adds noise of its own."""
STEP_BY_STEP = tuple(name for name in ON_GRID if name != "sana")
"""Those whose own scheduler takes the steps of that grid: Sana's takes two estimates for one step."""
TOLD = ("lcm", "flux", "flux_schnell")
"""Networks without an unconditional branch: told the guidance scale, or without any guidance."""
GUIDED = tuple(name for name in NAMES if name not in TOLD)
RESCALED = ("qwen_image", "lumina")
"""Families whose guided prediction has the norm of the conditional one."""
SCALES = (1.0, 5.0)


@cache
def tiny(name: str) -> Tiny:
    return build(name)


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> TextToImageModel:
    return tiny(request.param).model


@pytest.fixture(params=GUIDED)
def guided(request: pytest.FixtureRequest) -> TextToImageModel:
    return tiny(request.param).model


def noise(model: TextToImageModel, rows: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(rows, *model.latent_shape, generator=torch.Generator().manual_seed(seed))


def close(actual: Tensor, expected: Tensor, what: str) -> None:
    """Equal to 1e-5 of the expected values' scale, some eighty times float32's precision; Z-Image's time is rounded."""
    scale, difference = expected.abs().max().item(), (actual - expected).abs().max().item()
    print(f"equality | {what} | {difference:.1e} | {scale:.3g} | {str(actual.dtype).removeprefix('torch.')}")
    share = 5e-5 if what.startswith("z_image") else 1e-5
    torch.testing.assert_close(actual, expected, rtol=0, atol=share * scale)


def middle(model: DiffusionModel, rows: int = 2) -> NoiseLevel:
    return model.schedule.at(torch.full((rows,), 600))


# --- equality with diffusers


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ON_GRID)
def test_one_step_estimates_x_0_as_the_scheduler_does(name: str, scale: float) -> None:
    pipeline, model = tiny(name).pipeline, tiny(name).model
    x_t, level = noise(model), model.schedule.grid(STEPS)[1]
    level = NoiseLevel(alpha=level.alpha.expand(2), sigma=level.sigma.expand(2), time=level.time.expand(2))
    expected = pipeline_x_0(pipeline, x_t, scale, cfg=name in GUIDED)
    found = model.estimate_x_0(x_t, level, condition=model.prompts.encode(PROMPTS), guidance_scale=scale)
    close(found, expected, f"{name} | x_0_hat | {scale:g}")


def pipeline_x_0(pipeline: Any, x_t: Tensor, scale: float, *, cfg: bool) -> Tensor:
    """The x_0_hat at the second step of a pipeline's run whose latents are set to x_t before that step."""
    seen: dict[str, Any] = {}
    flow = "transformer" in pipeline.components and not isinstance(pipeline, PixArt)
    network = pipeline.transformer if "transformer" in pipeline.components else pipeline.unet

    def keep(pipe: Any, step: int, timestep: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 0:
            values["latents"] = in_loop(pipeline, x_t.clone())
        return values

    def watch(module: Any, inputs: Any, output: tuple[Tensor]) -> None:
        seen.setdefault("outputs", []).append(output[0])

    def put(step: int, timestep: Tensor, latents: Tensor) -> None:
        if step == 0:
            latents.copy_(x_t)

    look: dict[str, Any] = {"callback_on_step_end": keep, "callback_on_step_end_tensor_inputs": ["latents"]}
    handle = network.register_forward_hook(watch)
    first = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(9))
    run(pipeline, first, scale, **({"callback": put} if isinstance(pipeline, PixArt) else look))
    handle.remove()
    output = second_step(pipeline, seen["outputs"], guided=scale > 1)
    output = guided_output(pipeline, output, scale) if scale > 1 and cfg else output
    scheduler = pipeline.scheduler
    if flow:  # x_0 = x_t - sigma * velocity; the flow scheduler does not return it
        return x_t - scheduler.sigmas[1] * unpacked(pipeline, output)
    scheduler.set_timesteps(STEPS)
    output = output[:, : x_t.shape[1]]  # PixArt learned the variance too
    return scheduler.step(output, scheduler.timesteps[1], x_t).pred_original_sample


def guided_output(pipeline: Any, output: Tensor, scale: float) -> Tensor:
    without, given = output.chunk(2)
    output = without + scale * (given - without)
    if isinstance(pipeline, QwenImagePipeline | Lumina2Pipeline):
        output = output * (given.norm(dim=-1, keepdim=True) / output.norm(dim=-1, keepdim=True))
    return output


def second_step(pipeline: Any, outputs: list[Any], *, guided: bool) -> Tensor:
    """What the network predicted there: where the pipeline guides, the unconditional rows first."""
    if isinstance(pipeline, BRANCH_BY_BRANCH):
        found = torch.cat(outputs[3:1:-1]) if guided else outputs[1]
        return -found if isinstance(pipeline, Lumina2Pipeline) else found
    if isinstance(pipeline, ZImagePipeline):  # the conditional rows first, of the other sign
        rows = -torch.stack(outputs[1]).squeeze(2)
        return torch.cat(rows.chunk(2)[::-1]) if guided else rows
    alone: Tensor = outputs[1]
    return alone


def run(pipeline: Any, latents: Tensor, scale: float, *, prompts: list[str] | None = None, **options: Any) -> Tensor:
    result = pipeline(
        prompt=prompts or list(PROMPTS),
        latents=packed(pipeline, latents.clone()),
        **told(pipeline, scale),
        generator=torch.Generator().manual_seed(0),
        **{"num_inference_steps": STEPS, "output_type": "latent", **sides(pipeline), **options},
    )
    return unpacked(pipeline, result.images)


def told(pipeline: Any, scale: float) -> dict[str, Any]:
    """The guidance scale, as a user of the pipeline gives it."""
    if isinstance(pipeline, QwenImagePipeline):
        return {"true_cfg_scale": scale, "negative_prompt": [" ", " "]}
    if isinstance(pipeline, PixArt):  # at another size than its own: otherwise it would resize what it drew
        return {"guidance_scale": scale, "use_resolution_binning": False}
    return {"guidance_scale": scale - 1 if isinstance(pipeline, ZImagePipeline) else scale}


PixArt = PixArtAlphaPipeline | PixArtSigmaPipeline
SIZED = (FluxPipeline, ChromaPipeline, ZImagePipeline, Flux2KleinPipeline, QwenImagePipeline)
BRANCH_BY_BRANCH = (ChromaPipeline, Flux2KleinPipeline, Lumina2Pipeline, QwenImagePipeline)
"""Pipelines that call the network for the prompt first, then for the negative one."""
PACKED = (FluxPipeline, ChromaPipeline, QwenImagePipeline)


def sides(pipeline: Any) -> dict[str, int]:
    """The size of the image, where the pipeline does not take it from its network."""
    if isinstance(pipeline, SanaPipeline):  # it draws at the size of its network, and resizes to what was asked for
        return {"height": LARGEST, "width": LARGEST}
    if isinstance(pipeline, AuraFlowPipeline | PixArt):
        return {"height": LARGE, "width": LARGE}
    return {"height": SIZE, "width": SIZE} if isinstance(pipeline, SIZED) else {}  # Lumina 2 has a `sample_size`


def standardised(pipeline: Any, latents: Tensor) -> Tensor:
    """As diffusers' own pipelines scale the latents of an image."""
    if isinstance(pipeline, Flux2KleinPipeline):
        norm = pipeline.vae.bn.eval()
        return norm(pipeline._patchify_latents(latents))
    config = pipeline.vae.config
    if isinstance(pipeline, QwenImagePipeline):
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (config.latents_mean, config.latents_std))
        return (latents.squeeze(2) - mean) / std
    return (latents - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor


def in_loop(pipeline: Any, latents: Tensor) -> Tensor:
    """As the pipeline's loop holds them."""
    return pipeline._pack_latents(latents) if isinstance(pipeline, Flux2KleinPipeline) else packed(pipeline, latents)


def packed(pipeline: Any, latents: Tensor) -> Tensor:
    """As diffusers packs them itself."""
    if not isinstance(pipeline, PACKED):
        return latents
    rows, channels, height, width = latents.shape
    return pipeline._pack_latents(latents, rows, channels, height, width)


def unpacked(pipeline: Any, latents: Tensor) -> Tensor:
    """Also images that are latents no more: they have four axes."""
    if isinstance(pipeline, Flux2KleinPipeline) and latents.ndim == 3:
        return pipeline._unpack_latents_with_ids(latents, pipeline._prepare_latent_ids(torch.empty(2, 1, 4, 4)), 4, 4)
    if isinstance(pipeline, Flux2KleinPipeline) and latents.shape[1] == 4:  # it hands out the autoencoder's latents
        return standardised(pipeline, latents)
    if not isinstance(pipeline, PACKED) or latents.ndim == 4:
        return latents
    found = pipeline._unpack_latents(latents, SIZE, SIZE, pipeline.vae_scale_factor)
    return found.squeeze(2) if isinstance(pipeline, QwenImagePipeline) else found


def frames(pipeline: Any, images: Tensor) -> Tensor:
    """As the autoencoder takes images or latents: one of videos takes them as one frame."""
    return images.unsqueeze(2) if isinstance(pipeline, QwenImagePipeline) else images


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", STEP_BY_STEP)
def test_the_whole_sampler_equals_the_diffusers_pipeline(name: str, scale: float) -> None:
    pipeline, model = tiny(name).pipeline, tiny(name).model
    condition = model.prompts.encode(PROMPTS)
    found = sample(model, noise(model), steps=STEPS, condition=condition, guidance_scale=scale)
    close(found, run(pipeline, noise(model), scale), f"{name} | sampler | {scale:g}")
    other = sample(model, noise(model), steps=STEPS, condition=take_rows(condition, torch.tensor([1, 0])))
    assert (found - other).abs().max() > 0.1, "the prompts must matter, or equality says little"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_sampler_of_sana_is_its_pipelines(order: int, scale: float) -> None:
    """Through the pipeline's own scheduler at each order, and at order 1 on the measure's own grid."""
    pipeline, model = (built := sana(solver_order=order)).pipeline, replace(built.model, pipeline=built.pipeline)
    condition, expected = model.prompts.encode(PROMPTS), run(pipeline, noise(model), scale)
    streams = [torch.Generator() for _ in PROMPTS]
    found = model.released.x_0(noise(model), streams, steps=STEPS, condition=condition, guidance_scale=scale)
    close(found, expected, f"sana | sampler, order {order} | {scale:g}")
    on_grid = sample(model, noise(model), steps=STEPS, condition=condition, guidance_scale=scale)
    if order == 1:
        close(on_grid, expected, f"sana | sampler, grid | {scale:g}")
    assert order == 1 or (on_grid - expected).abs().max() > 0.01
    other = sample(model, noise(model), steps=STEPS, condition=take_rows(condition, torch.tensor([1, 0])))
    assert (on_grid - other).abs().max() > 0.1, "the prompts must matter, or equality says little"


@pytest.mark.parametrize("name", FAMILIES)
def test_decoded_images_equal_the_diffusers_pipeline(name: str) -> None:
    pipeline, model = tiny(name).pipeline, tiny(name).model
    latents = run(pipeline, noise(model), 5.0)
    images = run(pipeline, noise(model), 5.0, output_type="pt")
    close(model.decode(latents), images * 2 - 1, f"{name} | decode | 5")
    assert images.min() < images.max()
    small = 0.2 * latents / latents.abs().max()
    before = pipeline.vae.decode(frames(pipeline, model.statistics.raw(small))).sample
    close(model.decode(small), before.view(2, 3, *model.image_size).clamp(-1, 1), f"{name} | decode, not clamped | -")


@pytest.mark.parametrize("scale", SCALES)
def test_text_conditioned_ldm_equals_the_diffusers_pipeline(scale: float) -> None:
    pipeline, model = tiny("ldm").pipeline, tiny("ldm").model
    found = sample(model, noise(model), steps=STEPS, condition=model.prompts.encode(PROMPTS), guidance_scale=scale)
    images = run(pipeline, noise(model), scale, output_type="pt", height=64, width=64)
    close(model.decode(found), images * 2 - 1, f"ldm | sampler and decode | {scale:g}")


@pytest.mark.parametrize("zero", [True, False])
def test_the_empty_prompt_of_sd_xl_is_guided_as_in_the_pipeline(zero: bool) -> None:
    built = stable_diffusion_xl(zero_unconditional=zero, legacy=False)
    found = sample(built.model, noise(built.model), steps=STEPS, guidance_scale=5.0)
    close(
        found,
        run(built.pipeline, noise(built.model), 5.0, prompts=["", ""]),
        f"sdxl, empty prompt, zero {zero} | sampler | 5",
    )


@pytest.mark.parametrize("scale", [1.0, 2.5, 7.0])
def test_a_guidance_distilled_network_is_told_the_scale_as_in_the_pipeline(scale: float) -> None:
    built = stable_diffusion(time_cond_proj_dim=6)
    condition = built.model.prompts.encode(PROMPTS)
    found = sample(built.model, noise(built.model), steps=STEPS, condition=condition, guidance_scale=scale)
    close(found, run(built.pipeline, noise(built.model), scale), f"sd1, distilled | sampler | {scale:g}")
    assert (built.model.guidance_distilled, built.model.forwards(scale)) == (True, 1)


@pytest.mark.parametrize("scale", [1.0, 8.5])
def test_one_step_of_a_latent_consistency_model_is_its_estimate_of_x_0(scale: float) -> None:
    """Its scheduler starts at the last timestep, where it adds next to nothing of x_t to x_0_hat."""
    pipeline, model = tiny("lcm").pipeline, tiny("lcm").model
    x_t, level = noise(model), model.schedule.at(torch.full((2,), 999))
    found = model.estimate_x_0(x_t, level, condition=model.prompts.encode(PROMPTS), guidance_scale=scale)
    close(found, run(pipeline, x_t, scale, num_inference_steps=1), f"lcm | x_0_hat | {scale:g}")


def test_an_odd_guidance_embedding_equals_diffusers() -> None:
    expected = tiny("sd1").pipeline.get_guidance_scale_embedding(torch.tensor([3.5]), embedding_dim=7)
    torch.testing.assert_close(guidance_embedding(3.5, 7), expected)


def test_an_autoencoder_without_a_posterior_gives_its_latents_scaled() -> None:
    pipeline, model = tiny("sana").pipeline, tiny("sana").model
    images = torch.rand(2, 3, *model.image_size, generator=torch.Generator().manual_seed(5)) * 2 - 1
    latents = pipeline.vae.encode(images).latent
    torch.testing.assert_close(model.encode(images), standardised(pipeline, latents))
    assert torch.equal(model.encode(images, generator=torch.Generator().manual_seed(3)), model.encode(images))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "sana"])
def test_latents_are_the_posteriors_mode_scaled_and_shifted(name: str) -> None:
    pipeline, model = tiny(name).pipeline, tiny(name).model
    images = torch.rand(2, 3, *model.image_size, generator=torch.Generator().manual_seed(5)) * 2 - 1
    posterior = pipeline.vae.encode(frames(pipeline, images)).latent_dist
    torch.testing.assert_close(model.encode(images), standardised(pipeline, posterior.mode()))
    drawn = model.encode(images, generator=torch.Generator().manual_seed(3))
    expected = posterior.sample(torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn, standardised(pipeline, expected))
    assert not torch.allclose(drawn, model.encode(images))


# --- the adapter's promises


def test_it_is_a_diffusion_model(model: TextToImageModel) -> None:
    assert isinstance(model, DiffusionModel)
    assert math.prod(model.latent_shape) == 4 * (SIZE if model.image_size[0] == LARGEST else SIZE // 2) ** 2
    assert model.image_size in ((SIZE, SIZE), (LARGE, LARGE), (LARGEST, LARGEST))


def test_a_row_does_not_depend_on_its_neighbours(model: TextToImageModel) -> None:
    level, condition = middle(model), model.prompts.encode(PROMPTS)
    changed = model.prompts.encode([PROMPTS[0], "the dog"])
    rounding = 1e-5 if "mask" in condition.tensors else 0  # rows of one length are predicted together, however many
    x_t = noise(model)
    other = torch.cat([x_t[:1], 3 * noise(model, 1, seed=4)])
    for scale in (1.0, 3.0):
        first = model.estimate_x_0(x_t, level, condition=condition, guidance_scale=scale)
        second = model.estimate_x_0(other, level, condition=changed, guidance_scale=scale)
        torch.testing.assert_close(first[0], second[0], rtol=0, atol=rounding)
        assert not torch.equal(first[1], second[1])


@pytest.mark.parametrize("name", [name for name in GUIDED if name not in RESCALED])
def test_guidance_is_linear_in_its_scale(name: str) -> None:
    model = tiny(name).model
    level, condition = middle(model), model.prompts.encode(PROMPTS)
    at = {
        scale: model.estimate_x_0(noise(model), level, condition=condition, guidance_scale=scale)
        for scale in (0.0, 1.0, 3.0, -1.0)
    }
    for scale in (3.0, -1.0):
        expected = at[0.0] + scale * (at[1.0] - at[0.0])
        torch.testing.assert_close(at[scale], expected, rtol=1e-4, atol=1e-4)


def test_scale_0_ignores_the_prompt_and_none_is_the_empty_prompt(guided: TextToImageModel) -> None:
    model = guided
    level, condition = middle(model), model.prompts.encode(PROMPTS)
    empty = model.prompts.encode(["", ""])
    unconditional = model.estimate_x_0(noise(model), level, condition=condition, guidance_scale=0.0)
    torch.testing.assert_close(
        unconditional, model.estimate_x_0(noise(model), level, guidance_scale=0.0), rtol=0, atol=0
    )
    for scale in (1.0, 3.0):
        without = model.estimate_x_0(noise(model), level, guidance_scale=scale)
        given = model.estimate_x_0(noise(model), level, condition=empty, guidance_scale=scale)
        torch.testing.assert_close(without, given, rtol=1e-4, atol=1e-4)


@pytest.fixture
def calls(guided: TextToImageModel) -> Iterator[list[int]]:
    """Rows of each call of the network."""
    rows: list[int] = []
    handle = guided.network.register_forward_hook(lambda module, inputs, output: rows.append(len(output[0])))
    yield rows
    handle.remove()


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 7.0])
def test_both_branches_take_one_call_of_the_network(guided: TextToImageModel, calls: list[int], scale: float) -> None:
    model = guided
    model.estimate_x_0(noise(model), middle(model), condition=model.prompts.encode(PROMPTS), guidance_scale=scale)
    assert sum(calls) == 2 * model.forwards(scale)
    assert len(calls) == 1 or "mask" in model.empty.tensors  # rows of another length are predicted apart
    assert model.forwards(scale) == (1 if scale in (0.0, 1.0) else 2)


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_network_that_is_told_the_scale_or_has_none_takes_one_forward(name: str, scale: float) -> None:
    model = tiny(name).model
    level, condition = middle(model), model.prompts.encode(PROMPTS)
    assert model.forwards(scale) == 1
    at = [model.estimate_x_0(noise(model), level, condition=condition, guidance_scale=each) for each in (1.0, scale)]
    assert torch.equal(*at) == (name == "flux_schnell" or scale == 1.0)
    assert model.guidance_distilled == (name != "flux_schnell")


@pytest.mark.parametrize("name", [name for name in GUIDED if name != "z_image"])
def test_the_unconditional_rows_come_first(name: str) -> None:
    model = tiny(name).model
    given: list[Tensor] = []

    def watch(module: Any, inputs: Any, arguments: dict[str, Tensor]) -> None:
        given.append(arguments["encoder_hidden_states"])

    condition = model.prompts.encode(PROMPTS)
    handle = model.network.register_forward_pre_hook(watch, with_kwargs=True)
    model.estimate_x_0(noise(model), middle(model), condition=condition, guidance_scale=2.0)
    handle.remove()
    words = given[0].shape[1]  # Qwen-Image's network is not given what is padding in every row
    torch.testing.assert_close(given[0][:2], model.unconditional.tensors["context"][:, :words].expand(2, -1, -1))
    torch.testing.assert_close(given[0][2:], condition.tensors["context"][:, :words])


def test_gradients_reach_x_t_and_condition_and_no_weight(model: TextToImageModel) -> None:
    encoded = model.prompts.encode(PROMPTS)
    tensors = {name: tensor.requires_grad_() for name, tensor in encoded.tensors.items()}
    x_t = noise(model).requires_grad_()
    estimate = model.estimate_x_0(x_t, middle(model), condition=Condition(tensors=tensors), guidance_scale=3.0)
    estimate.square().sum().backward()
    reached = (x_t, *(tensor for key, tensor in tensors.items() if key != "mask"))
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in reached)
    assert all(parameter.grad is None for parameter in model.network.parameters())
    assert all(not tensor.requires_grad for tensor in model.unconditional.tensors.values())


@pytest.mark.parametrize("encoders", ["first", "clip"])
def test_the_gradient_by_soft_prompt_weights_equals_finite_differences(model: TextToImageModel, encoders: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    rest = model.prompts.encode(PROMPTS)
    choices = torch.tensor([10, 11, 12, 20])
    weights = torch.rand(2, 5, 4, generator=generator).softmax(dim=2)
    direction = torch.randn(2, 5, 4, generator=generator)
    probe = noise(model, seed=7)

    def value(weights: Tensor) -> Tensor:
        condition = model.prompts.mix(weights, choices, rest=rest, encoders=encoders)
        return (model.estimate_x_0(noise(model), middle(model), condition=condition, guidance_scale=2.0) * probe).sum()

    (gradient,) = torch.autograd.grad(value(leaf := weights.clone().requires_grad_()), leaf)
    step = 2e-3
    with torch.no_grad():
        expected = (value(weights + step * direction) - value(weights - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=2e-2, atol=2e-2)


def test_estimates_and_conditions_stay_float32_in_bfloat16() -> None:
    full, half = stable_diffusion().model, stable_diffusion().model
    expected = full.estimate_x_0(noise(full), middle(full), condition=full.prompts.encode(PROMPTS), guidance_scale=3.0)
    for module in (half.network, half.autoencoder, half.prompts.placed[0].tower.encoder):
        module.to(torch.bfloat16)
    condition = half.prompts.encode(PROMPTS)
    found = half.estimate_x_0(noise(half), middle(half), condition=condition, guidance_scale=3.0)
    assert condition.tensors["context"].dtype == found.dtype == torch.float32
    assert half.decode(found).dtype == half.encode(torch.zeros(1, 3, SIZE, SIZE)).dtype == torch.float32
    assert (found - expected).abs().mean() < 0.2 * expected.abs().mean()


# --- refusals


def test_a_condition_of_other_rows_is_refused(model: TextToImageModel) -> None:
    with pytest.raises(ModelError, match="a condition of 2 rows for 3 rows"):
        model.estimate_x_0(noise(model, 3), middle(model, 3), condition=model.prompts.encode(PROMPTS))


@pytest.mark.parametrize("scale", [0.0, 0.5, -1.0])
def test_a_guidance_distilled_network_has_no_scale_below_1(scale: float) -> None:
    model = stable_diffusion(time_cond_proj_dim=6).model
    with pytest.raises(ModelError, match="without an unconditional branch"):
        model.estimate_x_0(noise(model), middle(model), guidance_scale=scale)


def test_images_of_another_size_are_refused(model: TextToImageModel) -> None:
    with pytest.raises(ModelError, match="8x8"):
        model.encode(torch.zeros(1, 3, 8, 8))
