"""A tokenizer's files: its vocabulary, its special tokens and its limit, read before torch is imported.

A folder may hold the same vocabulary twice (`tokenizer.json`, and `vocab.json` with `merges.txt`), and versions of
transformers differ in which they read: they must agree. The SentencePiece file of a T5 tokenizer is never read, since
`tokenizer.json` beside it says the same.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.checkpoint_files import MAX_JSON_BYTES, CheckpointFiles
from invmm_gate.models.read.tokenizer_config import DEFAULTS, KINDS, Kind, SpecialToken, TokenizerConfig, read_config
from invmm_gate.models.read.tokenizer_json import check_as_class, read_tokenizer_json
from invmm_gate.models.read.weight_files import read_json

MAX_TOKENS: Final = 1_000_000
_VOCABULARIES: Final[dict[Kind, str]] = {"clip": "vocab.json", "bert": "vocab.txt"}


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
    """`tokenizer.json` of a T5 tokenizer, which is all of it."""

    @property
    def end_id(self) -> int:
        """Id of the end-of-text token; BERT calls it the separator."""
        return self.vocabulary[self.special["sep_token" if self.kind == "bert" else "eos_token"].content]


def read_tokenizer(files: CheckpointFiles, name: str, stated: str) -> TokenizerFiles:
    """The tokenizer in folder `name`, of the class that the pipeline states. Raises ModelError naming the file."""
    kind, path = KINDS[stated], f"{name}/tokenizer.json"
    config, extra = read_config(files, name, kind)
    read = read_tokenizer_json(files, path, kind)
    if kind == "t5" and read is None:
        raise ModelError(
            f"{name!r} has no tokenizer.json",
            expected="a T5 tokenizer with tokenizer.json; spiece.model is not read",
            do="save the pipeline with T5TokenizerFast",
        )
    listed = _ids_in(files, f"{name}/added_tokens.json") or {}
    embedded = {token["content"]: token["id"] for token in read["added_tokens"]} if read else {}
    vocabulary = _vocabulary(files, name, kind, listed, _of_model(read, embedded))
    special = _special(config, kind, name, vocabulary)
    found = {*listed, *embedded}
    if kind == "t5":  # tokenizer.json is all that it is made of, and finds its own added tokens in a text
        added = extra - found
    else:
        added = extra | found | {token.content for token in config.added_tokens_decoder.values()}
    _refuse_added(name, added - {token.content for token in special.values()})
    if read is not None and kind != "t5":
        check_as_class(read, path, kind, vocabulary, special)
    limit = config.model_max_length
    return TokenizerFiles(
        name=name,
        kind=kind,
        vocabulary=vocabulary,
        special=special,
        max_length=int(limit) if limit is not None and limit < 2**31 else None,
        merges=_merges(files, name, read) if kind == "clip" else (),
        json=read_json(files, path) if kind == "t5" else None,
    )


def _of_model(read: Mapping[str, Any] | None, added: Mapping[str, int]) -> dict[str, int] | None:
    """Token -> id of tokenizer.json. Unigram lists tokens in order, the others map them to ids."""
    if read is None:
        return None
    ids = read["model"]["vocab"]
    if isinstance(ids, list):
        ids = {token: number for number, (token, _) in enumerate(ids)}
    return {**ids, **added}


def _vocabulary(
    files: CheckpointFiles, name: str, kind: Kind, listed: Mapping[str, int], embedded: dict[str, int] | None
) -> dict[str, int]:
    """Token -> id, ids from 0 without a gap or a repetition. Raises ModelError unless both places say the same."""
    own = _VOCABULARIES.get(kind, "")
    stated = _ids_in(files, f"{name}/{own}")
    if stated is not None:
        stated = {**stated, **listed}
    if stated is not None and embedded is not None and stated != embedded:
        raise ModelError(f"{name}: {own} and tokenizer.json disagree", expected="one vocabulary", do="save again")
    vocabulary = stated or embedded
    if not vocabulary:
        raise ModelError(f"component {name!r} has no vocabulary", expected=f"tokenizer.json or {own}")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ModelError(f"{name}: the token ids leave gaps or repeat", expected=f"0 to {len(vocabulary) - 1}")
    return vocabulary


def _ids_in(files: CheckpointFiles, path: str) -> dict[str, int] | None:
    """Token -> id in a JSON file, or one token a line, the first with id 0; None where there is no file."""
    if path not in files:
        return None
    ids: dict[str, Any] = read_json(files, path) if path.endswith(".json") else _numbered(files, path)
    if not 0 < len(ids) <= MAX_TOKENS or not all(type(number) is int for number in ids.values()):
        raise ModelError(f"{path!r} does not map tokens to ids", expected=f"1 to {MAX_TOKENS:,} tokens")
    return ids


def _numbered(files: CheckpointFiles, path: str) -> dict[str, int]:
    """Libraries disagree about blanks around a token: none may have them."""
    tokens = _lines(files, path)
    if tokens[-1] == "":
        tokens.pop()
    for number, token in enumerate(tokens, start=1):
        if token.split() != [token]:
            raise ModelError(f"{path!r}: line {number} is {token[:60]!a}", expected="one token without blanks")
    if len(set(tokens)) != len(tokens):
        raise ModelError(f"{path!r} holds a token twice", expected="one line for each token", do="save again")
    return {token: number for number, token in enumerate(tokens)}


def _merges(files: CheckpointFiles, name: str, read: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """One merge a line, after a line with the version. Raises ModelError unless both places say the same."""
    path = f"{name}/merges.txt"
    embedded = None if read is None else tuple((left, right) for left, right in read["model"]["merges"])
    if path not in files:
        if embedded is None:
            raise ModelError(f"component {name!r} has no {path}", expected="the merges of its vocabulary")
        return embedded
    lines = _lines(files, path)
    pairs = [line.split(" ") for line in lines[lines[0].startswith("#version") :] if line.strip()]
    for parts in pairs:
        if len(parts) != 2 or not all(parts):
            raise ModelError(f"{path!r}: {str(parts)[:60]!a} is no merge", expected="two tokens")
    merges = tuple((left, right) for left, right in pairs)
    if embedded not in (None, merges):
        raise ModelError(f"{name}: merges.txt and tokenizer.json disagree", expected="one list", do="save again")
    return merges


def _lines(files: CheckpointFiles, path: str) -> list[str]:
    if files.files[path].size > MAX_JSON_BYTES:
        raise ModelError(f"{path!r} is larger than {MAX_JSON_BYTES:,} bytes", expected="a tokenizer's file")
    return files.read(path).decode("utf-8").split("\n")


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


def _refuse_added(name: str, added: Set[str]) -> None:
    """A token of textual inversion would need its own embedding, and its own place when texts are split."""
    for token in sorted(added):
        raise ModelError(
            f"{name} adds the token {token!a}",
            expected="start, end, unknown and padding tokens only",
            do="textual inversion is not supported: export without its tokens",
        )
