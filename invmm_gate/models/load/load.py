"""From an inspected checkpoint to a frozen denoiser.

Networks are built from validated configurations and a literal table of classes; no pipeline is ever loaded,
nothing is imported by a name that a checkpoint gives, and nothing is fetched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import torch
from torch import nn

from invmm_gate.core.errors import ConfigError, ModelError
from invmm_gate.core.protocols import DiffusionModel
from invmm_gate.core.records import ModelManifest
from invmm_gate.core.settings import Family
from invmm_gate.diffusion.schedule import FlowMatching, VariancePreserving
from invmm_gate.models.adapters.prompt_encoders import prompt_encoder_of
from invmm_gate.models.adapters.released_pipeline import released_pipeline
from invmm_gate.models.adapters.text_to_image import TextToImageModel
from invmm_gate.models.adapters.unconditional import LatentModel, PixelModel
from invmm_gate.models.load.noise_schedule import refuse_other_process, schedule_of
from invmm_gate.models.load.weights import fill, fuse_loras
from invmm_gate.models.networks import build_tokenizer, on_meta
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.checkpoint_layout import Layout
from invmm_gate.models.read.inspect import layout_of
from invmm_gate.models.read.network_configs import KLConfig, VQConfig
from invmm_gate.models.read.parts_fit import autoencoder_of, denoiser_of, downscaling, image_size
from invmm_gate.models.read.pipelines import FAMILIES, TEXT_FAMILIES


@dataclass(frozen=True)
class Source:
    """The verified files of a checkpoint and what they are for."""

    files: CheckpointFiles
    pickles: frozenset[str]
    device: torch.device
    layout: Layout

    @cached_property
    def networks(self) -> dict[str, nn.Module]:
        """All components, with every LoRA fused into them; frozen, on the device."""
        filled = {name: self._filled(name) for name in self.layout.components}
        fuse_loras(self.files, self.layout.pipeline, filled)
        return {name: self._placed(network) for name, network in filled.items()}

    @cached_property
    def tokenizers(self) -> dict[str, Any]:
        """All tokenizers."""
        return {name: build_tokenizer(files) for name, files in self.layout.tokenizers.items()}

    @cached_property
    def pipeline(self) -> Any:
        """The released pipeline around these very parts. Raises ModelError where its process is another one."""
        pipeline = released_pipeline(self.layout, self.networks, self.tokenizers)
        refuse_other_process(pipeline.scheduler, self.layout.scheduler, self.schedule)
        return pipeline

    @cached_property
    def schedule(self) -> VariancePreserving | FlowMatching:
        """The noise schedule that the network was trained with."""
        return schedule_of(self.layout.scheduler, self.device)

    def _filled(self, name: str) -> nn.Module:
        component = self.layout.components[name]
        return fill(on_meta(component), self.files, component, pickles=self.pickles)

    def _placed(self, network: nn.Module) -> nn.Module:
        # Channels last: a tenth faster on a CPU (benchmarks/RESULTS.md), and what tensor cores want.
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def load_model(manifest: ModelManifest, *, device: str = "cpu") -> DiffusionModel:
    """The checkpoint's denoiser in float32, frozen, on `device`.

    Raises ModelError for files that changed since the inspection and for any missing, unexpected, mismatched or
    non-finite tensor; ConfigError for a device that is not there.
    """
    target = _device(device)
    files, layout = layout_of(manifest)
    return _LOADERS[FAMILIES[layout.pipeline]](Source(files, frozenset(manifest.pickles), target, layout))


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


def _load_text_to_image(source: Source) -> TextToImageModel:
    """The denoiser of a text-to-image checkpoint with its prompt encoder."""
    layout = source.layout
    coder = "vqvae" if layout.pipeline == "LDMTextToImagePipeline" else "vae"  # its name there, though it is KL
    autoencoder = layout.config(coder, KLConfig)
    height, width = image_size(layout)
    factor = downscaling(autoencoder)
    networks = source.networks
    return TextToImageModel(
        network=networks[layout.denoiser],
        autoencoder=networks[coder],
        prompts=prompt_encoder_of(layout.pipeline, {**source.tokenizers, **networks}, source.device),
        family=TEXT_FAMILIES[layout.pipeline],
        scaling_factor=autoencoder.scaling_factor,
        shift_factor=autoencoder.shift_factor or 0.0,
        schedule=source.schedule,
        prediction_type=layout.scheduler.prediction_type,
        latent_shape=(denoiser_of(layout).in_channels, height // factor, width // factor),
        image_size=(height, width),
        device=source.device,
        pipeline=source.pipeline,
        zero_unconditional=layout.settings.get("force_zeros_for_empty_prompt", False),
    )


_LOADERS: Final[dict[Family, Callable[[Source], DiffusionModel]]] = {
    "pixel": _load_pixel,
    "latent": _load_latent,
    "stable_diffusion": _load_text_to_image,
    "stable_diffusion_3": _load_text_to_image,
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
