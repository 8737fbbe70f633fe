"""Text-to-image checkpoints: which tower reads what, and the model around them."""

from collections.abc import Callable, Mapping
from typing import Final

from torch import nn

from invmm_gate.models.adapters.prompt_encoders import (
    Prompts,
    latent_diffusion_prompts,
    stable_diffusion_3_prompts,
    stable_diffusion_prompts,
    stable_diffusion_xl_prompts,
)
from invmm_gate.models.adapters.text_to_image import TextToImageModel
from invmm_gate.models.load.source import Source
from invmm_gate.models.read.conditional_configs import SD3Config
from invmm_gate.models.read.configs import KLConfig
from invmm_gate.models.read.parts_fit import denoiser_of, downscaling, image_size
from invmm_gate.models.read.pipelines import TEXT_FAMILIES


def load_text_to_image(source: Source) -> TextToImageModel:
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
        prompts=_PROMPTS[layout.pipeline](source, networks),
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


def _bert(source: Source, networks: Mapping[str, nn.Module]) -> Prompts:
    return latent_diffusion_prompts(
        tokenizer=source.tokenizers["tokenizer"], bert=networks["bert"], device=source.device
    )


def _one_encoder(source: Source, networks: Mapping[str, nn.Module]) -> Prompts:
    return stable_diffusion_prompts(
        tokenizer=source.tokenizers["tokenizer"], text_encoder=networks["text_encoder"], device=source.device
    )


def _two_encoders(source: Source, networks: Mapping[str, nn.Module]) -> Prompts:
    return stable_diffusion_xl_prompts(
        **source.tokenizers,
        text_encoder=networks["text_encoder"],
        text_encoder_2=networks["text_encoder_2"],
        device=source.device,
    )


def _three_encoders(source: Source, networks: Mapping[str, nn.Module]) -> Prompts:
    return stable_diffusion_3_prompts(
        {**source.tokenizers, **networks},
        joint_attention_dim=source.layout.config("transformer", SD3Config).joint_attention_dim,
        device=source.device,
    )


_PROMPTS: Final[dict[str, Callable[[Source, Mapping[str, nn.Module]], Prompts]]] = {
    "LDMTextToImagePipeline": _bert,
    "StableDiffusionPipeline": _one_encoder,
    "StableDiffusionXLPipeline": _two_encoders,
    "StableDiffusion3Pipeline": _three_encoders,
}
