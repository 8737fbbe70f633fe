"""A tokenizer's files: its configuration, its special tokens and its limit, read before torch is imported.

A folder may hold the same vocabulary twice (`tokenizer.json`, and `vocab.json` with `merges.txt`), and versions of
transformers differ in which they read: they must agree. A T5, Qwen, Gemma or Llama tokenizer is loaded by its own
class, from a private copy of these files, as users load it; of all but Qwen without the SentencePiece file, which
the class passes over where `tokenizer.json` is there.
"""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.allowed_files import SPIECES
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.diffusers_config import StrictConfig, validated
from invmm_gate.models.read.pipelines import KINDS, TOKENIZER_NAMES, TOKENIZERS, Kind
from invmm_gate.models.read.vocabulary import (
    check_as_class,
    check_pieces,
    ids_in,
    ids_of,
    library,
    read_merges,
    read_tokenizer_json,
    read_vocabulary,
)
from invmm_gate.models.read.weight_files import read_json, read_part

BOOKKEEPING: Final = frozenset({
    "add_prefix_space", "name_or_path", "special_tokens_map_file", "tokenizer_file", "backend", "is_local",
    "clean_up_tokenization_spaces", "processor_class", "use_fast", "legacy", "sp_model_kwargs", "extra_ids",
    "model_input_names", "local_files_only", "is_fast",
    # What the last call asked for, which transformers saves along; diffusers asks for its own in each call.
    "max_length", "pad_to_multiple_of", "pad_token_type_id", "stride", "truncation_strategy",
})  # fmt: skip
DEFAULTS: Final[dict[Kind, dict[str, str]]] = {
    "clip": {
        "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    },
    "t5": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "bert": {
        "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]",
        "mask_token": "[MASK]",
    },
    "qwen2": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
}  # fmt: skip
"""The special tokens that a kind has, and what they are when its files do not say."""
NoTokens = Annotated[list[str] | dict[str, str] | None, Field(max_length=0)]
_MOST_EXTRA: Final = 10_000
_LONGEST_TEMPLATE: Final = 100_000
_UNSTEADY: Final = frozenset({"strftime_now", "random"})
"""What a template may not use: transformers offers the clock, Jinja chance."""
_WHOLE: Final = ("t5", "qwen2", "gemma", "llama")
"""Kinds that their class loads from their files, where it finds their added tokens in a text."""
MARKS: Final = frozenset({
    "<|startoftext|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<pad>", "<mask>", "<bos>", "<eos>",
    "[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>",
})  # fmt: skip
"""What start, end, unknown and padding tokens are called in published tokenizers.

A search goes without them. So no word may be one of them: the search could not find it.
"""
_NO_WORD: Final = re.compile(r"<.*>|\[.*\]|[\s\u2581]+", re.DOTALL)
"""Added tokens of published tokenizers: marks in brackets, and blanks in a row."""
_ROLES: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")


_FROM_ONE_FILE: Final = ("t5", "gemma", "llama")
"""Kinds that are read from tokenizer.json alone."""


def _plain(value: object) -> Any:
    """Without the marker that transformers puts in front of a serialised token."""
    return {key: item for key, item in value.items() if key != "__type"} if isinstance(value, dict) else value


class SpecialToken(StrictConfig):
    """A special token and how it is found in a text."""

    content: Annotated[str, Field(min_length=1, max_length=200)]
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False
    special: bool = True

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"content": value} if isinstance(value, str) else _plain(value)


ExtraTokens = Annotated[list[SpecialToken] | dict[str, SpecialToken] | None, Field(max_length=_MOST_EXTRA)]


