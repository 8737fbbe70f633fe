"""What samples are drawn with: the measure's own grid, or what the checkpoint was released with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.protocols import Condition, DiffusionModel, LabelEncoder, NoiseSampler, PromptEncoder, text_side
from invmm_gate.diffusion.finite import refuse_non_finite
from invmm_gate.diffusion.prediction import Rows, repeat_rows
from invmm_gate.diffusion.sampling import sample


def prompts_of(model: DiffusionModel) -> PromptEncoder:
    """The text side of a model. Raises ConfigError where it has none."""
    prompts = text_side(model)
    if prompts is None:
        raise ConfigError(
            f"a model of family {model.family} takes no prompt",
            expected="a text-to-image model",
            do="confirm by plain sampling",
        )
    return prompts


def words_of(model: DiffusionModel) -> PromptEncoder | LabelEncoder:
    """What a user gives the model: prompts or class labels. Raises ConfigError where it is given neither."""
    return prompts_of(model) if model.prompts is None else model.prompts


@final
@dataclass(frozen=True, slots=True, eq=False)
class GridSampler:
    """Deterministic sampling on the measure's own grid."""

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
        condition = None
        if prompt is not None:
            condition = repeat_rows(words_of(self.model).encode([prompt]), len(streams))
        x_0 = self.x_0(
            noise.to(self.model.device), streams, steps=steps, condition=condition, guidance_scale=guidance_scale
        )
        refuse_non_finite(x_0, self.name, do="check the checkpoint's weights")
        return self.model.decode(x_0)

    def x_0(
        self,
        noise: Rows,
        streams: Sequence[torch.Generator],
        *,
        steps: int,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
    ) -> Rows:
        """x_0 reached from x_T = `noise`, with no randomness of its own."""
        del streams
        return sample(self.model, noise, steps=steps, condition=condition, guidance_scale=guidance_scale)


def sampler_of(model: DiffusionModel, choice: Literal["grid", "released"]) -> NoiseSampler:
    """What the settings of the measure ask to sample with. Raises ConfigError for a model that nobody released."""
    if choice == "grid":
        return GridSampler(model)
    if model.released is None:
        raise ConfigError("sampler is released for a model that is no checkpoint", do="set sampler to grid")
    return model.released


def seeds_from(generator: torch.Generator, count: int) -> Int[Tensor, " draw"]:
    """One seed a draw, of what a sampler draws by itself."""
    return torch.randint(2**62, (count,), generator=generator)


def streams_of(seeds: Int[Tensor, " draw"]) -> list[torch.Generator]:
    """A random stream for each seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
