"""A tokenizer's files, read without any library: its vocabulary, its special tokens and its limit.

A folder may hold the same vocabulary twice (`tokenizer.json`, and `vocab.json` with `merges.txt`), and versions of
transformers differ in which they read: they must agree. The SentencePiece file of a T5 tokenizer is never read, since
`tokenizer.json` beside it says the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.allowed_files import SPIECE
from invmm_gate.models.read.checkpoint_files import CheckpointFiles
from invmm_gate.models.read.configs import validated
from invmm_gate.models.read.merges import added_tokens, merges_of, vocabulary_of
from invmm_gate.models.read.tokenizer_configs import CONFIGS, DEFAULTS, Kind, SpecialToken, TokenizerConfig, stated_keys
from invmm_gate.models.read.tokenizer_json import check_byte_pairs, check_word_pieces
from invmm_gate.models.read.weight_files import read_json

KINDS: Final[dict[str, Kind]] = {
    "CLIPTokenizer": "clip",
    "CLIPTokenizerFast": "clip",
    "T5Tokenizer": "t5",
    "T5TokenizerFast": "t5",
    "BertTokenizer": "bert",
    "BertTokenizerFast": "bert",
}
_OF_ALL: Final = frozenset({"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"})
TOKENIZER_NAMES: Final[dict[Kind, frozenset[str]]] = {
    "clip": _OF_ALL | {"vocab.json", "merges.txt", "added_tokens.json"},
    "t5": _OF_ALL | {SPIECE},
    "bert": _OF_ALL | {"vocab.txt", "added_tokens.json"},
}
"""The files of a tokenizer: each is read where it is there, but for the vocabulary that a T5 tokenizer holds twice."""


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
    json: Mapping[str, object] | None = None
    """`tokenizer.json`, where there is one."""

    @property
    def end_id(self) -> int:
        """Id of the end-of-text token; BERT calls it the separator."""
        return self.vocabulary[self.special["sep_token" if self.kind == "bert" else "eos_token"].content]


def read_tokenizer(files: CheckpointFiles, name: str, stated: str) -> TokenizerFiles:
    """The tokenizer in folder `name`, of the class that the pipeline states. Raises ModelError naming the file."""
    kind = KINDS[stated]
    config = _config(files, name, kind)
    path = f"{name}/tokenizer.json"
    content = read_json(files, path) if path in files else None
    if kind == "t5" and content is None:
        raise ModelError(
            f"{name!r} has no tokenizer.json",
            expected="a T5 tokenizer with tokenizer.json; spiece.model is not read",
            do="save the pipeline with T5TokenizerFast",
        )
    vocabulary = vocabulary_of(files, name, kind=kind, content=content)
    limit = config.model_max_length
    tokenizer = TokenizerFiles(
        name=name,
        kind=kind,
        vocabulary=vocabulary,
        special=_special(config, kind),
        max_length=int(limit) if limit is not None and limit < 2**31 else None,
        merges=merges_of(files, name, content=content) if kind == "clip" else (),
        json=content,
    )
    _check(tokenizer, config)
    _check_sides(tokenizer)
    extra = config.extra | _extra_of_map(files, name, kind)
    added = added_tokens(files, name, content=content)
    if kind == "t5":  # tokenizer.json is all that it is made of, and finds its own added tokens in a text
        _refuse_added(tokenizer, extra - added)
    else:
        listed = {token.content for token in config.added_tokens_decoder.values()}
        _refuse_added(tokenizer, listed | added | extra)
    if kind == "clip":
        _check_template(tokenizer)
        if content is not None:
            check_byte_pairs(content, name)
    elif kind == "bert" and content is not None:
        check_word_pieces(content, name, vocabulary=vocabulary, special=tokenizer.special)
    return tokenizer


def _config(files: CheckpointFiles, name: str, kind: Kind) -> TokenizerConfig:
    path, map_path = f"{name}/tokenizer_config.json", f"{name}/special_tokens_map.json"
    if path not in files:
        raise ModelError(f"component {name!r} has no {path}", expected="a complete pipeline", do="save it again")
    special_map = read_json(files, map_path) if map_path in files else {}
    return validated(CONFIGS[kind], stated_keys(read_json(files, path), kind, special_map=special_map), path)


def _extra_of_map(files: CheckpointFiles, name: str, kind: Kind) -> frozenset[str]:
    """The tokens that special_tokens_map.json adds to the special ones of the class. Raises ModelError for others."""
    path = f"{name}/special_tokens_map.json"
    return validated(CONFIGS[kind], read_json(files, path), path).extra if path in files else frozenset()


def _special(config: TokenizerConfig, kind: Kind) -> dict[str, SpecialToken]:
    """The stated tokens, or the class's own; how one is found in a text is what `added_tokens_decoder` says."""
    listed = {token.content: token for token in config.added_tokens_decoder.values()}
    tokens = {key: getattr(config, key) or SpecialToken(content=text) for key, text in DEFAULTS[kind].items()}
    return {key: listed.get(token.content, token) for key, token in tokens.items()}