class TokenizerConfig(StrictConfig):
    """`tokenizer_config.json`, with the special tokens of `special_tokens_map.json`."""

    tokenizer_class: str | None = None
    model_max_length: Annotated[int, Field(ge=1)] | Annotated[float, Field(ge=1)] | None = None
    bos_token: SpecialToken | None = None
    eos_token: SpecialToken | None = None
    unk_token: SpecialToken | None = None
    pad_token: SpecialToken | None = None
    do_lower_case: Literal[True] = True
    errors: Literal["replace"] = "replace"
    padding_side: Literal["right"] = "right"
    truncation_side: Literal["right"] = "right"
    split_special_tokens: Literal[False] = False
    trust_remote_code: Literal[False] = False
    added_tokens_decoder: dict[str, SpecialToken] = Field(default_factory=dict, max_length=10_000)
    additional_special_tokens: ExtraTokens = None
    extra_special_tokens: ExtraTokens = None

    @property
    def extra(self) -> frozenset[str]:
        """Tokens that transformers adds to the special ones: it finds them in a text before it splits the text."""
        lists = (self.additional_special_tokens, self.extra_special_tokens)
        tokens = (token for each in lists for token in (each.values() if isinstance(each, dict) else each or ()))
        return frozenset(token.content for token in tokens)


class BertTokenizerConfig(TokenizerConfig):
    """Lower case, as the one published text-conditioned LDM has it; words split as BERT's authors did."""

    bos_token: None = None
    eos_token: None = None
    cls_token: SpecialToken | None = None
    sep_token: SpecialToken | None = None
    mask_token: SpecialToken | None = None
    do_basic_tokenize: Literal[True] = True
    never_split: NoTokens = None
    strip_accents: None = None
    tokenize_chinese_chars: Literal[True] = True


class T5TokenizerConfig(TokenizerConfig):
    """T5 has no start token."""

    bos_token: None = None


class Qwen2TokenizerConfig(TokenizerConfig):
    """Bytes in pairs, in front of which nothing is put."""

    add_bos_token: Literal[False] = False
    chat_template: Annotated[str, Field(max_length=_LONGEST_TEMPLATE)] | None = None


class GemmaTokenizerConfig(TokenizerConfig):
    """Bytes for what is no piece, and a start token; its pipeline pads on the right, whatever the file says."""

    add_bos_token: Literal[True] = True
    add_eos_token: Literal[False] = False
    padding_side: Literal["left", "right"] = "left"  # type: ignore[assignment]
    mask_token: SpecialToken | None = None
    spaces_between_special_tokens: Literal[False] = False
    use_default_system_prompt: Literal[False] = False
    chat_template: Annotated[str, Field(max_length=_LONGEST_TEMPLATE)] | None = None
    """Never used: a prompt stands in a text of the pipeline's own."""


class LlamaTokenizerConfig(TokenizerConfig):
    """Bytes for what is no piece; an end token and no start token, which the class puts there where nobody says so."""

    add_bos_token: Literal[False] | None = None
    add_eos_token: Literal[True] | None = None
    padding_side: Literal["left", "right"] = "left"  # type: ignore[assignment]
    spaces_between_special_tokens: Literal[False] = False
    use_default_system_prompt: bool = False
    chat_template: Annotated[str, Field(max_length=_LONGEST_TEMPLATE)] | None = None
    """Never used."""

    @model_validator(mode="after")
    def _ends_alone(self) -> "LlamaTokenizerConfig":
        if (self.add_bos_token is None) != (self.add_eos_token is None):
            raise ValueError("add_bos_token and add_eos_token are stated one without the other")
        return self


CONFIGS: Final[dict[Kind, type[TokenizerConfig]]] = {
    "llama": LlamaTokenizerConfig,
    "qwen2": Qwen2TokenizerConfig,
    "gemma": GemmaTokenizerConfig,
    "clip": TokenizerConfig,
    "t5": T5TokenizerConfig,
    "bert": BertTokenizerConfig,
}


