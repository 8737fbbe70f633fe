"""A text-to-image model whose truth is known, with CLIP's own kind of tokenizer: byte pairs, end-of-word marks.

It is the closed-form model of the search's control, with images and words of the tests' own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from invmm_gate.core.protocols import Condition, NoiseLevel, Schedule
from invmm_gate.core.settings import SoftEncoders
from invmm_gate.diffusion import closed_form_text
from invmm_gate.diffusion.closed_form_text import TokenAffinities
from invmm_gate.diffusion.prediction import rows_of
from invmm_gate.diffusion.samplers import GridSampler

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
    """The condition is the sum of the affinities of a prompt's tokens, (row, image); every prompt is noted."""

    positions = 8

    def __init__(self, tokenizer: CLIPTokenizer, affinity: Tensor) -> None:
        self.tokenizer, self.affinity = tokenizer, affinity
        self.vocabulary, self.end_id = len(tokenizer), tokenizer.eos_token_id
        self.special_ids = frozenset(tokenizer.all_special_ids)
        self.encoded: list[str] = []

    @property
    def known(self) -> TokenAffinities:
        return TokenAffinities(words=self, affinity=self.affinity, lure=torch.zeros_like(self.affinity))

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    def encode(self, prompts: Sequence[str]) -> Condition:
        self.encoded += prompts
        return self.known.encode(prompts)

    def mix(self, weights: Tensor, choices: Tensor, *, rest: Condition, encoders: SoftEncoders = "first") -> Condition:
        assert rows_of(rest) == len(weights)
        return self.known.mix(weights, choices, rest=rest, encoders=encoders)

    def read_by_all(self) -> None: ...


class TextMixture:
    """Knows its images exactly, and counts the rows that it is given."""

    family = "stable_diffusion"
    guidance_distilled = False

    def __init__(self, images: Tensor, schedule: Schedule, *, base: Tensor, prompts: BytePairPrompts) -> None:
        self.known = closed_form_text.TextMixture(
            images=images, base=base, prompts=prompts.known, schedule=schedule, image_size=tuple(images.shape[2:])
        )
        self.images, self.schedule, self.base, self.prompts = images, schedule, base, prompts
        self.device = images.device
        self.latent_shape, self.image_size = self.known.latent_shape, self.known.image_size
        self.limited, self.forwards, self.decode = self.known.limited, self.known.forwards, self.known.decode
        self.forward_rows, self.backward_rows = 0, 0
        self.calls: set[int] = set()
        self.released = GridSampler(self)  # nobody released it: it is drawn as it is measured

    prompts: BytePairPrompts | None
    released: GridSampler | None = None

    def encode(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return images

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        assert condition is None or rows_of(condition) == len(x_t)
        self.forward_rows += len(x_t) * self.forwards(guidance_scale)
        asked = condition is not None and any(each.requires_grad for each in condition.tensors.values())
        self.backward_rows += len(x_t) if asked else 0
        self.calls.add(len(x_t))
        return self.known.estimate_x_0(x_t, level, condition=condition, guidance_scale=guidance_scale)

    def chance(self, prompt: str, image: int) -> float:
        """The probability that the prompt brings out the image, unguided."""
        return float(self.known.chance(prompt)[image])


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
