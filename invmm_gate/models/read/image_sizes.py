"""Sizes of images and latents: what a checkpoint makes, and what a policy may ask of it."""

from collections.abc import Sequence
from typing import Final

from invmm_gate.core.errors import ConfigError, ModelError
from invmm_gate.models.read.autoencoder_configs import (
    AutoencoderConfigs,
    DCConfig,
    Flux2AutoencoderConfig,
    KLConfig,
    QwenImageAutoencoderConfig,
    VQConfig,
)
from invmm_gate.models.read.checkpoint_layout import Layout, autoencoder_of, denoiser_of
from invmm_gate.models.read.config_fields import Size
from invmm_gate.models.read.network_configs import DenoiserConfig, UNetConfig
from invmm_gate.models.read.transformer_configs import AuraFlowConfig, OfAnySize, ZImageConfig

OwnSize = ZImageConfig | AuraFlowConfig
"""Networks whose pipelines draw at a size of their own when nobody names one."""


LUMINA: Final = "Lumina2Pipeline"
LDM: Final = "LDMPipeline"
LDM_WITH_PROMPTS: Final = "LDMTextToImagePipeline"
"""Its latent is an eighth of the image that it was asked for, whatever its autoencoder makes of that latent."""


def pair(size: Size | None) -> tuple[int, int]:
    """(height, width) of a stated size. Raises ModelError where none is."""
    if size is None:
        raise ModelError(
            "the network has no sample_size", expected="the side of its images", do="add it to config.json"
        )
    return (size, size) if isinstance(size, int) else size


def downscaling(autoencoder: AutoencoderConfigs) -> int:
    """Pixels of the image per pixel of the latent, along a side."""
    return 1 << len(levels(autoencoder)) - 1


def levels(autoencoder: AutoencoderConfigs) -> Sequence[int]:
    """A width for each resolution; each but the first halves a side."""
    if isinstance(autoencoder, QwenImageAutoencoderConfig):
        return autoencoder.dim_mult
    if isinstance(autoencoder, DCConfig):
        return autoencoder.encoder_block_out_channels
    return autoencoder.block_out_channels


def _divided_by_8(image: tuple[int, int], factor: int) -> tuple[int, int]:
    height, width = image
    if height % 8 or width % 8:
        raise ModelError(f"{LDM_WITH_PROMPTS} would be asked for {height}x{width}", expected="sides that 8 divides")
    return height // 8 * factor, width // 8 * factor


def image_size(layout: Layout) -> tuple[int, int]:
    """(height, width) of the images that the model makes. Raises ModelError where sizes contradict each other."""
    denoiser, autoencoder = denoiser_of(layout), autoencoder_of(layout)
    if layout.asked_size is not None:
        return layout.asked_size, layout.asked_size
    if isinstance(denoiser, OwnSize):
        return denoiser.image_size
    height, width = pair(denoiser.sample_size)
    if autoencoder is None:
        return height, width
    factor = downscaling(autoencoder)
    image = height * factor, width * factor
    if layout.pipeline == LDM_WITH_PROMPTS:
        return _divided_by_8(image, factor)
    # Pipelines with prompts take the size from the denoiser; their autoencoders often state that of other training.
    if (
        isinstance(denoiser, UNetConfig)
        and isinstance(autoencoder, VQConfig | KLConfig)
        and pair(autoencoder.sample_size) != image
    ):
        raise ModelError(
            f"the latent of {height}x{width} decodes to {image[0]}x{image[1]}, but the autoencoder's sample_size "
            f"is {autoencoder.sample_size}",
            expected=f"sample_size = latent size x {factor}",
            do="correct sample_size in unet/config.json or vqvae/config.json",
        )
    return image


def is_of_any_size(layout: Layout) -> bool:
    """Whether the checkpoint does not say for which size it was trained."""
    return isinstance(denoiser_of(layout), OfAnySize)


def check_asked_size(layout: Layout, side: int) -> None:
    """Raises ConfigError where the checkpoint states its size, and for a side of no whole patches or of too many."""
    denoiser, autoencoder = denoiser_of(layout), autoencoder_of(layout)
    if not is_of_any_size(layout) or autoencoder is None:
        height, width = image_size(layout)
        raise ConfigError(
            f"measure.settings.image_size is {side}, and the checkpoint states its own size, {height}x{width}",
            expected="none for such a checkpoint",
            do="leave it out of the policy",
        )
    patch = downscaling(autoencoder) * (denoiser.patch_size if isinstance(denoiser, AuraFlowConfig) else 2)
    if side % patch:
        raise ConfigError(
            f"measure.settings.image_size is {side}",
            expected=f"a multiple of {patch}, the pixels of one patch of {layout.pipeline}",
            do=f"take {max(1, round(side / patch)) * patch}",
        )
    most = _most_patches(denoiser)
    if most is not None and side // patch > most:
        raise ConfigError(
            f"measure.settings.image_size is {side}",
            expected=f"at most {most * patch}, as the transformer has no positions beyond",
            do=f"take {most * patch} or less",
        )


def _most_patches(denoiser: DenoiserConfig) -> int | None:
    """Patches along a side for which there are positions; None where these are computed for any number."""
    if isinstance(denoiser, ZImageConfig):
        return min(denoiser.axes_lens[1:])
    return denoiser.places if isinstance(denoiser, AuraFlowConfig) else None


def latent_shape(layout: Layout) -> tuple[int, int, int]:
    """(channel, height, width) of what a network with prompts denoises."""
    denoiser, autoencoder = denoiser_of(layout), autoencoder_of(layout)
    factor = 1 if autoencoder is None else downscaling(autoencoder)
    height, width = (side // factor for side in image_size(layout))
    if isinstance(autoencoder, Flux2AutoencoderConfig):
        return 4 * denoiser.latent_channels, height // 2, width // 2
    return denoiser.latent_channels, height, width


def tokens_of(layout: Layout) -> int:
    """Tokens of an image in transformers that take 2 x 2 latents for one, at the size that the model makes.

    Lumina2Pipeline takes the channels of a latent for them, where it shifts the noise with the size of the image.
    """
    if layout.pipeline == LUMINA:
        return denoiser_of(layout).latent_channels
    autoencoder = autoencoder_of(layout)
    factor = 2 * (1 if autoencoder is None else downscaling(autoencoder))
    height, width = image_size(layout)
    return (height // factor) * (width // factor)
