"""From an inspected checkpoint to a frozen denoiser with the noise schedule that it was trained with.

Networks are built from validated configurations and a literal table of classes; no pipeline is ever loaded,
nothing is imported by a name that a checkpoint gives, and nothing is fetched.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invmm_gate.core.errors import ConfigError, ModelError
from invmm_gate.core.protocols import DiffusionModel
from invmm_gate.core.records import ModelManifest
from invmm_gate.core.settings import Family
from invmm_gate.diffusion.schedule import FlowMatching, VariancePreserving
from invmm_gate.models.adapters.class_conditional import ClassConditionalModel, labels_of_network
from invmm_gate.models.adapters.latent_statistics import BatchNormOfPatches, LatentStatistics, OneScale, PerChannel
from invmm_gate.models.adapters.prompt_encoders import prompt_encoder_of
from invmm_gate.models.adapters.released_pipeline import refuse_other_process, released_pipeline
from invmm_gate.models.adapters.text_to_image import TextToImageModel
from invmm_gate.models.adapters.unconditional import LatentModel, PixelModel
from invmm_gate.models.load.weights import fill, fuse_loras
from invmm_gate.models.networks import build_tokenizer, on_meta
from invmm_gate.models.read.autoencoder_configs import DCConfig, KLConfig, QwenImageAutoencoderConfig, VQConfig
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.checkpoint_layout import Layout, autoencoder_of, denoiser_of
from invmm_gate.models.read.image_sizes import downscaling, image_size, latent_shape, tokens_of
from invmm_gate.models.read.inspect import layout_of
from invmm_gate.models.read.parts_fit import family_of
from invmm_gate.models.read.pipelines import TEXT_FAMILIES
from invmm_gate.models.read.scheduler_config import KLEIN, OWN_LEVELS, FlowConfig, FlowSolverConfig, SchedulerConfig


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
        config = self.layout.scheduler
        if isinstance(config, FlowConfig):
            return flow_of(config, self.layout.pipeline, tokens_of(self.layout), self.device)
        if isinstance(config, FlowSolverConfig):
            return solved_flow_of(config, self.device)
        return VariancePreserving(alpha_bar_of(config).to(self.device))

    def _filled(self, name: str) -> nn.Module:
        component = self.layout.components[name]
        return fill(on_meta(component), self.files, component, pickles=self.pickles)

    def _placed(self, network: nn.Module) -> nn.Module:
        if any(parameter.ndim == 5 for parameter in network.parameters()):  # videos have a format of their own
            return network.to(self.device)
        # Channels last: a tenth faster on a CPU (benchmarks/RESULTS.md), and what tensor cores want.
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


_STEPS: Final = 50
"""Steps of Flux2KleinPipeline when nobody names a number: its shift depends on them, that of training levels too."""


def flow_of(config: FlowConfig, pipeline: str, tokens: int, device: torch.device) -> FlowMatching:
    """Flow matching as the pipeline runs it for an image of so many tokens."""
    own = pipeline in OWN_LEVELS
    shift_in = partial(config.shift_of_klein, tokens) if pipeline == KLEIN else None
    plain = config.shift_at(tokens) if own else config.shift
    return FlowMatching(
        shift=plain if shift_in is None else shift_in(_STEPS),
        timesteps=config.num_train_timesteps,
        spacing="pipeline" if own else "scheduler",
        device=device,
        shift_in=shift_in,
        last=config.shift_terminal,
    )


def solved_flow_of(config: FlowSolverConfig, device: torch.device) -> FlowMatching:
    """Flow matching as DPM-Solver runs it."""
    return FlowMatching(shift=config.flow_shift, timesteps=config.num_train_timesteps, spacing="solver", device=device)


def load_model(manifest: ModelManifest, *, device: str = "cpu") -> DiffusionModel:
    """The checkpoint's denoiser in float32, frozen, on `device`.

    Raises ModelError for files that changed since the inspection and for any missing, unexpected, mismatched or
    non-finite tensor; ConfigError for a device that is not there.
    """
    target = _device(device)
    files, layout = layout_of(manifest)
    return _LOADERS[family_of(layout)](Source(files, frozenset(manifest.pickles), target, layout))


def _load_pixel(source: Source) -> PixelModel:
    layout = source.layout
    return PixelModel(
        network=source.networks[layout.denoiser],
        schedule=source.schedule,
        prediction_type=layout.scheduler.prediction_type,
        latent_shape=(denoiser_of(layout).in_channels, *image_size(layout)),
        device=source.device,
        pipeline=source.pipeline,
    )


def _load_latent(source: Source) -> LatentModel:
    layout = source.layout
    config, coder = autoencoder_of(layout), "vqvae" if "vqvae" in layout.components else "vae"
    if not isinstance(config, VQConfig | KLConfig):
        raise ModelError(f"{layout.pipeline} without an autoencoder", expected=f"the component {coder!r}")
    height, width = image_size(layout)
    factor = downscaling(config)
    kind: Literal["vq", "kl"] = "vq" if isinstance(config, VQConfig) else "kl"
    return LatentModel(
        network=source.networks[layout.denoiser],
        autoencoder=source.networks[coder],
        kind=kind,
        scaling_factor=config.scaling_factor,
        schedule=source.schedule,
        prediction_type=layout.scheduler.prediction_type,
        latent_shape=(config.width, height // factor, width // factor),
        image_size=(height, width),
        device=source.device,
        pipeline=source.pipeline,
    )


def _load_class_conditional(source: Source) -> ClassConditionalModel:
    """The denoiser with its classes, in the pixels or the latent of the same model without them."""
    space = _load_latent(source) if autoencoder_of(source.layout) else _load_pixel(source)
    return ClassConditionalModel(
        network=space.network,
        prompts=labels_of_network(space.network, source.device),
        space=space,
        pipeline=source.pipeline,
    )


def _load_text_to_image(source: Source) -> TextToImageModel:
    """The denoiser of a text-to-image checkpoint with its prompt encoder."""
    layout = source.layout
    coder = "vqvae" if layout.pipeline == "LDMTextToImagePipeline" else "vae"  # its name there, though it is KL
    networks = source.networks
    return TextToImageModel(
        network=networks[layout.denoiser],
        autoencoder=networks[coder],
        prompts=prompt_encoder_of(layout.pipeline, {**source.tokenizers, **networks}, source.device),
        family=TEXT_FAMILIES[layout.pipeline],
        statistics=_statistics(networks[coder], layout.components[coder].config),
        schedule=source.schedule,
        prediction_type=layout.scheduler.prediction_type,
        latent_shape=latent_shape(layout),
        image_size=image_size(layout),
        device=source.device,
        pipeline=source.pipeline,
        pipeline_guides=not layout.settings.get("is_distilled", False),
        zero_unconditional=layout.settings.get("force_zeros_for_empty_prompt", False),
    )


def _statistics(autoencoder: Any, config: object) -> LatentStatistics:
    if isinstance(config, KLConfig):
        return OneScale(config.scaling_factor, config.shift_factor or 0.0)
    if isinstance(config, DCConfig):
        return OneScale(config.scaling_factor)
    if isinstance(config, QwenImageAutoencoderConfig):
        return PerChannel(config.latents_mean, config.latents_std)
    return BatchNormOfPatches(autoencoder)


_LOADERS: Final[dict[Family, Callable[[Source], DiffusionModel]]] = {
    "pixel": _load_pixel,
    "latent": _load_latent,
    "class_pixel": _load_class_conditional,
    "class_latent": _load_class_conditional,
    "stable_diffusion": _load_text_to_image,
    "stable_diffusion_3": _load_text_to_image,
    "flow": _load_text_to_image,
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


Betas = Float[Tensor, " timestep"]


def alpha_bar_of(config: SchedulerConfig) -> Float[Tensor, " timestep"]:
    """alpha_bar_t for t = 0 .. T - 1, float32, falling. Raises ModelError if it is not a noise schedule.

    With `rescale_betas_zero_snr` the last one is 0, as in training; some of diffusers' samplers put 2**-24 there.
    """
    if config.trained_betas is not None:
        betas = torch.tensor(config.trained_betas, dtype=torch.float32)
    else:
        betas = _SCHEDULES[config.beta_schedule](config)
    if config.rescale_betas_zero_snr:
        betas = _rescaled_to_zero_snr(betas)
    alpha_bar = torch.cumprod(1.0 - betas, dim=0)
    _refuse_unusable(alpha_bar, config)
    return alpha_bar


def _linear(config: SchedulerConfig) -> Betas:
    return torch.linspace(config.beta_start, config.beta_end, config.num_train_timesteps, dtype=torch.float32)


def _scaled_linear(config: SchedulerConfig) -> Betas:
    ends = config.beta_start**0.5, config.beta_end**0.5
    return torch.linspace(*ends, config.num_train_timesteps, dtype=torch.float32) ** 2


def _squared_cosine(config: SchedulerConfig) -> Betas:
    """Source: arXiv:2102.09672, Eq. 17; betas capped at 0.999."""
    steps = config.num_train_timesteps

    def signal(step: int) -> float:
        return math.cos((step / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - signal(step + 1) / signal(step), 0.999) for step in range(steps)]
    return torch.tensor(betas, dtype=torch.float32)


def _sigmoid(config: SchedulerConfig) -> Betas:
    ramp = torch.sigmoid(torch.linspace(-6, 6, config.num_train_timesteps))
    return ramp * (config.beta_end - config.beta_start) + config.beta_start


_SCHEDULES: Final[dict[str, Callable[[SchedulerConfig], Betas]]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _squared_cosine,
    "sigmoid": _sigmoid,
}


def _rescaled_to_zero_snr(betas: Betas) -> Betas:
    """Source: arXiv:2305.08891, Algorithm 1."""
    root = torch.cumprod(1.0 - betas, dim=0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * (first / (first - last))
    alpha_bar = root**2
    return 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def _refuse_unusable(alpha_bar: Float[Tensor, " timestep"], config: SchedulerConfig) -> None:
    """An epsilon estimate divides by sqrt(alpha_bar); v_prediction and sample may end in pure noise."""
    enough = alpha_bar > 0 if config.prediction_type == "epsilon" else alpha_bar >= 0
    sound = alpha_bar.isfinite().all() and (alpha_bar < 1).all() and (alpha_bar[1:] <= alpha_bar[:-1]).all()
    if not sound or not enough.all():
        raise ModelError(
            f"the betas of {config.scheduler} give no usable noise schedule for {config.prediction_type}",
            expected="alpha_bar finite, falling, below 1 and, for epsilon, above 0",
            do="correct scheduler_config.json",
        )
