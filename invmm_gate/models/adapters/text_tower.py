"""One text encoder with its tokenizer: prompts, hard or soft, to features."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from invmm_gate.core.errors import ConfigError, ModelError
from invmm_gate.models.adapters.chats import Chat
from invmm_gate.models.read.tokenizer_files import MARKS

_ANY: Final = "\ue000any prompt\ue001"
"""Stands for a prompt; no template has these characters, which have no meaning of their own."""
_PROMPTS: Final = (" A cat, AND the <Dog>!  ", "", "\nfirst line\n\nsecond line\n", "<think>cat</think>")
"""What a template could write otherwise: blanks at the ends, capitals, lines, marks."""
WITHOUT_LIMIT = 100_000
"""Tokenizers saved without a limit claim one of 1e30 tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The features that a tower makes of its prompts, in float32."""

    context: Float[Tensor, "row token feature"]
    mask: Float[Tensor, "row token"]
    """1 for the tokens of the prompt and of what stands around it, 0 for padding."""
    pooled: Float[Tensor, "row pooled_feature"] | None


def text_config(encoder: Any) -> Any:
    """The configuration of an encoder's language model, where that is a part of a larger one."""
    return getattr(encoder.config, "text_config", encoder.config)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextTower:
    """A tokenizer and a text encoder, frozen and in eval mode, as transformers builds them.

    Raises ModelError where the two do not fit together.
    """

    name: str
    """The component's name in the checkpoint, for messages."""
    tokenizer: Any
    encoder: Any
    length: int
    """Tokens of every prompt, all that stands around it and padding included."""
    layer: int | tuple[int, ...] | None
    """Index into the hidden states, as -2, or several, side by side; None = the encoder's first output."""
    device: torch.device
    chat: Chat | None = None
    """What every prompt stands in; None = the start and the end token alone."""
    dropped: tuple[int, int] = (0, 0)
    """From which token before the prompt up to which one, not included, the pipeline leaves out the features."""
    masked: bool = False
    """Whether the pipeline masks the padding."""
    lowered: bool = False
    """Whether the pipeline reads prompts in small letters, without blanks at their ends."""
    vocabulary: int = field(init=False)
    """Number of token ids."""
    around: tuple[str, str] = field(init=False)
    """The text before and after each prompt."""
    before: tuple[int, ...] = field(init=False)
    """Ids in front of each prompt."""
    after: tuple[int, ...] = field(init=False)
    """Ids behind it."""

    def __post_init__(self) -> None:
        """Fail here and not by an index error in the middle of a run."""
        object.__setattr__(self, "vocabulary", max(self.tokenizer.get_vocab().values()) + 1)
        rows = self._embedding.num_embeddings
        if self.vocabulary > rows:
            raise ModelError(
                f"{self.name} embeds {rows} tokens, its tokenizer has ids up to {self.vocabulary - 1}",
                expected="the tokenizer that the encoder was trained with",
            )
        limit = getattr(text_config(self.encoder), "max_position_embeddings", WITHOUT_LIMIT)
        if not 2 < self.length <= limit:
            raise ModelError(
                f"the tokenizer of {self.name} takes {self.length} tokens, the encoder {limit}",
                expected="a model_max_length above 2 that the encoder has positions for",
            )
        self._find_surroundings()

    def _find_surroundings(self) -> None:
        if self.chat is None:
            start = self.start_id
            object.__setattr__(self, "around", ("", ""))
            object.__setattr__(self, "before", () if start is None else (start,))
            object.__setattr__(self, "after", (self.end_id,))
            self._check_ends()
        else:
            parts = self._render(_ANY).split(_ANY)
            object.__setattr__(self, "around", (parts[0], parts[-1]))
            before = self.tokenizer(parts[0].removesuffix(self._lead), truncation=False, verbose=False)
            object.__setattr__(self, "before", tuple(before.input_ids))
            object.__setattr__(self, "after", self._plain_ids(parts[-1]))
            for prompt in _PROMPTS:
                self._surrounded(prompt)
        if self.positions < 1 or not (self.before or self.after):
            raise ModelError(
                f"the chat template of {self.name} leaves no room for a prompt, or puts nothing around one",
                expected="the published template",
            )

    def _check_ends(self) -> None:
        """Raises ModelError for a tokenizer that puts anything else around a prompt than around a mixture."""
        ends = tuple(self.tokenizer("").input_ids)
        if ends != self.before + self.after:
            raise ModelError(
                f"the tokenizer of {self.name} puts the tokens {ends} around a prompt",
                expected=f"its start and end tokens, {self.before + self.after}",
                do="save the pipeline again with its published tokenizer",
            )

    def _render(self, prompt: str) -> str:
        """The prompt as the pipeline hands it to the tokenizer."""
        if self.chat is None:
            return prompt
        try:
            return self.chat.written(self.tokenizer, prompt)
        except Exception as error:  # whatever a template raises
            raise ModelError(
                f"the chat template of {self.name} cannot be used: {str(error)[:200]}",
                expected="the tokenizer's own template",
            ) from error

    def _surrounded(self, prompt: str) -> str:
        """The prompt in the chat template. Raises ModelError where that does more than to put it between two texts."""
        text, (before, after) = self._render(prompt), self.around
        if text != before + self._rewritten(prompt) + after:
            raise ModelError(
                f"the chat template of {self.name} writes other texts around one prompt than around another",
                expected="a template that puts each prompt between the same two texts",
                do="save the tokenizer with its published template",
            )
        return text

    @property
    def _embedding(self) -> nn.Embedding:
        # T5 of transformers 5 looks up its ids in a module of its own, tied to the one that it names.
        embedding: nn.Embedding = getattr(
            getattr(self.encoder, "encoder", None), "embed_tokens", self.encoder.get_input_embeddings()
        )
        return embedding

    @property
    def start_id(self) -> int | None:
        """Id of the first token of every prompt; BERT calls it the class token. T5 has none, AuraFlow's puts none."""
        found = self._named_start
        return found if self.tokenizer("").input_ids[:1] == [found] else None

    @property
    def _named_start(self) -> int | None:
        return _first_id(self.tokenizer.bos_token_id, self.tokenizer.cls_token_id)

    @property
    def end_id(self) -> int:
        """Id of the token after the prompt's text; BERT calls it the separator. Raises ModelError without one."""
        found = _first_id(self.tokenizer.eos_token_id, self.tokenizer.sep_token_id)
        if found is None:
            raise ModelError(f"the tokenizer of {self.name} has no end token", expected="the one that diffusers saved")
        return found

    @property
    def positions(self) -> int:
        """Tokens that a prompt may have, those around it not counted."""
        return self.length - len(self.before) - len(self.after)

    @property
    def special_ids(self) -> frozenset[int]:
        """Start, end, unknown and padding, and what marks the turns of a chat.

        A padding token that is text, as the "!" of SD 2, is none; nor is any other added token, which anybody can type.
        """
        ids: set[int | None] = {self._named_start, self.end_id}
        named = (self.tokenizer.unk_token, self.tokenizer.pad_token)
        ids |= {self.tokenizer.convert_tokens_to_ids(str(token)) for token in named if str(token) in MARKS}
        if self.chat is not None:
            ids |= {*self.before, *self.after} & set(self.tokenizer.added_tokens_decoder)
        return frozenset(each for each in ids if each is not None)

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        """Ids of a prompt's text, of any length."""
        return self._plain_ids(self._lead + self._rewritten(prompt))

    def _rewritten(self, prompt: str) -> str:
        return self._read(prompt) if self.chat is None else self.chat.rewritten(prompt)

    def _read(self, prompt: str) -> str:
        return prompt.lower().strip() if self.lowered else prompt

    def _plain_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)

    @property
    def _lead(self) -> str:
        return "" if self.chat is None else self.chat.lead

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens written out and no space tidied away: so it reads as the same ids."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text.removeprefix(self._lead)

    def own_ids(self, ids: Int[Tensor, " choice"]) -> Int[Tensor, " choice"]:
        """What this tokenizer has for tokens of another one that pads otherwise and has the same vocabulary.

        A padding token that is text is found in a prompt before any pair of bytes: where the first tokenizer of SD XL
        reads "!" as a whole word, the second reads its padding. Longer tokens with a "!", as "?!", have no single id.
        """
        word = self.tokenizer.get_vocab().get(f"{self.tokenizer.pad_token}</w>")
        return ids if word is None else torch.where(ids == word, self.tokenizer.pad_token_id, ids)

    def ids_of_words(self, once: Sequence[str], twice: Sequence[str]) -> Int[Tensor, " word"]:
        """The one id that this tokenizer has for each word, given alone and twice in a row; -1 where it has none."""
        both = zip(self._ids_of_all(once), self._ids_of_all(twice), strict=True)
        special = self.special_ids
        ids = (one[0] if len(one) == 1 and two == one * 2 and special.isdisjoint(one) else -1 for one, two in both)
        return torch.tensor(list(ids), dtype=torch.long)

    def _ids_of_all(self, texts: Sequence[str]) -> list[list[int]]:
        batch = self.tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
        ids: list[list[int]] = batch.input_ids
        return ids

    def encode(self, prompts: Sequence[str]) -> Features:
        """Features of prompts, cut at the limit and padded, as the diffusers pipelines make them."""
        texts = [self._surrounded(self._read(prompt)) for prompt in prompts]
        return self._of_texts(texts, self.length, self.dropped)

    def bare(self, prompts: Sequence[str]) -> Features:
        """The same of prompts around which no words stand but the tokenizer's own start and end; none is left out."""
        length = self.length - (self.dropped[1] - self.dropped[0])
        return self._of_texts([self._rewritten(prompt) for prompt in prompts], length, (0, 0))

    def _of_texts(self, texts: list[str], length: int, dropped: tuple[int, int]) -> Features:
        batch = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        with torch.no_grad():
            return self._run(batch.input_ids.to(self.device), batch.attention_mask.to(self.device), dropped)

    def mix(self, weights: Float[Tensor, "row position choice"], choices: Int[Tensor, " choice"]) -> Features:
        """Features of mixtures of the embeddings of `choices`, of what stands around them, and of padding."""
        count, start = weights.shape[1], len(self.before)
        if count > self.positions:
            raise ConfigError(
                f"a soft prompt of {count} tokens for {self.name}",
                expected=f"at most {self.positions}",
                do="set prompt_tokens lower",
            )
        embedding = self._embedding
        # Gemma scales what it looks up.
        mixed = weights.to(self.device, torch.float32) @ embedding(choices.to(self.device)).float()

        def place(module: nn.Module, inputs: object, embedded: Tensor) -> Tensor:
            del module, inputs
            return torch.cat([embedded[:, :start], mixed.to(embedded.dtype), embedded[:, start + count :]], dim=1)

        # The encoders take no embeddings; their pooling and mask need ids in any case.
        with embedding.register_forward_hook(place):
            return self._run(*self._template(weights, choices), self.dropped)

    def _template(
        self, weights: Float[Tensor, "row position choice"], choices: Int[Tensor, " choice"]
    ) -> tuple[Int[Tensor, "row token"], Int[Tensor, "row token"]]:
        """Ids and mask around the mixtures. Pooling encoders look for the end token among the ids.

        A mixture of one token alone is that token, the end token too; any other one stands for a start token, which
        is never pooled, or for padding where no prompt has a start token.
        """
        (rows, count), start = weights.shape[:2], len(self.before)
        soft = self.tokenizer.pad_token_id if self.start_id is None else self.start_id
        end = start + count + len(self.after)
        largest, index = weights.detach().to(self.device).max(dim=2)
        hard = choices.to(self.device)[index]
        ids = torch.full((rows, self.length), self.tokenizer.pad_token_id, device=self.device)
        ids[:, :start] = torch.tensor(self.before, device=self.device)
        ids[:, start : start + count] = torch.where(largest == 1, hard, soft)
        ids[:, start + count : end] = torch.tensor(self.after, device=self.device)
        mask = torch.zeros_like(ids)
        mask[:, :end] = 1
        return ids, mask

    def _run(self, ids: Int[Tensor, "row token"], mask: Int[Tensor, "row token"], dropped: tuple[int, int]) -> Features:
        masked = self.masked or getattr(self.encoder.config, "use_attention_mask", False)
        arguments = {"attention_mask": mask} if masked else {}
        # The head of a language model would write a number for each word of the vocabulary.
        encoder = self.encoder if self.chat is None else getattr(self.encoder, "model", self.encoder)
        output = encoder(ids, output_hidden_states=self.layer is not None, **arguments)
        first: Tensor = output[0]  # the projected end token where the encoder has a projection
        layers = self.layer if isinstance(self.layer, tuple) else (self.layer,)
        context = first if self.layer is None else torch.cat([output.hidden_states[each] for each in layers], dim=2)
        pooled = first if first.ndim == 2 else getattr(output, "pooler_output", None)
        return Features(
            context=_without(dropped, context).float(),
            mask=_without(dropped, mask).float(),
            pooled=None if pooled is None else pooled.float(),
        )


def _without(dropped: tuple[int, int], tokens: Tensor) -> Tensor:
    """The tokens of each row but those."""
    return torch.cat([tokens[:, : dropped[0]], tokens[:, dropped[1] :]], dim=1)


def _first_id(*candidates: int | None) -> int | None:
    return next((candidate for candidate in candidates if candidate is not None), None)
