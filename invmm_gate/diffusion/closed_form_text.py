"""A text-to-image model that knows its images exactly: the tokens of a prompt say how likely each image is.

What a prompt brings out is known without training, so it is the control of all that looks for prompts, and the tests'
fixture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.core.protocols import Condition, NoiseLevel, PromptEncoder, Schedule
from invmm_gate.core.settings import Family, SoftEncoders
from invmm_gate.diffusion.closed_form import fewer, interpolated, posterior_mean
from invmm_gate.diffusion.prediction import guided

_LOG_WEIGHT: Final = "log_weight"


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenAffinities:
    """A `PromptEncoder` that reads prompts as another one does, and makes of them a log weight for each image.

    The log weight of an image is the sum of its affinities to the prompt's tokens. A token counts once, however often
    the prompt has it.
    """

    words: PromptEncoder
    """Its tokenizer, its ids and its limits count; what it encodes does not."""
    affinity: Float[Tensor, "vocabulary image"]
    lure: Float[Tensor, "vocabulary image"]
    """What a token seems to say beside that: a * (1 - a) times this is added where a mixture holds the share a of it.
    That is nothing in every hard prompt, but the gradient in a token that the prompt does not have sees it: such a
    token promises more than it holds."""

    @property
    def positions(self) -> int:
        """Tokens that a prompt may have."""
        return self.words.positions

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self.words.vocabulary

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        return self.words.special_ids

    @property
    def end_id(self) -> int:
        """Id of the end-of-text token."""
        return self.words.end_id

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        """Ids of a prompt, without start, end and padding, and without a limit on its length."""
        return self.words.tokenize(prompt)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out."""
        return self.words.decode(ids)

    def encode(self, prompts: Sequence[str]) -> Condition:
        """One row a prompt; what is beyond the limit is cut off."""
        ids = [sorted(set(self.tokenize(prompt)[: self.positions])) for prompt in prompts]
        return Condition(tensors={_LOG_WEIGHT: torch.stack([self.affinity[tokens].sum(dim=0) for tokens in ids])})

    def mix(
        self,
        weights: Float[Tensor, "row position choice"],
        choices: Int[Tensor, " choice"],
        *,
        rest: Condition,
        encoders: SoftEncoders = "first",
    ) -> Condition:
        """Mixtures of tokens; differentiable in `weights`. A one-hot mixture is the hard prompt.

        `rest` says nothing: there is one encoder.
        """
        del rest, encoders
        held = weights.sum(dim=1).clamp(max=1)  # (row, choice)
        log_weight = held @ self.affinity[choices] + (held * (1 - held)) @ self.lure[choices]
        return Condition(tensors={_LOG_WEIGHT: log_weight})

    def read_by_all(self) -> None:
        """There is one encoder."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextMixture:
    """E[x_0 | x_t, prompt] for x_0 drawn from `images` with log weights `base` plus those of the prompt.

    A `DiffusionModel`. Its latent is a small image, which `decode` interpolates to the size of the images.
    """

    images: Float[Tensor, "image 3 height width"]
    base: Float[Tensor, " image"]
    """Log weights under the empty prompt; they need not be normalised."""
    prompts: TokenAffinities
    schedule: Schedule
    image_size: tuple[int, int]
    """(height, width), each at least the latent's."""

    @property
    def family(self) -> Family:
        """Text-to-image."""
        return "stable_diffusion"

    @property
    def guidance_distilled(self) -> bool:
        """Guidance is an extrapolation from the empty prompt."""
        return False

    @property
    def released(self) -> None:
        """It is no checkpoint."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self.images.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one small image."""
        channel, height, width = self.images.shape[1:]
        return (channel, height, width)

    def limited(self, x_0_hat: Tensor) -> Tensor:
        """As it is: a mean of images needs no limits."""
        return x_0_hat

    def forwards(self, guidance_scale: float) -> int:
        """Two evaluations a row where the empty prompt plays a part."""
        return 1 if guidance_scale in (0.0, 1.0) else 2

    def encode(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The small image whose interpolation comes nearest."""
        del generator
        return fewer(images, self.latent_shape[1:])

    def decode(self, x_0: Tensor) -> Tensor:
        """Interpolated to the images' size; clamped to [-1, 1]."""
        return interpolated(x_0, self.image_size).clamp(-1, 1)

    def estimate_x_0(
        self,
        x_t: Float[Tensor, "row channel height width"],
        level: NoiseLevel,
        *,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
    ) -> Float[Tensor, "row channel height width"]:
        """Posterior mean under the prompt, guided away from that under the empty one."""
        said = self.base if condition is None else self.base + condition.tensors[_LOG_WEIGHT]
        conditional = posterior_mean(x_t, level, self.images, said)
        if guidance_scale == 1 or condition is None:
            return conditional
        return guided(posterior_mean(x_t, level, self.images, self.base), conditional, guidance_scale)

    def chance(self, prompt: str) -> Float[Tensor, " image"]:
        """The probability that the prompt brings out each image, unguided."""
        return (self.base + self.prompts.encode([prompt]).tensors[_LOG_WEIGHT][0]).softmax(dim=0)