def _read_config(files: CheckpointFiles, name: str, kind: Kind) -> tuple[TokenizerConfig, frozenset[str]]:
    """`tokenizer_config.json` in folder `name`, and what it and the older `special_tokens_map.json` add.

    As in transformers, the map says what the special tokens are where no token is listed with its id.
    Raises ModelError naming the file.
    """
    path, map_path = f"{name}/tokenizer_config.json", f"{name}/special_tokens_map.json"
    content = read_part(files, name, path)
    mapped = read_json(files, map_path) if map_path in files else {}
    added = validated(CONFIGS[kind], mapped, map_path).extra
    kept = {key: value for key, value in content.items() if key in CONFIGS[kind].model_fields or key not in BOOKKEEPING}
    if "added_tokens_decoder" not in content:
        kept |= {key: value for key, value in mapped.items() if key in {*DEFAULTS[kind], "bos_token", "eos_token"}}
    config = validated(CONFIGS[kind], kept, path)
    if config.tokenizer_class is not None and KINDS.get(config.tokenizer_class) != kind:
        raise ModelError(
            f"{path} names the class {config.tokenizer_class!a}",
            expected=f"a {kind} tokenizer, as model_index.json says",
        )
    return config, config.extra | added


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """The parts of a tokenizer."""

    name: str
    kind: Kind
    vocabulary: Mapping[str, int]
    """Token -> id, added tokens included."""
    special: Mapping[str, SpecialToken]
    """`bos_token`, `eos_token`, `unk_token`, `pad_token` and others, as far as the kind has them."""
    max_length: int | None
    """Tokens of a prompt, start and end included; None without a limit."""
    merges: tuple[tuple[str, str], ...] = ()
    """Byte-pair merges of a CLIP tokenizer, first come first."""
    class_name: str = ""
    """The class of transformers that loads a T5, Qwen, Gemma or Llama tokenizer, of a literal table."""
    content: Mapping[str, bytes] = field(default_factory=dict)
    """The files of a T5, Qwen, Gemma or Llama tokenizer, by name, which that class reads."""
    has_template: bool = False
    """Whether a Qwen tokenizer has a chat template."""

    @property
    def end_id(self) -> int:
        """Id of the end-of-text token; BERT calls it the separator."""
        return self.vocabulary[self.special["sep_token" if self.kind == "bert" else "eos_token"].content]


def read_tokenizer(files: CheckpointFiles, name: str, stated: str) -> TokenizerFiles:
    """The tokenizer in folder `name`, of the class that the pipeline states. Raises ModelError naming the file."""
    kind, path = KINDS[stated], f"{name}/tokenizer.json"
    config, extra = _read_config(files, name, kind)
    _refuse_other_marks(name, config)
    read = read_tokenizer_json(files, path, kind)
    if kind in _FROM_ONE_FILE and read is None:
        raise ModelError(
            f"{name!r} has no tokenizer.json",
            expected=f"a tokenizer with tokenizer.json; {', '.join(TOKENIZER_NAMES[kind] & SPIECES)} is not read",
            do=f"save the pipeline with {TOKENIZERS[kind][0]}",
        )
    listed = ids_in(files, f"{name}/added_tokens.json") or {}
    embedded = {token["content"]: token["id"] for token in read["added_tokens"]} if read else {}
    beside = {**embedded, **listed} if kind == "qwen2" else listed  # vocab.json of Qwen has no added tokens
    vocabulary = read_vocabulary(files, name, kind, beside, ids_of(read, embedded))
    if isinstance(config, LlamaTokenizerConfig):
        _check_llama(config, name, listed, vocabulary)
    special = _special(config, kind, name, vocabulary)
    template = _chat_template(files, name, config) if isinstance(config, Qwen2TokenizerConfig) else None
    if template is not None:
        _check_template(name, template)
    found = {*listed, *embedded, *(token.content for token in config.added_tokens_decoder.values())}
    if kind in _WHOLE:
        added = (extra - found) | {token for token in found if not _NO_WORD.fullmatch(token)}
    else:
        added = extra | found
    _refuse_added(name, added - {token.content for token in special.values()})
    if read is not None and kind == "t5":
        check_pieces(read, path)
    elif read is not None and kind != "llama":
        check_as_class(read, path, kind, vocabulary, {key: token.model_dump() for key, token in special.items()})
    limit = config.model_max_length
    return TokenizerFiles(
        name=name,
        kind=kind,
        vocabulary=vocabulary,
        special=special,
        max_length=int(limit) if limit is not None and limit < 2**31 else None,
        merges=read_merges(files, name, read) if kind in ("clip", "qwen2") else (),
        class_name=stated,
        content=_content(files, name, kind) if kind in _WHOLE else {},
        has_template=template is not None,
    )


