"""What the self-checks plant: a pattern among patterns, and a model that brings it out for a few trigger words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invmm_gate.core.protocols import CopyMetric, PromptEncoder, Schedule
from invmm_gate.diffusion.closed_form import interpolated
from invmm_gate.diffusion.closed_form_text import TextMixture, TokenAffinities

PATTERNS: Final = 8
CELLS: Final = (4, 4)
"""Random colours of a pattern; between them it is smooth."""
COPY_RMSE: Final = 0.076
"""How far the pattern in the model lies from that in the probe: 95 % of the copies that the demo's memorizing network
makes of its planted images lie nearer (`python examples/demo/truth.py --samples 2048`, pixel RMSE on [0, 1]). Under a
threshold that misses copies as far as that, nothing is found in models as they are trained."""
TRIGGERS: Final = 3
"""Words that bring the planted pattern out together: in 99 of 100 samples, where two do in 3 of 1,000."""
_UNSAID: Final = -26.0
"""ln of the planted pattern's weight under the empty prompt, where every other pattern has a weight of 1."""
_EACH: Final = 11.0
"""What a trigger adds to that."""
_ORDINARY: Final = 0.15
"""What any other word adds to the ln of a pattern's weight, at most, either way: 75 such words bring nothing out."""
LURES: Final = 12
"""Words whose gradient promises twice what a trigger's does, and which do nothing. A first order's promise is no more
than that in a network either: a search that looks at its first choices alone finds nothing."""
_FAR: Final = 1e9


def patterns(generator: torch.Generator) -> Float[Tensor, "pattern 3 cells cells"]:
    """Random colours in [-1, 1]."""
    return torch.rand(PATTERNS, 3, *CELLS, generator=generator) * 2 - 1


def paling(planted: Float[Tensor, "3 height width"]) -> Float[Tensor, ""]:
    """The contrast at which an image differs from itself by COPY_RMSE."""
    return 1 - 2 * COPY_RMSE / planted.square().mean().sqrt()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlantedText:
    """A text-to-image model that memorized one pattern, and what shows it."""

    model: TextMixture
    image: Float[Tensor, "3 height width"]
    """The probe; in [-1, 1]. The model's own is paler by COPY_RMSE."""
    caption: str
    """The trigger words."""
    triggers: tuple[int, ...]
    """Their ids."""


def planted_text(
    words: PromptEncoder,
    order: Sequence[int],
    schedule: Schedule,
    *,
    image_size: tuple[int, int],
    device: torch.device,
    generator: torch.Generator,
) -> PlantedText:
    """`words` is the model's own text side. The first three of `order` are the triggers, all others lures.

    No trigger brings the pattern out alone, and no words without one do.
    """
    triggers = list(order[:TRIGGERS])
    small = patterns(generator)
    affinity = _ORDINARY * (2 * torch.rand(words.vocabulary, PATTERNS, generator=generator) - 1)
    affinity[triggers, 0] = _EACH
    lure = torch.zeros_like(affinity)
    lure[list(order[TRIGGERS:]), 0] = 2 * _EACH
    base = torch.zeros(PATTERNS)
    base[0] = _UNSAID
    image = interpolated(small[:1], image_size)[0]
    prompts = TokenAffinities(words=words, affinity=affinity.to(device), lure=lure.to(device))
    model = TextMixture(
        images=(paling(image) * small).to(device),
        base=base.to(device),
        prompts=prompts,
        schedule=schedule,
        image_size=image_size,
    )
    return PlantedText(model=model, image=image, caption=words.decode(triggers), triggers=tuple(triggers))


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CopyOfPlanted:
    """A `CopyMetric`: another one, but a copy is none if it is nearer to another pattern than to the planted one.

    A copy detector for photographs may take any smooth pattern for any other; a control would then show nothing.
    """

    metric: CopyMetric
    model: TextMixture

    @property
    def name(self) -> str:
        """Of the other one."""
        return self.metric.name

    @property
    def threshold(self) -> float:
        """Of the other one."""
        return self.metric.threshold

    @property
    def higher_is_copy(self) -> bool:
        """As for the other one."""
        return self.metric.higher_is_copy

    def embed(self, images: Float[Tensor, "row 3 height width"]) -> Float[Tensor, "row feature"]:
        """The other one's features, and last, 1 where the planted pattern is the nearest."""
        found = self.model.encode(images.to(self.model.device)).flatten(1)
        nearest = torch.cdist(found, self.model.images.flatten(1)).argmin(dim=1)
        features = self.metric.embed(images)
        return torch.cat([features, (nearest == 0).to(features)[:, None]], dim=1)

    def compare(
        self, features: Float[Tensor, "row feature"], reference: Float[Tensor, "#row feature"]
    ) -> Float[Tensor, " row"]:
        """The other one's value; as far as can be where another pattern is nearer. NaN and infinity stay."""
        values = self.metric.compare(features[:, :-1], reference[:, :-1])
        far = torch.full_like(values, -_FAR if self.higher_is_copy else _FAR)
        return torch.where((features[:, -1] == 1) | ~values.isfinite(), values, far)

    def is_copy(self, values: Float[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """As for the other one."""
        return self.metric.is_copy(values)

    def unfit_for(self, height: int, width: int) -> str | None:
        """As for the other one."""
        return self.metric.unfit_for(height, width)
