"""The measure on real latent models saved by diffusers: VQ and KL autoencoders."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, LDMPipeline

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.records import Trial
from invmm_gate.core.settings import PROFILES, InversionSettings
from invmm_gate.measure.inversion import Inversion, Inverter
from invmm_gate.measure.slots import Task
from invmm_gate.models.load.load import load_model
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.similarity.pixel import PixelRmse
from tests.models.conftest import tiny_kl, tiny_unet, tiny_vq
from tests.models.tiny_classes import dit_pipeline

SHORT = InversionSettings(steps=4, batch_size=2, test_every=2, sampler_steps=3, test_samples=2, control_loss="total")


def measured(folder: Path, settings: InversionSettings, *, label: str = "") -> Trial:
    model = load_model(inspect_checkpoint(folder))
    image = torch.rand(3, *model.image_size, generator=torch.Generator().manual_seed(5)) * 2 - 1
    inverter = Inverter(
        model,
        PixelRmse(),
        settings,
        load_image=lambda _: image,
        load_caption=lambda _: label,
        root_seed=0,
        slots=2,
    )
    (done,) = [event for event in inverter.run([Task(probe="a", content="a", seed=0)]) if isinstance(event, Inversion)]
    assert done.mu.shape == model.latent_shape
    return done.trial


@pytest.mark.parametrize("coder", ["vq", "kl"])
def test_latent_models_are_measured_in_their_latent_space(tmp_path: Path, coder: str) -> None:
    autoencoder, channels = (tiny_vq(), 3) if coder == "vq" else (tiny_kl(), 4)
    unet = tiny_unet(in_channels=channels, out_channels=channels)
    LDMPipeline(autoencoder, unet, DDIMScheduler()).save_pretrained(tmp_path)
    trial = measured(tmp_path, SHORT)
    assert (trial.outcome, trial.steps, [point.step for point in trial.curve]) == ("not_inverted", 4, [2, 4])
    assert trial == measured(tmp_path, SHORT)


def test_the_target_is_the_mode_or_a_draw_of_the_posterior_as_the_settings_say(tmp_path: Path) -> None:
    unet = tiny_unet(in_channels=4, out_channels=4)
    LDMPipeline(tiny_kl(), unet, DDIMScheduler()).save_pretrained(tmp_path)
    mode, drawn = measured(tmp_path, SHORT), measured(tmp_path, replace(SHORT, posterior="sample"))
    assert mode.curve[0].denoising_error != drawn.curve[0].denoising_error
    assert drawn == measured(tmp_path, replace(SHORT, posterior="sample"))


def test_a_dit_is_inverted_under_its_label_at_each_guidance_scale_of_its_profile(tmp_path: Path) -> None:
    dit_pipeline().save_pretrained(tmp_path)
    settings = replace(SHORT, prompt="label", guidance_scales=PROFILES["gate"]["class_latent"].guidance_scales)
    three, seven = measured(tmp_path, settings, label="3"), measured(tmp_path, settings, label="7")
    assert three.curve[0].denoising_error != seven.curve[0].denoising_error
    assert three == measured(tmp_path, settings, label="3")
    # Each step trains two rows at two forwards; the last test draws two samples at one forward, and two at two.
    assert three.evaluations == 2 * 2 * 4 + 3 * 2 * (1 + 2) + 3 * (1 + 2)


@pytest.mark.parametrize("prompt", ["none", "caption", "joint"])
def test_a_setting_for_models_of_another_kind_is_refused(tmp_path: Path, prompt: str) -> None:
    dit_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"measure.settings.prompt is '{prompt}' for a class-conditional model"):
        measured(tmp_path, replace(SHORT, prompt=prompt), label="3")  # type: ignore[arg-type]
