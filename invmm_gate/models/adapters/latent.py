"""Networks that work on an autoencoder's latent: LDM, with a VQ or a KL autoencoder."""

from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invmm_gate.core.protocols import Condition, NoiseLevel, Schedule
from invmm_gate.diffusion.prediction import x_0_from
from invmm_gate.diffusion.sampling import limited
from invmm_gate.models.adapters.pixel import predicted, refuse_guidance, refuse_other_size
from invmm_gate.models.adapters.released_pipeline import PipelineSampler, limits_of


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatentModel:
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

    @property
    def prompts(self) -> None:
        """An unconditional model has no text side."""
        return None

    @property
    def guidance_distilled(self) -> bool:
        """There is no guidance."""
        return False

    @property
    def released(self) -> PipelineSampler | None:
        """How a user of the checkpoint draws images; None without its pipeline."""
        if self.pipeline is None:
            return None
        return PipelineSampler(pipeline=self.pipeline, model=self, denoiser=self.network)

    def limited(self, x_0_hat: Float[Tensor, "row channel height width"]) -> Float[Tensor, "row channel height width"]:
        """x_0_hat within the bounds that the checkpoint's own scheduler keeps it in."""
        return limited(x_0_hat, limits_of(self.pipeline))

    def forwards(self, guidance_scale: float) -> int:
        """Network forwards a row: one, as there is no guidance."""
        del guidance_scale
        return 1

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

    def estimate_x_0(
        self,
        x_t: Float[Tensor, "row channel height width"],
        level: NoiseLevel,
        *,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row channel height width"]:
        """x_0_hat, differentiable in x_t. Raises ModelError for a condition or guidance: the model has neither."""
        refuse_guidance(condition, guidance_scale)
        output = predicted(self.network, x_t, level)
        return x_0_from(self.prediction_type, output, x_t, level)
