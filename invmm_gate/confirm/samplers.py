"""The measure's own sampler as a way to draw images, beside the one that the checkpoint is released with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.confirm.counting import prompts_of, refuse_non_finite
from invmm_gate.core.protocols import DiffusionModel
from invmm_gate.diffusion.conditions import repeat_rows
from invmm_gate.diffusion.sampling import sample


@final
@dataclass(frozen=True, slots=True, eq=False)
class MeasureSampler:
    """Deterministic sampling on the grid of the measure, as the sensitivity test samples."""

    model: DiffusionModel

    @property
    def name(self) -> str:
        """The name of the sampler, in words."""
        return "deterministic sampling on the measure's grid"

    def forwards(self, *, steps: int, guidance_scale: float = 1.0) -> int:
        """Network forwards that one image takes."""
        return steps * self.model.forwards(guidance_scale)

    def images(
        self,
        streams: Sequence[torch.Generator],
        *,
        steps: int,
        prompt: str | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row 3 image_height image_width"]:
        """One image in [-1, 1] for each random stream. Raises MeasurementError for NaN or infinity."""
        noise = torch.stack([torch.randn(*self.model.latent_shape, generator=each) for each in streams])
        noise = noise.to(self.model.device)
        condition = None
        if prompt is not None:
            condition = repeat_rows(prompts_of(self.model).encode([prompt]), len(streams))
        x_0 = sample(self.model, noise, steps=steps, condition=condition, guidance_scale=guidance_scale)
        refuse_non_finite(x_0, self.name, do="check the checkpoint's weights")
        return self.model.decode(x_0)
