"""Networks that a prompt conditions; how each class of them is called stands in network_calls.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import Condition, NoiseLevel, Schedule
from invmm_gate.core.settings import Family
from invmm_gate.diffusion.prediction import Rows, rows_of, x_0_from
from invmm_gate.models.adapters.latent_statistics import LatentStatistics, decoded, encoded
from invmm_gate.models.adapters.network_calls import Given, Guidance, NetworkCall, call_of
from invmm_gate.models.adapters.prompt_encoders import Prompts
from invmm_gate.models.adapters.released_pipeline import Released
from invmm_gate.models.adapters.unconditional import refuse_other_size


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextToImageModel(Released):
    """A denoiser of latents under a prompt: x_0 is the autoencoder's latent, standardised.

    All modules are frozen and in eval mode. The unconditional condition is encoded once, here.
    """

    network: Any
    """A network of diffusers, of one of the classes of `CALLS`."""
    autoencoder: Any
    """Diffusers' `AutoencoderKL`, `AutoencoderKLFlux2`, `AutoencoderKLQwenImage` or `AutoencoderDC`."""
    prompts: Prompts
    family: Family
    statistics: LatentStatistics
    schedule: Schedule
    prediction_type: str
    latent_shape: tuple[int, int, int]
    image_size: tuple[int, int]
    device: torch.device
    pipeline: Any = None
    """Diffusers' pipeline around these very modules; None where nobody draws with it."""
    pipeline_guides: bool = True
    """Whether its pipeline guides at all: FLUX.2-klein says so of each checkpoint (`is_distilled`)."""
    zero_unconditional: bool = False
    """The unconditional condition is zero, not the empty prompt (`force_zeros_for_empty_prompt` of SD XL)."""
    empty: Condition = field(init=False, repr=False)
    """The empty prompt; one row."""
    unconditional: Condition = field(init=False, repr=False)
    """What guidance leads away from; one row."""

    def __post_init__(self) -> None:
        """Encode what every row shares."""
        empty, negative = self.prompts.encode([""]), self._call.negative_prompt
        if self._call.bare_negative:
            without = self.prompts.bare([negative])
        else:
            without = self.prompts.encode([negative]) if negative else empty
        zero = Condition(tensors={name: torch.zeros_like(tensor) for name, tensor in empty.tensors.items()})
        object.__setattr__(self, "empty", empty)
        object.__setattr__(self, "unconditional", zero if self.zero_unconditional else without)

    @property
    def _call(self) -> NetworkCall:
        return call_of(self.network)

    @property
    def guidance(self) -> Guidance:
        """What the network knows of guidance, and its pipeline asks of it."""
        return self._call.guidance(self.network.config) if self.pipeline_guides else "none"

    @property
    def guidance_distilled(self) -> bool:
        """Whether the guidance scale is an input of the network, which then has no unconditional branch."""
        return self.guidance == "embedded"

    def forwards(self, guidance_scale: float) -> int:
        """Network forwards a row: two where both branches are needed.

        Raises ModelError for a scale below 1 where the network knows guided estimates alone.
        """
        if self.guidance == "embedded" and guidance_scale < 1:
            raise _no_unconditional_branch(guidance_scale)
        return 2 if self.guidance == "classifier_free" and guidance_scale not in (0.0, 1.0) else 1

    def encode(
        self,
        images: Float[Tensor, "row 3 image_height image_width"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "row channel height width"]:
        """x_0 of images in [-1, 1]: the posterior's mode; with a generator, a draw from it (the authors' SD 3)."""
        refuse_other_size(images, self.image_size)
        return self.statistics.standardised(encoded(self.autoencoder, images.to(self.device), generator))

    def decode(self, x_0: Float[Tensor, "row channel height width"]) -> Float[Tensor, "row 3 image_height image_width"]:
        """Images in [-1, 1], clamped."""
        return decoded(self.autoencoder, self.statistics.raw(x_0.float())).clamp(-1, 1)

    def estimate_x_0(
        self,
        x_t: Float[Tensor, "row channel height width"],
        level: NoiseLevel,
        *,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row channel height width"]:
        """x_0_hat, differentiable in x_t and condition. Raises ModelError as `predict` does."""
        output = self.predict(x_t, level.time, condition=condition, guidance_scale=guidance_scale)
        return x_0_from(self.prediction_type, output, x_t, level)

    def predict(
        self, x_t: Rows, time: Tensor, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Rows:
        """The network's own prediction, guided; both branches of guidance in one call of the network.

        Guidance is taken on the network's output, which is linear in x_0_hat. A network without guidance ignores the
        scale, as its pipeline does. Raises ModelError for a condition with other rows than x_t, and for a scale below 1
        where the network knows guided estimates alone.
        """
        given = _rows(self.empty if condition is None else condition, x_t.shape[0])
        branches = self.forwards(guidance_scale)
        if branches == 2:
            return self._guided(x_t, time, given, guidance_scale)
        if self.guidance == "classifier_free" and guidance_scale == 0.0:
            return self._predict(x_t, time, _rows(self.unconditional, x_t.shape[0]))
        return self._predict(x_t, time, given, guidance_scale=guidance_scale)

    def _guided(self, x_t: Tensor, time: Tensor, given: Mapping[str, Tensor], guidance_scale: float) -> Tensor:
        without = _rows(self.unconditional, x_t.shape[0])
        both = {name: torch.cat([without[name], tensor]) for name, tensor in given.items()}
        output = self._predict(torch.cat([x_t, x_t]), torch.cat([time, time]), both)
        unconditional, conditional = output.float().chunk(2)
        return self._call.guided(unconditional, conditional, guidance_scale)

    def _predict(
        self, x_t: Tensor, time: Tensor, given: Mapping[str, Tensor], *, guidance_scale: float = 1.0
    ) -> Tensor:
        """The network's own prediction, in its dtype."""
        dtype = self.network.dtype
        return self._call.predict(
            self.network,
            Given(
                x_t=x_t.to(dtype),
                time=time,
                condition={name: tensor.to(dtype) for name, tensor in given.items()},
                guidance_scale=guidance_scale,
                image_size=self.image_size,
            ),
        )


def _no_unconditional_branch(guidance_scale: float) -> ModelError:
    return ModelError(
        f"guidance_scale {guidance_scale:g} for a guidance-distilled network, without an unconditional branch",
        expected="guidance scales of 1 or more",
        do="leave the others out of guidance_scales",
    )


def _rows(condition: Condition, rows: int) -> dict[str, Tensor]:
    """The condition's tensors for `rows` rows; one row is shared by all."""
    found = rows_of(condition)
    if found not in (1, rows):
        raise ModelError(f"a condition of {found} rows for {rows} rows of x_t", expected="as many of both")
    return {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in condition.tensors.items()}
