"""Networks that are told a class by its number: DiT, and a `UNet2DModel` with class embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import Condition, NoiseLevel, Schedule
from invmm_gate.core.settings import Family
from invmm_gate.diffusion.prediction import guided, rows_of, x_0_from
from invmm_gate.models.adapters.label_loop import DIT, classes_of_network
from invmm_gate.models.adapters.released_pipeline import Released
from invmm_gate.models.adapters.unconditional import LatentModel, PixelModel

NO_CLASS_OF_PIPELINE: Final = 1000
"""What DiTPipeline tells the network in place of a class when it guides, however many classes the network has."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """A `LabelEncoder`: the condition is `label`, (row,), whole numbers."""

    classes: int
    null: int | None
    unconditional: int | None
    device: torch.device

    @property
    def inputs(self) -> range:
        """All labels that a user can give: the classes, and after them the null class where there is one."""
        return range(self.classes if self.null is None else self.null + 1)

    @property
    def guided(self) -> bool:
        """Whether estimates can be led away from those of no class."""
        return self.unconditional is not None

    def encode(self, prompts: Sequence[str]) -> Condition:
        """One row a label, given as its number in digits. Raises ModelError for any other text, and for no class."""
        labels = [self._label(prompt) for prompt in prompts]
        return Condition(tensors={"label": torch.tensor(labels, dtype=torch.int64, device=self.device)})

    def _label(self, prompt: str) -> int:
        if not (prompt.isascii() and prompt.isdecimal() and int(prompt) in self.inputs):
            raise ModelError(
                f"the label {prompt!r} is no class of the model", expected=f"0 to {self.inputs[-1]}, in digits"
            )
        return int(prompt)


def labels_of_network(network: nn.Module, device: torch.device) -> Labels:
    """What a network of diffusers can be told. DiT has one embedding beyond its classes, for no class."""
    classes = classes_of_network(network)
    if type(network).__name__ != DIT:
        return Labels(classes=classes, null=None, unconditional=None, device=device)
    # The pipeline's own number: for a network of fewer classes it is no embedding, and the pipeline cannot guide.
    away_from = NO_CLASS_OF_PIPELINE if classes >= NO_CLASS_OF_PIPELINE else None
    return Labels(classes=classes, null=classes, unconditional=away_from, device=device)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassConditionalModel(Released):
    """A denoiser under a class label."""

    network: nn.Module
    prompts: Labels
    space: PixelModel | LatentModel
    """What x_0 of an image is, and the noise schedule: the model without its classes."""
    pipeline: Any = None
    """What draws with these very modules; None where nobody draws with it."""

    @property
    def family(self) -> Family:
        """The family, which names the settings of a profile."""
        return "class_pixel" if isinstance(self.space, PixelModel) else "class_latent"

    @property
    def schedule(self) -> Schedule:
        """The noise that the network was trained with."""
        return self.space.schedule

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channel, height, width) of x_0."""
        return self.space.latent_shape

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that the model makes."""
        return self.space.image_size

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.space.device

    @property
    def guidance_distilled(self) -> bool:
        """No network of this kind is told a guidance scale."""
        return False

    def forwards(self, guidance_scale: float) -> int:
        """Network forwards a row: two where both branches of guidance are needed.

        Raises ModelError for guidance of a network that has nothing to be led away from.
        """
        if guidance_scale == 1.0:
            return 1
        if not self.prompts.guided:
            raise ModelError(
                f"guidance_scale {guidance_scale:g} for a network that nobody can guide",
                expected=f"guidance_scale 1, or a DiT of at least {NO_CLASS_OF_PIPELINE} classes: DiTPipeline leads "
                f"away from label {NO_CLASS_OF_PIPELINE}",
                do="set guidance_scales to [1.0]",
            )
        return 1 if guidance_scale == 0.0 else 2

    def encode(
        self, images: Float[Tensor, "row 3 image_height image_width"], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "row channel height width"]:
        """x_0 of images in [-1, 1]; with a generator, a draw from the autoencoder's posterior where it has one."""
        return self.space.encode(images, generator=generator)

    def decode(self, x_0: Float[Tensor, "row channel height width"]) -> Float[Tensor, "row 3 image_height image_width"]:
        """Images in [-1, 1], clamped."""
        return self.space.decode(x_0)

    def predict(
        self,
        x_t: Float[Tensor, "row channel height width"],
        time: Tensor,
        *,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row predicted height width"]:
        """The network's guided prediction. DiT's is without the half of its channels in which it learned the variance,
        which DiTPipeline hands to no scheduler.

        Both branches of guidance are made in one call, the label's first, as DiTPipeline does it. Raises ModelError
        for a condition with other rows than x_t, and for none where the network has no null class.
        """
        labels = self._labels(condition, x_t.shape[0])
        if self.forwards(guidance_scale) == 1:
            chosen = labels if guidance_scale == 1.0 else self._unconditional(labels)
            return self._output(x_t, time, chosen)
        output = self._output(
            torch.cat([x_t, x_t]), torch.cat([time, time]), torch.cat([labels, self._unconditional(labels)])
        )
        conditional, unconditional = output.chunk(2)
        return guided(unconditional, conditional, guidance_scale)

    def estimate_x_0(
        self,
        x_t: Float[Tensor, "row channel height width"],
        level: NoiseLevel,
        *,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row channel height width"]:
        """x_0_hat, differentiable in x_t. Without a condition that of the null class. Raises what `predict` raises."""
        output = self.predict(x_t, level.time, condition=condition, guidance_scale=guidance_scale)
        return x_0_from(self.space.prediction_type, output[:, : x_t.shape[1]], x_t, level)

    def _labels(self, condition: Condition | None, rows: int) -> Int[Tensor, " row"]:
        if condition is None:
            if self.prompts.null is None:
                raise ModelError("a class-conditional network was given no label", expected="a label for each row")
            return torch.full((rows,), self.prompts.null, device=self.device)
        found = rows_of(condition)
        if found not in (1, rows):
            raise ModelError(f"labels of {found} rows for {rows} rows of x_t", expected="as many of both")
        return condition.tensors["label"].expand(rows)

    def _unconditional(self, labels: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        return torch.full_like(labels, self.prompts.unconditional or 0)

    def _output(self, x_t: Tensor, time: Tensor, labels: Int[Tensor, " row"]) -> Tensor:
        output: Tensor = self.network(x_t, time, class_labels=labels, return_dict=False)[0]
        return (output[:, : x_t.shape[1]] if type(self.network).__name__ == DIT else output).float()
