"""The text side of each pipeline: which towers there are, and where in the condition their features lie."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from invmm_gate.core.errors import ModelError
from invmm_gate.core.protocols import Condition
from invmm_gate.core.settings import SoftEncoders
from invmm_gate.diffusion.prediction import rows_of
from invmm_gate.models.adapters.chats import CHATS, Chat
from invmm_gate.models.adapters.text_tower import Features, TextTower, text_config
from invmm_gate.models.read.scheduler_config import SANA
from invmm_gate.models.read.text_configs import (
    AURA_LENGTH,
    BERT_LENGTH,
    CHAT_LENGTH,
    KLEIN_LAYERS,
    LUMINA_LENGTH,
    PIXART_LENGTHS,
)

T5_LENGTH: Final = 256
"""Tokens of T5 in StableDiffusion3Pipeline, unless it is called with another max_sequence_length."""
FLUX_T5_LENGTH: Final = 512
"""The same in FluxPipeline and ChromaPipeline."""
QWEN_DROPPED: Final = 34
"""Leading tokens that QwenImagePipeline drops, whatever they are: with the published tokenizer all before a prompt."""
SANA_LENGTH: Final = 300
"""Tokens that SanaPipeline hands to its network, unless it is called with another max_sequence_length."""
QWEN_LENGTH: Final = 512
"""Tokens that it hands to its network at most, unless it is called with another max_sequence_length."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """A tower and the block of the condition that it fills."""

    tower: TextTower
    shares: bool
    """Whether it reads the first tower's tokens, as the first one does. Another one sees a soft prompt of words alone
    that it too reads as one token."""
    tokens: slice | None
    """Its tokens of the context; None where the pipeline takes its pooled vector alone."""
    features: slice | None = None
    """Their features that it fills; None = all."""
    pooled: slice | None = None
    """Its columns of the pooled vector; None where the pipeline drops them."""
    blank: bool = False
    """Whether the features of padding are zero."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """A `PromptEncoder` over one to three towers.

    Condition: `context`, and `pooled` or `mask` where the network takes it.
    """

    placed: tuple[Placed, ...]
    context_shape: tuple[int, int]
    """(token, feature); what no tower fills is zero."""
    pooled_size: int | None
    device: torch.device
    masked: bool = False
    """Whether the network is told which tokens are padding: `mask`, (row, token), is 0 there."""
    ids_of_words: dict[str, Int[Tensor, " vocabulary"]] = field(default_factory=dict, init=False, repr=False)
    """Tower -> its one id for the text of each id of the first tower, -1 where it has none; made when first needed."""

    def __post_init__(self) -> None:
        """Raises ModelError if encoders that share tokens do not read the same ids."""
        vocabularies = [item.tower.tokenizer.get_vocab() for item in self.placed if item.shares]
        if any(vocabulary != vocabularies[0] for vocabulary in vocabularies):
            raise ModelError(
                "the tokenizers of encoders that share a prompt differ", expected="one vocabulary for all of them"
            )

    @property
    def _first(self) -> TextTower:
        return self.placed[0].tower

    @property
    def positions(self) -> int:
        """Tokens that a prompt may have, the start and end tokens not counted."""
        return self._first.positions

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self._first.vocabulary

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: start, end, padding, unknown."""
        return self._first.special_ids

    @property
    def end_id(self) -> int:
        """Id of the end-of-text token."""
        return self._first.end_id

    def tokenize(self, prompt: str) -> tuple[int, ...]:
        """Ids of a prompt, without start, end and padding, and without a limit on its length."""
        return self._first.tokenize(prompt)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens written out."""
        return self._first.decode(ids)

    def encode(self, prompts: Sequence[str]) -> Condition:
        """One row a prompt, as the diffusers pipeline encodes it; what is beyond the limit is cut off."""
        return self._encoded(prompts, TextTower.encode)

    def bare(self, prompts: Sequence[str]) -> Condition:
        """The same without the words that stand around each prompt."""
        return self._encoded(prompts, TextTower.bare)

    def _encoded(self, prompts: Sequence[str], encode: Callable[[TextTower, Sequence[str]], Features]) -> Condition:
        tensors = {"context": torch.zeros(len(prompts), *self.context_shape, device=self.device)}
        if self.pooled_size is not None:
            tensors["pooled"] = torch.zeros(len(prompts), self.pooled_size, device=self.device)
        if self.masked:
            tensors["mask"] = torch.zeros(len(prompts), self.context_shape[0], device=self.device)
        for item in self.placed:
            _place(tensors, item, encode(item.tower, prompts))
        return Condition(tensors=tensors)

    def mix(
        self,
        weights: Float[Tensor, "row position choice"],
        choices: Int[Tensor, " choice"],
        *,
        rest: Condition,
        encoders: SoftEncoders = "first",
    ) -> Condition:
        """Soft prompts: at each position a mixture of the embeddings of `choices`; differentiable in `weights`.

        A one-hot mixture is the hard prompt, bit for bit at the same number of rows; in an encoder after the first, as
        far as its tokenizer reads the same ids (`TextTower.own_ids`) or has one for each word (`read_by_all`). Raises
        ConfigError for more positions than a tokenizer takes, ModelError if `rest` has another number of rows, or for a
        choice that an encoder has no single token for.
        """
        if rows_of(rest) != weights.shape[0]:
            raise ModelError(
                f"{weights.shape[0]} soft prompts beside {rows_of(rest)} rows of the other encoders",
                expected="as many of both",
            )
        tensors = {name: tensor.clone() for name, tensor in rest.tensors.items()}
        mixing = self.placed[:1] if encoders == "first" else self.placed
        for item in mixing:
            if item.shares or encoders == "all":
                _place(tensors, item, item.tower.mix(weights, self._own_ids(item, choices)))
        return Condition(tensors=tensors)

    def read_by_all(self) -> Bool[Tensor, " vocabulary"] | None:
        """Of which ids every tower reads the text as one token; None where all read the first one's tokens.

        It decodes the whole vocabulary once, and tokenizes it for each tower: seconds for CLIP's.
        """
        if all(item.shares for item in self.placed):
            return None
        return torch.stack([self._words_of(item.tower) >= 0 for item in self.placed]).all(dim=0)

    def _own_ids(self, item: Placed, choices: Int[Tensor, " choice"]) -> Int[Tensor, " choice"]:
        tower = item.tower
        if tower is self._first:
            return choices
        if item.shares:
            return tower.own_ids(choices)
        own = self._words_of(tower).to(choices.device)[choices]
        if several := int((own < 0).sum()):
            raise ModelError(
                f"a soft prompt of {len(own)} tokens, {several} of which are no single token of {tower.name}",
                expected="words that each text encoder reads as one token",
            )
        return own

    def _words_of(self, tower: TextTower) -> Int[Tensor, " vocabulary"]:
        if tower.name not in self.ids_of_words:
            once, twice = ([self.decode([token] * times) for token in range(self.vocabulary)] for times in (1, 2))
            self.ids_of_words[tower.name] = tower.ids_of_words(once, twice)
        return self.ids_of_words[tower.name]


def _place(tensors: dict[str, Tensor], item: Placed, features: Features) -> None:
    if item.tokens is not None:
        context = features.context * features.mask[:, :, None] if item.blank else features.context
        tensors["context"][:, item.tokens, item.features or slice(None)] = context
        if "mask" in tensors:
            tensors["mask"][:, item.tokens] = features.mask
    if item.pooled is not None and features.pooled is not None:
        tensors["pooled"][:, item.pooled] = features.pooled


def prompt_encoder_of(pipeline: str, components: Mapping[str, Any], device: torch.device) -> Prompts:
    """The text side of a pipeline. `components` are its tokenizers and networks, by the names that they have there."""
    return _PIPELINES[pipeline](components, device)


def _latent_diffusion(components: Mapping[str, Any], device: torch.device) -> Prompts:
    """Text-conditioned LDM: the output of its BERT."""
    return _one_tower(_tower("bert", components, device, length=BERT_LENGTH))


def _stable_diffusion(components: Mapping[str, Any], device: torch.device) -> Prompts:
    """Stable Diffusion 1 and 2: the last hidden state of one CLIP encoder (`CLIPTextModel`)."""
    return _one_tower(_tower("text_encoder", components, device))


def _stable_diffusion_xl(components: Mapping[str, Any], device: torch.device) -> Prompts:
    """Stable Diffusion XL: hidden layers -2 of `CLIPTextModel` and `CLIPTextModelWithProjection` side by side.

    `pooled` is the projection of the second.
    """
    first = _tower("text_encoder", components, device, layer=-2)
    second = _tower("text_encoder_2", components, device, layer=-2)
    if first.length != second.length:
        raise ModelError(
            f"the tokenizers of text_encoder and text_encoder_2 take {first.length} and {second.length} tokens",
            expected="as many",
        )
    width, whole = _width(first), _width(first) + _width(second)
    pooled, tokens = _projection(second), slice(0, first.length)
    return Prompts(
        placed=(
            Placed(tower=first, shares=True, tokens=tokens, features=slice(0, width)),
            Placed(tower=second, shares=True, tokens=tokens, features=slice(width, whole), pooled=slice(0, pooled)),
        ),
        context_shape=(first.length, whole),
        pooled_size=pooled,
        device=device,
    )


def _stable_diffusion_3(components: Mapping[str, Any], device: torch.device) -> Prompts:
    """Stable Diffusion 3: hidden layers -2 of two `CLIPTextModelWithProjection`, then the tokens of T5.

    Without T5 its tokens are zero, as in the pipeline. `pooled` is both projections side by side.
    """
    first = _tower("text_encoder", components, device, layer=-2)
    # The pipeline pads both as the first tokenizer says.
    second = _tower("text_encoder_2", components, device, layer=-2, length=first.length)
    width, whole = _width(first), _width(first) + _width(second)
    middle, pooled = _projection(first), _projection(first) + _projection(second)
    tokens, length = slice(0, first.length), first.length + T5_LENGTH
    features: int = components["transformer"].config.joint_attention_dim
    placed: tuple[Placed, ...] = (
        Placed(tower=first, shares=True, tokens=tokens, features=slice(0, width), pooled=slice(0, middle)),
        Placed(tower=second, shares=True, tokens=tokens, features=slice(width, whole), pooled=slice(middle, pooled)),
    )
    if components.get("text_encoder_3") is not None:
        third = _tower("text_encoder_3", components, device, length=T5_LENGTH)
        placed += (Placed(tower=third, shares=False, tokens=slice(first.length, length), features=slice(0, features)),)
    return Prompts(placed=placed, context_shape=(length, features), pooled_size=pooled, device=device)


def _flux(components: Mapping[str, Any], device: torch.device) -> Prompts:
    """FLUX.1: the tokens of T5; `pooled` is the pooled vector of CLIP, which reads other tokens.

    Prompts are those of T5, from which the network has all but that one vector.
    """
    tokens = _tower("text_encoder_2", components, device, length=FLUX_T5_LENGTH)
    clip = _tower("text_encoder", components, device)
    width, pooled = _width(tokens), _width(clip)
    return Prompts(
        placed=(
            Placed(tower=tokens, shares=True, tokens=slice(0, tokens.length)),
            Placed(tower=clip, shares=False, tokens=None, pooled=slice(0, pooled)),
        ),
        context_shape=(tokens.length, width),
        pooled_size=pooled,
        device=device,
    )


def _chroma(components: Mapping[str, Any], device: torch.device) -> Prompts:
    """Chroma: the tokens of T5, which is told its padding; so is the network."""
    return _masked(_tower("text_encoder", components, device, length=FLUX_T5_LENGTH, masked=True))


def _pixart(components: Mapping[str, Any], device: torch.device, *, length: int) -> Prompts:
    """PixArt: the tokens of T5 for a prompt in small letters, with its padding masked."""
    return _masked(_tower("text_encoder", components, device, length=length, masked=True, lowered=True))


def _aura_flow(components: Mapping[str, Any], device: torch.device) -> Prompts:
    """AuraFlow: the tokens of UMT5, which is told its padding; what it makes of padding is zero for the network."""
    tower = _tower("text_encoder", components, device, length=AURA_LENGTH, masked=True)
    return Prompts(
        placed=(Placed(tower=tower, shares=True, tokens=slice(0, tower.length), blank=True),),
        context_shape=(tower.length, _width(tower)),
        pooled_size=None,
        device=device,
    )


def _z_image(components: Mapping[str, Any], device: torch.device) -> Prompts:
    """Z-Image: hidden layer -2 of a decoder language model, for a prompt in its chat template; padding is cut off."""
    tower = _tower("text_encoder", components, device, layer=-2, length=CHAT_LENGTH, chat=CHATS["ZImagePipeline"])
    return Prompts(
        placed=(Placed(tower=tower, shares=True, tokens=slice(0, tower.length)),),
        context_shape=(tower.length, _width(tower)),
        pooled_size=None,
        device=device,
        masked=True,
    )


def _flux_2_klein(components: Mapping[str, Any], device: torch.device) -> Prompts:
    """FLUX.2-klein: three hidden layers of a decoder language model side by side, those of its padding too."""
    tower = _tower(
        "text_encoder", components, device, layer=KLEIN_LAYERS, length=CHAT_LENGTH, chat=CHATS["Flux2KleinPipeline"]
    )
    return Prompts(
        placed=(Placed(tower=tower, shares=True, tokens=slice(0, tower.length)),),
        context_shape=(tower.length, len(KLEIN_LAYERS) * _width(tower)),
        pooled_size=None,
        device=device,
    )


def _qwen_image(components: Mapping[str, Any], device: torch.device) -> Prompts:
    """Qwen-Image: the last hidden state of a model that could see images too, but for the first tokens."""
    tower = _tower(
        "text_encoder",
        components,
        device,
        length=QWEN_DROPPED + QWEN_LENGTH,
        chat=CHATS["QwenImagePipeline"],
        dropped=(0, QWEN_DROPPED),
    )
    return Prompts(
        placed=(Placed(tower=tower, shares=True, tokens=slice(0, QWEN_LENGTH)),),
        context_shape=(QWEN_LENGTH, _width(tower)),
        pooled_size=None,
        device=device,
        masked=True,
    )


def _lumina_2(components: Mapping[str, Any], device: torch.device) -> Prompts:
    """Lumina-Image 2.0: hidden layer -2 of Gemma 2. As the pipeline does, its tokenizer is told to pad on the right."""
    components["tokenizer"].padding_side = "right"
    tower = _tower("text_encoder", components, device, layer=-2, length=LUMINA_LENGTH, chat=CHATS["Lumina2Pipeline"])
    return Prompts(
        placed=(Placed(tower=tower, shares=True, tokens=slice(0, tower.length)),),
        context_shape=(tower.length, _width(tower)),
        pooled_size=None,
        device=device,
        masked=True,
    )


def _sana(components: Mapping[str, Any], device: torch.device) -> Prompts:
    """Sana: the last hidden state of Gemma 2; of what stands before a prompt the start token alone.

    The pipeline counts the tokens of its words by themselves, the blank at their end as one.
    """
    components["tokenizer"].padding_side = "right"
    chat = CHATS[SANA]
    words = len(components["tokenizer"].encode(chat.written(components["tokenizer"], "")))
    tower = _tower(
        "text_encoder",
        components,
        device,
        length=words + SANA_LENGTH - 2,
        chat=chat,
        dropped=(1, words - 1),
    )
    return Prompts(
        placed=(Placed(tower=tower, shares=True, tokens=slice(0, SANA_LENGTH)),),
        context_shape=(SANA_LENGTH, _width(tower)),
        pooled_size=None,
        device=device,
        masked=True,
    )


_PIPELINES: Final[dict[str, Callable[[Mapping[str, Any], torch.device], Prompts]]] = {
    "LDMTextToImagePipeline": _latent_diffusion,
    "StableDiffusionPipeline": _stable_diffusion,
    "LatentConsistencyModelPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _stable_diffusion_xl,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "FluxPipeline": _flux,
    "ChromaPipeline": _chroma,
    **{name: partial(_pixart, length=length) for name, length in PIXART_LENGTHS.items()},
    "AuraFlowPipeline": _aura_flow,
    "ZImagePipeline": _z_image,
    "Flux2KleinPipeline": _flux_2_klein,
    "QwenImagePipeline": _qwen_image,
    "Lumina2Pipeline": _lumina_2,
    SANA: _sana,
}


def _tower(
    name: str,
    components: Mapping[str, Any],
    device: torch.device,
    *,
    layer: int | tuple[int, ...] | None = None,
    length: int = 0,
    chat: Chat | None = None,
    dropped: tuple[int, int] = (0, 0),
    masked: bool = False,
    lowered: bool = False,
) -> TextTower:
    """The encoder of this name with its tokenizer, whose limit is the length if none is given.

    Prompts in a `chat` are read with their padding masked.
    """
    tokenizer = components["tokenizer" if name == "bert" else name.replace("text_encoder", "tokenizer")]
    return TextTower(
        name=name,
        tokenizer=tokenizer,
        encoder=components[name],
        length=length or tokenizer.model_max_length,
        layer=layer,
        device=device,
        chat=chat,
        masked=masked or chat is not None,
        lowered=lowered,
        dropped=dropped,
    )


def _one_tower(tower: TextTower) -> Prompts:
    width = _width(tower)
    placed = Placed(tower=tower, shares=True, tokens=slice(0, tower.length), features=slice(0, width))
    return Prompts(placed=(placed,), context_shape=(tower.length, width), pooled_size=None, device=tower.device)


def _masked(tower: TextTower) -> Prompts:
    """All that one tower says, and which tokens are padding."""
    return Prompts(
        placed=(Placed(tower=tower, shares=True, tokens=slice(0, tower.length)),),
        context_shape=(tower.length, _width(tower)),
        pooled_size=None,
        device=tower.device,
        masked=True,
    )


def _width(tower: TextTower) -> int:
    width: int = text_config(tower.encoder).hidden_size
    return width


def _projection(tower: TextTower) -> int:
    size: int = tower.encoder.config.projection_dim
    return size
