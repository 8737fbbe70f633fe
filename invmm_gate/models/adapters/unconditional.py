"""Networks without prompts: on pixels (DDPM), where x_0 is the image itself, or on a latent (LDM, VQ or KL)."""

from dataclasses import dataclass
from typing import Any, Final, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import Condition, NoiseLevel, Schedule
from invmm_gate.diffusion.prediction import Rows, x_0_from
from invmm_gate.models.adapters.released_pipeline import Released

LUMA: Final = (0.299, 0.587, 0.114)
"""Grey from RGB: ITU-R BT.601, as training code that converts images to grey has it."""


class _Unconditional(Released):
    """What both kinds have: no text side and no guidance."""

    __slots__ = ()
    network: nn.Module
    prediction_type: str

    @property
    def prompts(self) -> None:
        """An unconditional model has no text side."""
        return None

    @property
    def guidance_distilled(self) -> bool:
        """There is no guidance."""
        return False

    def forwards(self, guidance_scale: float) -> int:
        """Network forwards a row: one, as there is no guidance."""
        del guidance_scale
        return 1

    def estimate_x_0(
        self,
        x_t: Float[Tensor, "row channel height width"],
        level: NoiseLevel,
        *,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row channel height width"]:
        """x_0_hat, differentiable in x_t. Raises ModelError for a condition or guidance: the model has neither."""
        output = self.predict(x_t, level.time, condition=condition, guidance_scale=guidance_scale)
        return x_0_from(self.prediction_type, output[:, : x_t.shape[1]], x_t, level)

    def predict(
        self, x_t: Rows, time: Tensor, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Float[Tensor, "row predicted height width"]:
        """The network's own prediction; the second half of its channels is the variance, where it learned that."""
        refuse_guidance(condition, guidance_scale)
        output: Tensor = self.network(x_t, time, return_dict=False)[0]
        return output


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelModel(_Unconditional):
    """A denoiser of pixels in [-1, 1]; one channel (grey) or three (RGB)."""

    network: nn.Module
    schedule: Schedule
    prediction_type: str
    latent_shape: tuple[int, int, int]
    device: torch.device
    pipeline: Any = None
    """Diffusers' pipeline around these very modules; None where nobody draws with it."""

    @property
    def family(self) -> Literal["pixel"]:
        """The family, which names the settings of a profile."""
        return "pixel"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the model makes."""
        return self.latent_shape[1:]

    def encode(
        self, images: Float[Tensor, "row 3 image_height image_width"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "row channel height width"]:
        """The images themselves; for a grey model their luma, which leaves a grey image as it is."""
        del generator  # pixels have no posterior
        refuse_other_size(images, self.image_size)
        images = images.to(self.device, torch.float32)
        if self.latent_shape[0] == 3:
            return images
        weights = torch.tensor(LUMA, device=self.device).view(1, 3, 1, 1)
        return (images * weights).sum(dim=1, keepdim=True)

    def decode(self, x_0: Float[Tensor, "row channel height width"]) -> Float[Tensor, "row 3 image_height image_width"]:
        """Images in [-1, 1], clamped; grey is repeated for the three channels."""
        return x_0.float().clamp(-1, 1).expand(-1, 3, -1, -1)


def refuse_guidance(condition: Condition | None, guidance_scale: float) -> None:
    """An unconditional model must not seem to obey a condition or a guidance scale."""
    if condition is not None or guidance_scale != 1.0:
        found = "a condition" if condition is not None else f"guidance_scale {guidance_scale}"
        raise ModelError(
            f"the model is unconditional and was given {found}",
            expected="no condition and guidance_scale 1",
            do="set guidance_scales to [1.0]",
        )


def refuse_other_size(images: Float[Tensor, "row 3 image_height image_width"], image_size: tuple[int, int]) -> None:
    """Raises ModelError for images that the model could not have made."""
    height, width = images.shape[-2:]
    if (height, width) != image_size:
        raise ModelError(
            f"the images are {height}x{width}, the model makes {image_size[0]}x{image_size[1]}",
            expected="images resized to the model",
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatentModel(_Unconditional):
    """A denoiser of latents: x_0 = encoder output * scaling_factor."""

    network: nn.Module
    autoencoder: Any
    """Diffusers' `VQModel` or `AutoencoderKL`, frozen."""
    kind: Literal["vq", "kl"]
    """`vq`: the encoder's output before quantisation. `kl`: the posterior's mode. Both as the authors' code."""
    scaling_factor: float
    schedule: Schedule
    prediction_type: str
    latent_shape: tuple[int, int, int]
    image_size: tuple[int, int]
    device: torch.device
    pipeline: Any = None
    """Diffusers' pipeline around these very modules; None where nobody draws with it."""

    @property
    def family(self) -> Literal["latent"]:
        """The family, which names the settings of a profile."""
        return "latent"

    def encode(
        self,
        images: Float[Tensor, "row 3 image_height image_width"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "row channel height width"]:
        """x_0 of images in [-1, 1]; with a generator and a KL autoencoder, a draw from the posterior."""
        refuse_other_size(images, self.image_size)
        encoded = self.autoencoder.encode(images.to(self.device, torch.float32), return_dict=False)[0]
        if self.kind == "kl":
            encoded = encoded.mode() if generator is None else encoded.sample(generator)
        latent: Tensor = encoded * self.scaling_factor
        return latent

    def decode(self, x_0: Float[Tensor, "row channel height width"]) -> Float[Tensor, "row 3 image_height image_width"]:
        """Images in [-1, 1], clamped; a VQ autoencoder quantises the latent first."""
        latent = x_0.float() / self.scaling_factor
        images: Tensor = self.autoencoder.decode(latent, return_dict=False)[0]
        return images.clamp(-1, 1)
