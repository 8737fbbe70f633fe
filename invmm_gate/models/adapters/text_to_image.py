"""Networks that a prompt conditions: Stable Diffusion 1, 2, XL and 3, and text-conditioned LDM."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import Condition, NoiseLevel, PromptEncoder, Schedule
from invmm_gate.diffusion.prediction import guided, rows_of, x_0_from
from invmm_gate.models.adapters.released_pipeline import Released
from invmm_gate.models.adapters.unconditional import refuse_other_size


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextToImageModel(Released):
    """A denoiser of latents under a prompt: x_0 = (encoder output - shift_factor) * scaling_factor.

    All modules are frozen and in eval mode. The unconditional condition is encoded once, here.
    """

    network: Any
    """Diffusers' `UNet2DConditionModel`; for the family `stable_diffusion_3` its `SD3Transformer2DModel`."""
    autoencoder: Any
    """Diffusers' `AutoencoderKL`."""
    prompts: PromptEncoder
    family: Literal["stable_diffusion", "stable_diffusion_3"]
    scaling_factor: float
    shift_factor: float = 0.0
    schedule: Schedule
    prediction_type: str
    latent_shape: tuple[int, int, int]
    image_size: tuple[int, int]
    device: torch.device
    pipeline: Any = None
    """Diffusers' pipeline around these very modules; None where nobody draws with it."""
    zero_unconditional: bool = False
    """The unconditional condition is zero, not the empty prompt (`force_zeros_for_empty_prompt` of SD XL)."""
    empty: Condition = field(init=False, repr=False)
    """The empty prompt; one row."""
    unconditional: Condition = field(init=False, repr=False)
    """What guidance leads away from; one row."""

    def __post_init__(self) -> None:
        """Encode what every row shares."""
        empty = self.prompts.encode([""])
        zero = Condition(tensors={name: torch.zeros_like(tensor) for name, tensor in empty.tensors.items()})
        object.__setattr__(self, "empty", empty)
        object.__setattr__(self, "unconditional", zero if self.zero_unconditional else empty)

    @property
    def guidance_distilled(self) -> bool:
        """Whether the guidance scale is an input of the network, which then has no unconditional branch."""
        return getattr(self.network.config, "time_cond_proj_dim", None) is not None

    def forwards(self, guidance_scale: float) -> int:
        """Network forwards a row: two where both branches are needed.

        Raises ModelError for a scale below 1 where the network knows guided estimates alone.
        """
        if self.guidance_distilled and guidance_scale < 1:
            raise _no_unconditional_branch(guidance_scale)
        return 1 if self.guidance_distilled or guidance_scale in (0.0, 1.0) else 2

    def encode(
        self,
        images: Float[Tensor, "row 3 image_height image_width"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "row channel height width"]:
        """x_0 of images in [-1, 1]: the posterior's mode; with a generator, a draw from it (the authors' SD 3)."""
        refuse_other_size(images, self.image_size)
        posterior = self.autoencoder.encode(images.to(self.device, self.autoencoder.dtype), return_dict=False)[0]
        encoded = posterior.mode() if generator is None else posterior.sample(generator)
        latent: Tensor = (encoded.float() - self.shift_factor) * self.scaling_factor
        return latent

    def decode(self, x_0: Float[Tensor, "row channel height width"]) -> Float[Tensor, "row 3 image_height image_width"]:
        """Images in [-1, 1], clamped."""
        latent = x_0.float() / self.scaling_factor + self.shift_factor
        images: Tensor = self.autoencoder.decode(latent.to(self.autoencoder.dtype), return_dict=False)[0]
        return images.float().clamp(-1, 1)

    def estimate_x_0(
        self,
        x_t: Float[Tensor, "row channel height width"],
        level: NoiseLevel,
        *,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row channel height width"]:
        """x_0_hat, differentiable in x_t and condition; both branches of guidance in one call of the network.

        Guidance is taken on the network's output, which is linear in x_0_hat. Raises ModelError for a condition with
        other rows than x_t, and for a scale below 1 where the network knows guided estimates alone.
        """
        given = _rows(self.empty if condition is None else condition, x_t.shape[0])
        if self.guidance_distilled:
            output = self._predict(x_t, level.time, given, scale_embedding=self._scale_embedding(x_t, guidance_scale))
        elif guidance_scale == 1.0:
            output = self._predict(x_t, level.time, given)
        elif guidance_scale == 0.0:
            output = self._predict(x_t, level.time, _rows(self.unconditional, x_t.shape[0]))
        else:
            output = self._guided(x_t, level.time, given, guidance_scale)
        return x_0_from(self.prediction_type, output, x_t, level)

    def _guided(self, x_t: Tensor, time: Tensor, given: Mapping[str, Tensor], guidance_scale: float) -> Tensor:
        without = _rows(self.unconditional, x_t.shape[0])
        both = {name: torch.cat([without[name], tensor]) for name, tensor in given.items()}
        output = self._predict(torch.cat([x_t, x_t]), torch.cat([time, time]), both)
        unconditional, conditional = output.float().chunk(2)
        return guided(unconditional, conditional, guidance_scale)

    def _predict(
        self,
        x_t: Tensor,
        time: Tensor,
        given: Mapping[str, Tensor],
        *,
        scale_embedding: Tensor | None = None,
    ) -> Tensor:
        """The network's own prediction, in its dtype."""
        dtype = self.network.dtype
        x_t, context = x_t.to(dtype), given["context"].to(dtype)
        pooled = given["pooled"].to(dtype) if "pooled" in given else None
        arguments: dict[str, Any] = {"timestep": time, "encoder_hidden_states": context, "return_dict": False}
        if self.family == "stable_diffusion_3":
            arguments["pooled_projections"] = pooled
        else:
            arguments["timestep_cond"] = scale_embedding
            if pooled is not None:
                arguments["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": self._size_ids(pooled)}
        output: Tensor = self.network(x_t, **arguments)[0]
        return output

    def _size_ids(self, pooled: Tensor) -> Float[Tensor, "row 6"]:
        """Original size, crop corner and target size, for an image that was never cropped (SD XL)."""
        ids = torch.tensor([*self.image_size, 0, 0, *self.image_size], device=pooled.device, dtype=pooled.dtype)
        return ids.expand(pooled.shape[0], 6)

    def _scale_embedding(self, x_t: Tensor, guidance_scale: float) -> Tensor:
        size: int = self.network.config.time_cond_proj_dim
        if guidance_scale < 1:
            raise _no_unconditional_branch(guidance_scale)
        embedding = guidance_embedding(guidance_scale - 1, size)
        return embedding.to(x_t.device, self.network.dtype).expand(x_t.shape[0], size)


def _no_unconditional_branch(guidance_scale: float) -> ModelError:
    return ModelError(
        f"guidance_scale {guidance_scale:g} for a guidance-distilled network, without an unconditional branch",
        expected="guidance scales of 1 or more",
        do="leave the others out of guidance_scales",
    )


def guidance_embedding(weight: float, size: int) -> Float[Tensor, "1 size"]:
    """Sines, then cosines, of 1000 * weight at falling frequencies: how a distilled network is told the guidance.

    `weight` is guidance_scale - 1. Source: arXiv:2210.03142; frequencies as in diffusers' StableDiffusionPipeline.
    """
    half = size // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10_000.0) / (half - 1)))
    angles = 1000.0 * weight * frequencies[None]
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    return nn.functional.pad(waves, (0, size % 2))


def _rows(condition: Condition, rows: int) -> dict[str, Tensor]:
    """The condition's tensors for `rows` rows; one row is shared by all."""
    found = rows_of(condition)
    if found not in (1, rows):
        raise ModelError(f"a condition of {found} rows for {rows} rows of x_t", expected="as many of both")
    return {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in condition.tensors.items()}