def _check(tokenizer: TokenizerFiles, config: TokenizerConfig) -> None:
    name, vocabulary = tokenizer.name, tokenizer.vocabulary
    if config.tokenizer_class is not None and KINDS.get(config.tokenizer_class) != tokenizer.kind:
        raise ModelError(
            f"{name}/tokenizer_config.json names the class {config.tokenizer_class!a}",
            expected=f"a {tokenizer.kind} tokenizer, as model_index.json says",
        )
    for key, token in tokenizer.special.items():
        if token.content not in vocabulary:
            raise ModelError(f"{name}: the {key} {token.content!a} is not in the vocabulary", expected="a known token")
    for number, token in config.added_tokens_decoder.items():
        if str(vocabulary.get(token.content)) != number:
            raise ModelError(
                f"{name}/tokenizer_config.json gives the token {token.content!a} the id {number!a}",
                expected="the id of the vocabulary",
            )


def _refuse_added(tokenizer: TokenizerFiles, added: frozenset[str] | set[str]) -> None:
    """A token of textual inversion would need its own embedding, and its own place when texts are split."""
    for token in sorted(added - {token.content for token in tokenizer.special.values()}):
        raise ModelError(
            f"{tokenizer.name} adds the token {token!a}",
            expected="start, end, unknown and padding tokens only",
            do="textual inversion is not supported: export without its tokens",
        )


def _check_sides(tokenizer: TokenizerFiles) -> None:
    """Transformers takes from tokenizer.json at which end a prompt is padded and cut; the gate does both on the right.

    Also where the class builds all else by itself.
    """
    for key in ("padding", "truncation"):
        stated = (tokenizer.json or {}).get(key)
        if stated is not None and not (isinstance(stated, dict) and stated.get("direction", "Right") == "Right"):
            raise ModelError(
                f"{tokenizer.name}/tokenizer.json: {key} is {str(stated)[:100]!a}",
                expected=f"{key} on the right, or null",
                do="save the pipeline again with its own tokenizer",
            )


def _check_template(tokenizer: TokenizerFiles) -> None:
    """Start and end token as CLIP has them; transformers takes this from tokenizer.json and the rest from its class."""
    template = (tokenizer.json or {}).get("post_processor")
    if template is None:
        return
    ends = {
        key: [tokenizer.special[name].content, tokenizer.vocabulary[tokenizer.special[name].content]]
        for key, name in (("cls", "bos_token"), ("sep", "eos_token"))
    }
    if not isinstance(template, dict) or {key: template.get(key) for key in ends} != ends:
        raise ModelError(
            f"{tokenizer.name}/tokenizer.json: the post_processor does not put the start and end token around a prompt",
            expected="a CLIP tokenizer as transformers saves it",
        )
