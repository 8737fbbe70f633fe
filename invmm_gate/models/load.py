"""From an inspected checkpoint to a frozen denoiser. The only module that touches diffusers.

Networks are built from validated configurations and a literal table of classes; no pipeline is ever loaded,
nothing is imported by a name that a checkpoint gives, and nothing is fetched.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import nn

from invmm_gate.diffusion.schedule import VariancePreserving
from invmm_gate.errors import ConfigError, GateError, ModelError
from invmm_gate.models.configs import NetworkConfig, UNetConfig, VQConfig
from invmm_gate.models.files import CheckpointFiles
from invmm_gate.models.fit import image_size
from invmm_gate.models.inspect import layout_of
from invmm_gate.models.latent import LatentModel
from invmm_gate.models.layout import Component, Layout
from invmm_gate.models.noise_schedule import alpha_bar_of
from invmm_gate.models.pixel import PixelModel
from invmm_gate.models.scheduler_config import SchedulerConfig
from invmm_gate.models.weights import fill
from invmm_gate.protocols import DiffusionModel
from invmm_gate.records import ModelManifest

_OFFLINE: Final[dict[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


def load_model(manifest: ModelManifest, *, device: str = "cpu") -> DiffusionModel:
    """The checkpoint's denoiser in float32, frozen, on `device`.

    Raises ModelError for files that changed since the inspection and for any missing, unexpected, mismatched or
    non-finite tensor; ConfigError for a device that is not there.
    """
    target = _device(device)
    files, layout = layout_of(manifest)
    return _LOADERS[layout.pipeline](_Source(files, frozenset(manifest.pickles), target), layout)


@dataclass(frozen=True, slots=True)
class _Source:
    files: CheckpointFiles
    pickles: frozenset[str]
    device: torch.device

    def network(self, component: Component) -> nn.Module:
        network = fill(_on_meta(component), self.files, component, pickles=self.pickles)
        # Channels last: a tenth faster on a CPU (benchmarks/RESULTS.md), and what tensor cores want.
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def schedule(self, config: SchedulerConfig) -> VariancePreserving:
        return VariancePreserving(alpha_bar_of(config).to(self.device))


def _load_pixel(source: _Source, layout: Layout) -> DiffusionModel:
    return PixelModel(
        network=source.network(layout.unet),
        schedule=source.schedule(layout.scheduler),
        prediction_type=layout.scheduler.prediction_type,
        latent_shape=(layout.unet_config.in_channels, *image_size(layout)),
        device=source.device,
    )


def _load_latent(source: _Source, layout: Layout) -> DiffusionModel:
    config, component = layout.autoencoder_config, layout.autoencoder
    if config is None or component is None:
        raise ModelError(f"{layout.pipeline} without an autoencoder", expected="the component 'vqvae'")
    height, width = image_size(layout)
    factor = 2 ** (len(config.block_out_channels) - 1)
    kind: Literal["vq", "kl"] = "vq" if isinstance(config, VQConfig) else "kl"
    return LatentModel(
        network=source.network(layout.unet),
        autoencoder=source.network(component),
        kind=kind,
        scaling_factor=config.scaling_factor,
        shift_factor=0.0 if isinstance(config, VQConfig) else config.shift_factor or 0.0,
        schedule=source.schedule(layout.scheduler),
        prediction_type=layout.scheduler.prediction_type,
        latent_shape=(config.width, height // factor, width // factor),
        image_size=(height, width),
        device=source.device,
    )


_LOADERS: Final[dict[str, Callable[[_Source, Layout], DiffusionModel]]] = {
    "DDPMPipeline": _load_pixel,
    "DDIMPipeline": _load_pixel,
    "LDMPipeline": _load_latent,
    "UNet2DModel": _load_pixel,
}


def _on_meta(component: Component) -> nn.Module:
    """The network without memory, so that a configuration cannot exhaust it before the weights are compared."""
    build = _diffusers_class(component.config)
    try:
        with torch.device("meta"):
            network: nn.Module = build(**component.config.arguments())
    except GateError:
        raise
    except Exception as error:  # diffusers and torch raise many kinds for numbers that do not fit together
        raise ModelError(
            f"{component.name}/config.json describes no network that can be built: {str(error)[:200]}",
            expected="the configuration that diffusers saved",
        ) from error
    return network


def _diffusers_class(config: NetworkConfig) -> Callable[..., Any]:
    """Each class is imported only where a checkpoint needs it: diffusers' imports take seconds."""
    os.environ.update(_OFFLINE)
    try:
        return _import_class(config)
    except (ImportError, RuntimeError) as error:  # diffusers' lazy imports raise RuntimeError
        raise ModelError(
            f"diffusers cannot be imported: {error}", expected="diffusers 0.35 or later", do="pip install diffusers"
        ) from error


def _import_class(config: NetworkConfig) -> Callable[..., Any]:
    import diffusers

    network: Callable[..., Any]
    if isinstance(config, UNetConfig):
        network = diffusers.UNet2DModel
    else:
        network = diffusers.VQModel if isinstance(config, VQConfig) else diffusers.AutoencoderKL
    return network


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled for the device
        raise ConfigError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}", expected="cpu, cuda or cuda:N"
        ) from error
    return device