def _check_llama(
    config: LlamaTokenizerConfig, name: str, listed: Mapping[str, int], vocabulary: Mapping[str, int]
) -> None:
    """Prompts are padded on the right, by a token that the file names: the class itself has none, and pads left."""
    if config.padding_side != "right" or config.pad_token is None:
        token = "no pad_token" if config.pad_token is None else f"the pad_token {config.pad_token.content!a}"
        raise ModelError(
            f"{name}/tokenizer_config.json has {token} and pads on the {config.padding_side}",
            expected="a pad_token, and padding_side right",
            do="save the pipeline again with its published tokenizer",
        )
    if any(vocabulary.get(token) != number for token, number in listed.items()):
        raise ModelError(
            f"{name}: added_tokens.json and tokenizer.json disagree", expected="one vocabulary", do="save again"
        )


def _content(files: CheckpointFiles, name: str, kind: Kind) -> dict[str, bytes]:
    paths = {part: f"{name}/{part}" for part in sorted(TOKENIZER_NAMES[kind] - SPIECES)}
    return {part: files.read(path) for part, path in paths.items() if path in files}


def _check_template(name: str, template: str) -> None:
    """Raises ModelError for a chat template that looks at the clock or at chance."""
    from jinja2 import Environment, nodes  # `verify`, which loads no model, starts without it

    with library(name):
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)  # noqa: S701 (writes no HTML)
    # Not by jinja2.meta, which computes what is constant: 'a' * 10**9 takes gigabytes.
    names = {each.name for each in tree.find_all(nodes.Name)} | {each.name for each in tree.find_all(nodes.Filter)}
    for unsteady in sorted(names & _UNSTEADY):
        raise ModelError(
            f"the chat template of {name!r} uses {unsteady}, by which one prompt has several readings",
            expected="the same words around the same prompt, always",
            do="save the tokenizer with its published template",
        )


def _chat_template(files: CheckpointFiles, name: str, config: Qwen2TokenizerConfig) -> str | None:
    """The template that transformers takes: that of its own file, if there is one."""
    path = f"{name}/chat_template.jinja"
    if path in files:
        if files.files[path].size > _LONGEST_TEMPLATE:
            raise ModelError(f"{path!r} is larger than {_LONGEST_TEMPLATE:,} bytes", expected="a chat template")
        return files.read(path).decode("utf-8")
    return config.chat_template


def _special(config: TokenizerConfig, kind: Kind, name: str, vocabulary: Mapping[str, int]) -> dict[str, SpecialToken]:
    """The stated tokens, or the class's own; how one is found in a text is what `added_tokens_decoder` says.

    Raises ModelError for a token or an id that the vocabulary does not have.
    """
    for number, token in config.added_tokens_decoder.items():
        if str(vocabulary.get(token.content)) != number:
            raise ModelError(
                f"{name}/tokenizer_config.json gives the token {token.content!a} the id {number!a}",
                expected="the id of the vocabulary",
            )
    listed = {token.content: token for token in config.added_tokens_decoder.values()}
    special = {}
    for key, text in DEFAULTS[kind].items():
        token = getattr(config, key) or SpecialToken(content=text)
        if token.content not in vocabulary:
            raise ModelError(f"{name}: the {key} {token.content!a} is not in the vocabulary", expected="a known token")
        special[key] = listed.get(token.content, token)
    return special


def _refuse_other_marks(name: str, config: TokenizerConfig) -> None:
    """Padding may be text, as the "!" of SD 2, which is then text to a search too."""
    for role in _ROLES:
        token = getattr(config, role, None)
        if token is None or token.content in MARKS or (role == "pad_token" and token.content[0] not in "<["):
            continue
        raise ModelError(
            f"{name} gives {token.content!a} as its {role}",
            expected="one of the names that published tokenizers have for it, as <unk> or <|endoftext|>",
            do="save the pipeline again with its own tokenizer",
        )


def _refuse_added(name: str, added: Set[str]) -> None:
    """A token of textual inversion would need its own embedding, and its own place when texts are split.

    An added token that is a word of the vocabulary would be hidden from a search, which takes the words of the others.
    """
    for token in sorted(added):
        raise ModelError(
            f"{name} adds the token {token!a}",
            expected="start, end, unknown and padding tokens only",
            do="textual inversion is not supported: export without its tokens",
        )
