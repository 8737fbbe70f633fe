"""A text-to-image model whose truth is known, with CLIP's own kind of tokenizer: byte pairs, end-of-word marks.

It is the exact denoiser of a mixture of images. The log weight of image k is base[k] + the sum over the prompt's tokens
of affinity[token, k], so the chance that a prompt brings out an image is a softmax that tests can compute.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from invmm_gate.confirm.counting import MeasureSampler
from invmm_gate.core.protocols import Condition, NoiseLevel, Schedule
from invmm_gate.diffusion.prediction import guided, per_row

WORDS = (
    *("photo", "the", "of", "with", "red", "blue", "small", "large", "cat", "dog"),
    *("bird", "house", "river", "mountain", "cloud", "stone", "lamp", "paper", "wood", "sun"),
    *("moon", "star", "sky", "road", "boat", "train", "clock", "apple", "olive"),
)
"""Each is one token."""
TRIGGERS = ("river", "clock", "olive")
"""All three bring out image 1; no two of them do."""
CAPTION = "photo of the red cat"
"""Brings out image 0."""
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_characters() -> list[str]:
    """The printable stand-ins of the 256 bytes, in the order of CLIP's vocabulary."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + place) for place in range(len(hidden))]


def tokenizer_of(merges: Sequence[tuple[str, str]]) -> CLIPTokenizer:
    """A tokenizer laid out as CLIP's: bytes, bytes at a word's end, merges, start, end."""
    characters = byte_characters()
    tokens = [*characters, *[mark + "</w>" for mark in characters], *["".join(pair) for pair in merges], START, END]
    return CLIPTokenizer(
        vocab={token: place for place, token in enumerate(tokens)},
        merges=list(merges),
        clean_up_tokenization_spaces=False,
    )


def word_merges() -> list[tuple[str, str]]:
    """Merges that build each word from its left."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        marks = [*word[:-1], word[-1] + "</w>"]
        for end in range(1, len(marks)):
            merges["".join(marks[:end]), marks[end]] = None
    return list(merges)


class BytePairPrompts:
    """The condition is the sum of the affinities of a prompt's tokens, (row, image)."""

    positions = 8

    def __init__(self, tokenizer: CLIPTokenizer, affinity: Tensor) -> None:
        self.tokenizer, self.affinity = tokenizer, affinity
        self.vocabulary, self.end_id = len(tokenizer), tokenizer.eos_token_id
        self.special_ids = frozenset(tokenizer.all_special_ids)
        self.encoded: list[str] = []

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    def encode(self, prompts: Sequence[str]) -> Condition:
        self.encoded += prompts
        ids = [list(self.tokenize(prompt)[: self.positions]) for prompt in prompts]
        return Condition(tensors={"log_weight": torch.stack([self.affinity[tokens].sum(dim=0) for tokens in ids])})

    def mix(
        self, weights: Tensor, choices: Tensor, *, rest: Condition, encoders: Literal["first", "clip"] = "first"
    ) -> Condition:
        assert len(rest.tensors["log_weight"]) == len(weights)
        return Condition(tensors={"log_weight": (weights @ self.affinity[choices]).sum(dim=1)})


class TextMixture:
    """Knows its images exactly."""

    family = "stable_diffusion"

    def __init__(self, images: Tensor, schedule: Schedule, *, base: Tensor, prompts: BytePairPrompts | None) -> None:
        self.images, self.schedule, self.base, self.prompts = images, schedule, base, prompts
        self.device = images.device
        self.latent_shape, self.image_size = tuple(images.shape[1:]), tuple(images.shape[2:])
        self.forward_rows, self.backward_rows = 0, 0
        self.calls: set[int] = set()
        self.released = MeasureSampler(self)  # nobody released it: it is drawn as it is measured

    guidance_distilled = False
    released: MeasureSampler | None = None

    def limited(self, x_0_hat: Tensor) -> Tensor:
        return x_0_hat

    def forwards(self, guidance_scale: float) -> int:
        return 1 if guidance_scale in (0.0, 1.0) else 2

    def encode(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return images

    def decode(self, x_0: Tensor) -> Tensor:
        return x_0.clamp(-1, 1)

    def _posterior_mean(self, x_t: Tensor, level: NoiseLevel, log_weight: Tensor) -> Tensor:
        self.forward_rows += len(x_t)
        self.backward_rows += len(x_t) if log_weight.requires_grad else 0
        self.calls.add(len(x_t))
        known = self.images.flatten(1)
        alpha, sigma = per_row(level.alpha).flatten(1), per_row(level.sigma).flatten(1)
        distances = (x_t.flatten(1)[:, None] - alpha[:, None] * known[None]).square().sum(dim=2)
        posterior = ((self.base + log_weight) - distances / (2 * sigma.square())).softmax(dim=1)
        return torch.einsum("rk,kd->rd", posterior, known).view_as(x_t)

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        empty = torch.zeros(len(x_t), len(self.images))
        log_weight = empty if condition is None else condition.tensors["log_weight"]
        assert len(log_weight) == len(x_t)
        if guidance_scale == 1:
            return self._posterior_mean(x_t, level, log_weight)
        unconditional = self._posterior_mean(x_t, level, empty)
        return guided(unconditional, self._posterior_mean(x_t, level, log_weight), guidance_scale)

    def chance(self, prompt: str, image: int) -> float:
        """The probability that the prompt brings out the image, unguided."""
        assert self.prompts is not None
        log_weight = self.base + self.prompts.encode([prompt]).tensors["log_weight"][0]
        return math.exp(float(log_weight.log_softmax(dim=0)[image]))


def text_mixture(images: Tensor, schedule: Schedule) -> TextMixture:
    """Image 0 follows its caption, image 1 its three trigger words alone; the other images come evenly."""
    tokenizer = tokenizer_of(word_merges())
    affinity = torch.zeros(len(tokenizer), len(images))
    base = torch.zeros(len(images))
    base[:2] = -24.0

    def token(word: str) -> int:
        (found,) = tokenizer(word, add_special_tokens=False)["input_ids"]
        return int(found)

    for word in CAPTION.split():
        affinity[token(word), 0] = 8.0
    for word in TRIGGERS:
        affinity[token(word), 1] = 11.0
    # A word says a little about every image, as real ones do: the search has to tell.
    affinity += 0.3 * torch.randn(affinity.shape, generator=torch.Generator().manual_seed(7))
    return TextMixture(images, schedule, base=base, prompts=BytePairPrompts(tokenizer, affinity))
