"""From an inspected checkpoint to a frozen denoiser.

Networks are built from validated configurations and a literal table of classes; no pipeline is ever loaded,
nothing is imported by a name that a checkpoint gives, and nothing is fetched.
"""

from collections.abc import Callable
from typing import Final, Literal

import torch

from invmm_gate.core.errors import ConfigError, ModelError
from invmm_gate.core.protocols import DiffusionModel
from invmm_gate.core.records import ModelManifest
from invmm_gate.models.adapters.latent import LatentModel
from invmm_gate.models.adapters.pixel import PixelModel
from invmm_gate.models.load.load_text import load_text_to_image
from invmm_gate.models.load.source import Source
from invmm_gate.models.read.configs import VQConfig
from invmm_gate.models.read.inspect import layout_of
from invmm_gate.models.read.parts_fit import autoencoder_of, denoiser_of, downscaling, image_size


def load_model(manifest: ModelManifest, *, device: str = "cpu") -> DiffusionModel:
    """The checkpoint's denoiser in float32, frozen, on `device`.

    Raises ModelError for files that changed since the inspection and for any missing, unexpected, mismatched or
    non-finite tensor; ConfigError for a device that is not there.
    """
    target = _device(device)
    files, layout = layout_of(manifest)
    return _LOADERS[layout.pipeline](Source(files, frozenset(manifest.pickles), target, layout))


def _load_pixel(source: Source) -> DiffusionModel:
    layout = source.layout
    return PixelModel(
        network=source.networks["unet"],
        schedule=source.schedule,
        prediction_type=layout.scheduler.prediction_type,
        latent_shape=(denoiser_of(layout).in_channels, *image_size(layout)),
        device=source.device,
        pipeline=source.pipeline,
    )


def _load_latent(source: Source) -> DiffusionModel:
    layout = source.layout
    config = autoencoder_of(layout)
    if config is None:
        raise ModelError(f"{layout.pipeline} without an autoencoder", expected="the component 'vqvae'")
    height, width = image_size(layout)
    factor = downscaling(config)
    kind: Literal["vq", "kl"] = "vq" if isinstance(config, VQConfig) else "kl"
    return LatentModel(
        network=source.networks["unet"],
        autoencoder=source.networks["vqvae"],
        kind=kind,
        scaling_factor=config.scaling_factor,
        schedule=source.schedule,
        prediction_type=layout.scheduler.prediction_type,
        latent_shape=(config.width, height // factor, width // factor),
        image_size=(height, width),
        device=source.device,
        pipeline=source.pipeline,
    )


_LOADERS: Final[dict[str, Callable[[Source], DiffusionModel]]] = {
    "DDPMPipeline": _load_pixel,
    "DDIMPipeline": _load_pixel,
    "LDMPipeline": _load_latent,
    "UNet2DModel": _load_pixel,
    "LDMTextToImagePipeline": load_text_to_image,
    "StableDiffusionPipeline": load_text_to_image,
    "StableDiffusionXLPipeline": load_text_to_image,
    "StableDiffusion3Pipeline": load_text_to_image,
}


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled for the device
        raise ConfigError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}", expected="cpu, cuda or cuda:N"
        ) from error
    return device
