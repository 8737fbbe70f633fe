"""The adapters against diffusers' own schedulers and autoencoders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, LDMPipeline

from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import Condition, DiffusionModel
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from tests.models.conftest import tiny_kl, tiny_unet, tiny_vq


def load(path: Path) -> DiffusionModel:
    return load_model(inspect_checkpoint(path))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def pictures(rows: int, size: int) -> torch.Tensor:
    return noise(rows, 3, size, size).tanh()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scheduler_class", [DDPMScheduler, DDIMScheduler])
def test_the_estimate_is_the_one_of_diffusers(tmp_path: Path, prediction_type: str, scheduler_class: Any) -> None:
    scheduler = scheduler_class(prediction_type=prediction_type, clip_sample=False)
    unet = tiny_unet().eval()
    DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
    model = load(tmp_path)
    scheduler.set_timesteps(1000)
    for timestep in (0, 17, 500, 999):
        x_t = noise(3, 3, 8, 8)
        with torch.no_grad():
            output = unet(x_t, timestep).sample
            step = scheduler.step(output, timestep, x_t, generator=torch.Generator().manual_seed(0))
            level = model.schedule.at(torch.full((3,), timestep))
            torch.testing.assert_close(model.estimate_x_0(x_t, level), step.pred_original_sample, rtol=1e-4, atol=1e-4)


def test_a_row_does_not_depend_on_the_timesteps_of_its_neighbours(ddpm: Path) -> None:
    model, x_t, times = load(ddpm), noise(3, 3, 8, 8), torch.tensor([5, 400, 990])
    together = model.estimate_x_0(x_t, model.schedule.at(times))
    for row in range(3):
        alone = model.estimate_x_0(x_t[row : row + 1], model.schedule.at(times[row : row + 1]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


def test_the_learned_variance_is_left_out(tmp_path: Path) -> None:
    scheduler = DDPMScheduler(variance_type="learned_range", clip_sample=False)
    unet = tiny_unet(out_channels=6).eval()
    DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
    x_t, model = noise(2, 3, 8, 8), load(tmp_path)
    with torch.no_grad():
        step = scheduler.step(unet(x_t, 300).sample, 300, x_t, generator=torch.Generator().manual_seed(0))
    level = model.schedule.at(torch.tensor([300, 300]))
    torch.testing.assert_close(model.estimate_x_0(x_t, level), step.pred_original_sample, rtol=1e-4, atol=1e-4)


def test_pixels_are_their_own_latent(ddpm: Path) -> None:
    model, images = load(ddpm), pictures(2, 8)
    torch.testing.assert_close(model.decode(model.encode(images)), images)
    assert model.decode(torch.full((1, 3, 8, 8), 3.0)).max() == 1


def test_a_grey_model_sees_the_luma_and_shows_grey(tmp_path: Path) -> None:
    DDPMPipeline(tiny_unet(in_channels=1, out_channels=1), DDPMScheduler()).save_pretrained(tmp_path)
    model = load(tmp_path)
    grey = pictures(2, 8)[:, :1].expand(-1, 3, -1, -1)
    assert model.encode(grey).shape == (2, 1, 8, 8) == (2, *model.latent_shape)
    torch.testing.assert_close(model.decode(model.encode(grey)), grey)
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(model.encode(red), torch.full((1, 1, 8, 8), 2 * 0.299 - 1))


@pytest.mark.parametrize("name", ["ddpm", "vq"])
def test_guidance_conditions_and_other_sizes_are_never_ignored(checkpoint: Callable[[str], Path], name: str) -> None:
    model = load(checkpoint(name))
    x_t, level = torch.zeros(1, *model.latent_shape), model.schedule.at(torch.tensor([1]))
    with pytest.raises(ModelError, match=r"guidance_scale 7\.5"):
        model.estimate_x_0(x_t, level, guidance_scale=7.5)
    with pytest.raises(ModelError, match="a condition"):
        model.estimate_x_0(x_t, level, condition=Condition(tensors={}))
    with pytest.raises(ModelError, match="images are 4x4"):
        model.encode(torch.zeros(1, 3, 4, 4))


def test_a_vq_latent_is_the_encoder_output_before_quantisation(checkpoint: Callable[[str], Path]) -> None:
    model, vq = load(checkpoint("vq")), tiny_vq().eval()
    images = pictures(2, 16)
    assert (model.family, model.latent_shape, model.image_size) == ("latent", (3, 8, 8), (16, 16))
    with torch.no_grad():
        latent = vq.encode(images).latents
        quantised = vq.quantize(latent)[0]
        assert not torch.allclose(latent, quantised)
        torch.testing.assert_close(model.encode(images), latent)
        torch.testing.assert_close(model.decode(latent), vq.decode(latent).sample.clamp(-1, 1))
        torch.testing.assert_close(model.decode(latent), model.decode(quantised))


@pytest.mark.parametrize("stated", [True, False])
def test_a_vq_latent_is_scaled_as_its_pipeline_does_where_the_file_says_nothing_too(
    checkpoint: Callable[[str], Path], tmp_path: Path, stated: bool
) -> None:
    LDMPipeline(tiny_vq(scaling_factor=2.0), tiny_unet(), DDIMScheduler()).save_pretrained(tmp_path / "scaled")
    if not stated:
        config = tmp_path / "scaled/vqvae/config.json"
        config.write_text("\n".join(line for line in config.read_text().splitlines() if "scaling_factor" not in line))
    images, plain = pictures(1, 16), load(checkpoint("vq"))
    model = load(tmp_path / "scaled")
    torch.testing.assert_close(model.encode(images), plain.encode(images) * (2.0 if stated else 0.18215))
    torch.testing.assert_close(model.decode(model.encode(images)), plain.decode(plain.encode(images)))


def test_a_kl_latent_is_the_scaled_mode_of_the_posterior(tmp_path: Path) -> None:
    kl = tiny_kl().eval()
    unet = tiny_unet(in_channels=4, out_channels=4)
    LDMPipeline(kl, unet, DDIMScheduler()).save_pretrained(tmp_path)
    model, images = load(tmp_path), pictures(2, 16)
    with torch.no_grad():
        posterior = kl.encode(images).latent_dist
        expected = posterior.mode() * 0.5
        torch.testing.assert_close(model.encode(images), expected)
        torch.testing.assert_close(model.decode(expected), kl.decode(posterior.mode()).sample.clamp(-1, 1))
        drawn = posterior.sample(torch.Generator().manual_seed(1))
        encoded = model.encode(images, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(encoded, drawn * 0.5)


def test_a_latent_estimate_is_the_one_of_diffusers(checkpoint: Callable[[str], Path]) -> None:
    model, unet = load(checkpoint("kl")), tiny_unet(in_channels=4, out_channels=4).eval()
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(1000)
    x_t = noise(2, 4, 8, 8)
    with torch.no_grad():
        expected = scheduler.step(unet(x_t, 400).sample, 400, x_t).pred_original_sample
    level = model.schedule.at(torch.tensor([400, 400]))
    torch.testing.assert_close(model.estimate_x_0(x_t, level), expected, rtol=1e-4, atol=1e-4)


def test_rectangular_images_are_possible(tmp_path: Path) -> None:
    DDPMPipeline(tiny_unet(sample_size=(8, 16)), DDPMScheduler()).save_pretrained(tmp_path)
    model = load(tmp_path)
    assert (model.latent_shape, model.image_size) == ((3, 8, 16), (8, 16))
