"""A text-to-image model in closed form: the exact denoiser of a mixture whose weights depend on a prompt's words."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invmm_gate.core.protocols import Condition, NoiseLevel, Schedule
from invmm_gate.core.settings import SoftEncoders
from invmm_gate.diffusion.prediction import guided, per_row

WORDS = tuple("abcdefghijkl")
START, END = 12, 13


class BagOfWords:
    """A prompt is the sum of its words; the condition is that sum, (row, word)."""

    positions, vocabulary, end_id = 4, 14, END
    special_ids = frozenset({START, END})

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        return tuple(WORDS.index(word) for word in prompt.split())

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join((*WORDS, "<start>", "<end>")[token] for token in ids)

    def encode(self, prompts: Sequence[str]) -> Condition:
        bags = torch.zeros(len(prompts), self.vocabulary)
        for row, prompt in enumerate(prompts):
            for token in self.tokenize(prompt)[: self.positions]:
                bags[row, token] += 1
        return Condition(tensors={"bag": bags})

    def mix(self, weights: Tensor, choices: Tensor, *, rest: Condition, encoders: SoftEncoders = "first") -> Condition:
        bag = torch.zeros(weights.shape[0], self.vocabulary).index_add(1, choices, weights.sum(dim=1))
        return Condition(tensors={"bag": bag})

    def read_by_all(self) -> None: ...


class WordMixture:
    """Knows `images`; image k has the log weight base[k] + sum over the prompt's words of affinity[word, k]."""

    family = "stable_diffusion"

    def __init__(self, images: Tensor, schedule: Schedule, *, base: Tensor, affinity: Tensor) -> None:
        self.images, self.schedule, self.base, self.affinity = images, schedule, base, affinity
        self.prompts, self.device = BagOfWords(), images.device
        self.latent_shape, self.image_size = tuple(images.shape[1:]), tuple(images.shape[2:])
        self.forward_rows = 0

    guidance_distilled = False
    released = None

    def limited(self, x_0_hat: Tensor) -> Tensor:
        return x_0_hat

    def forwards(self, guidance_scale: float) -> int:
        return 1 if guidance_scale in (0.0, 1.0) else 2

    def encode(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return images

    def decode(self, x_0: Tensor) -> Tensor:
        return x_0.clamp(-1, 1)

    def posterior_mean(self, x_t: Tensor, level: NoiseLevel, bag: Tensor) -> Tensor:
        self.forward_rows += len(x_t)
        known = self.images.flatten(1)
        alpha, sigma = per_row(level.alpha).flatten(1), per_row(level.sigma).flatten(1)
        distances = (x_t.flatten(1)[:, None] - alpha[:, None] * known[None]).square().sum(dim=2)
        log_weights = (self.base + bag @ self.affinity).log_softmax(dim=1)
        posterior = (log_weights - distances / (2 * sigma.square())).softmax(dim=1)
        return torch.einsum("rk,kd->rd", posterior, known).view_as(x_t)

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        empty = torch.zeros(len(x_t), BagOfWords.vocabulary)
        bag = empty if condition is None else condition.tensors["bag"]
        assert len(bag) == len(x_t)
        if guidance_scale == 1:
            return self.posterior_mean(x_t, level, bag)
        unconditional = self.posterior_mean(x_t, level, empty)
        if guidance_scale == 0:
            return unconditional
        return guided(unconditional, self.posterior_mean(x_t, level, bag), guidance_scale)


def word_mixture(images: Tensor, schedule: Schedule) -> WordMixture:
    """Image 0 is triggered by its caption `a`; image 1 by `b c d e` together, by none of them alone; others evenly."""
    base, affinity = torch.zeros(len(images)), torch.zeros(BagOfWords.vocabulary, len(images))
    base[:2] = -40.0
    affinity[0, 0] = 55.0
    affinity[1:5, 1] = 12.0
    return WordMixture(images, schedule, base=base, affinity=affinity)


def chance(model: WordMixture, prompt: str, image: int) -> float:
    """The probability that the prompt brings out the image."""
    bag = model.prompts.encode([prompt]).tensors["bag"]
    return math.exp(float((model.base + bag @ model.affinity).log_softmax(dim=1)[0, image]))
