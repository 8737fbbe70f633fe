"""`tokenizer_config.json` of each kind of tokenizer, as transformers writes it."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.allowed_files import SPIECE
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.diffusers_config import StrictConfig, validated
from invmm_gate.models.read.weight_files import read_json

Kind = Literal["clip", "t5", "bert"]
CLASSES: Final[dict[Kind, str]] = {"clip": "CLIPTokenizer", "t5": "T5Tokenizer", "bert": "BertTokenizer"}
KINDS: Final = {f"{name}{fast}": kind for kind, name in CLASSES.items() for fast in ("", "Fast")}
"""Class that a pipeline may state -> kind."""
_OF_ALL: Final = frozenset({"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"})
TOKENIZER_NAMES: Final[dict[Kind, frozenset[str]]] = {
    "clip": _OF_ALL | {"vocab.json", "merges.txt", "added_tokens.json"},
    "t5": _OF_ALL | {SPIECE},
    "bert": _OF_ALL | {"vocab.txt", "added_tokens.json"},
}
"""The files of a tokenizer: each is read where it is there, but for the vocabulary that a T5 tokenizer holds twice."""

BOOKKEEPING: Final = frozenset({
    "add_prefix_space", "name_or_path", "special_tokens_map_file", "tokenizer_file", "backend", "is_local",
    "clean_up_tokenization_spaces", "processor_class", "use_fast", "legacy", "sp_model_kwargs", "extra_ids",
    "model_input_names", "local_files_only", "is_fast",
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
}  # fmt: skip
"""The special tokens that a kind has, and what they are when its files do not say."""
NoTokens = Annotated[list[str] | dict[str, str] | None, Field(max_length=0)]
_MOST_EXTRA: Final = 10_000


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


CONFIGS: Final[dict[Kind, type[TokenizerConfig]]] = {
    "clip": TokenizerConfig,
    "t5": TokenizerConfig,
    "bert": BertTokenizerConfig,
}


def read_config(files: CheckpointFiles, name: str, kind: Kind) -> tuple[TokenizerConfig, frozenset[str]]:
    """`tokenizer_config.json` in folder `name`, and what it and the older `special_tokens_map.json` add.

    As in transformers, the map says what the special tokens are where no token is listed with its id.
    Raises ModelError naming the file.
    """
    path, map_path = f"{name}/tokenizer_config.json", f"{name}/special_tokens_map.json"
    if path not in files:
        raise ModelError(f"component {name!r} has no {path}", expected="a complete pipeline", do="save it again")
    content = read_json(files, path)
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
