"""The vocabulary and the byte-pair merges of a tokenizer, from either of the two places that may hold them."""

from collections.abc import Mapping
from typing import Any, Final

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.checkpoint_files import MAX_JSON_BYTES, CheckpointFiles
from invmm_gate.models.read.weight_files import read_json

MAX_TOKENS: Final = 1_000_000
_FILES: Final = {"clip": "vocab.json", "bert": "vocab.txt"}
_PLACES: Final = {
    "clip": "tokenizer.json, or vocab.json with merges.txt",
    "t5": "tokenizer.json",
    "bert": "tokenizer.json or vocab.txt",
}
_MODELS: Final[dict[str, tuple[str, type]]] = {
    "clip": ("BPE", dict), "t5": ("Unigram", list), "bert": ("WordPiece", dict)
}  # fmt: skip
"""Model of tokenizer.json, and how it holds the vocabulary."""


def vocabulary_of(
    files: CheckpointFiles, name: str, *, kind: str, content: Mapping[str, object] | None
) -> dict[str, int]:
    """Token -> id, ids from 0 without a gap or a repetition. Raises ModelError for anything else.

    `content` is tokenizer.json, or None. Where vocab.json or, for BERT, vocab.txt is there too, both must say the same.
    """
    stated = _stated(files, name, kind=kind)
    embedded = None if content is None else _embedded(content, name, kind=kind)
    if stated is None and embedded is None:
        raise ModelError(f"component {name!r} has no vocabulary", expected=_PLACES[kind])
    if stated is not None and embedded is not None and _with_added(stated, files, name) != embedded:
        raise ModelError(
            f"{name}: {_FILES[kind]} and tokenizer.json disagree", expected="one vocabulary", do="save again"
        )
    vocabulary = embedded if embedded is not None else _with_added(stated or {}, files, name)
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ModelError(f"{name}: the token ids leave gaps or repeat", expected=f"0 to {len(vocabulary) - 1}")
    return vocabulary


def merges_of(
    files: CheckpointFiles, name: str, *, content: Mapping[str, object] | None
) -> tuple[tuple[str, str], ...]:
    """Pairs of tokens, first come first. Raises ModelError unless both places that hold them agree."""
    path = f"{name}/merges.txt"
    stated = _merges_text(files, path) if path in files else None
    embedded = None if content is None else _merges_json(_model(content, name).get("merges"), name)
    if stated is None and embedded is None:
        raise ModelError(f"component {name!r} has no {path}", expected="the merges of its vocabulary")
    if stated is not None and embedded is not None and stated != embedded:
        raise ModelError(f"{name}: merges.txt and tokenizer.json disagree", expected="one list", do="save again")
    return stated if stated is not None else embedded or ()


def added_tokens(files: CheckpointFiles, name: str, *, content: Mapping[str, object] | None) -> frozenset[str]:
    """Tokens that are found in a text before it is split into words."""
    path = f"{name}/added_tokens.json"
    listed = read_json(files, path).keys() if path in files else ()
    embedded = () if content is None else _added(content, f"{name}/tokenizer.json").keys()
    return frozenset((*listed, *embedded))


def _stated(files: CheckpointFiles, name: str, *, kind: str) -> dict[str, int] | None:
    """The vocabulary in a file of its own; None where there is none."""
    path = f"{name}/{_FILES[kind]}" if kind in _FILES else None
    if path is None or path not in files:
        return None
    return _numbers(read_json(files, path), path) if kind == "clip" else _numbers(_numbered(files, path), path)


def _numbered(files: CheckpointFiles, path: str) -> dict[str, int]:
    """One token a line, the first with id 0. Libraries disagree about blanks around a token: none may have them."""
    tokens = _lines(files, path)
    if tokens[-1] == "":
        tokens.pop()
    for number, token in enumerate(tokens, start=1):
        if token.split() != [token]:
            raise ModelError(f"{path!r}: line {number} is {token[:60]!a}", expected="one token without blanks")
    if len(set(tokens)) != len(tokens):
        raise ModelError(f"{path!r} holds a token twice", expected="one line for each token", do="save again")
    return {token: number for number, token in enumerate(tokens)}


def _lines(files: CheckpointFiles, path: str) -> list[str]:
    if files.files[path].size > MAX_JSON_BYTES:
        raise ModelError(f"{path!r} is larger than {MAX_JSON_BYTES:,} bytes", expected="a tokenizer's file")
    try:
        return files.read(path).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path!r} is not UTF-8: {error}", expected="a tokenizer's file") from error


def _with_added(vocabulary: dict[str, int], files: CheckpointFiles, name: str) -> dict[str, int]:
    path = f"{name}/added_tokens.json"
    return {**vocabulary, **_numbers(read_json(files, path), path)} if path in files else vocabulary


def _numbers(value: Mapping[str, Any], path: str) -> dict[str, int]:
    if not 0 < len(value) <= MAX_TOKENS or not all(type(number) is int for number in value.values()):
        raise ModelError(f"{path!r} does not map tokens to ids", expected=f"1 to {MAX_TOKENS:,} tokens")
    return dict(value)


def _model(content: Mapping[str, object], name: str) -> dict[str, Any]:
    model = content.get("model")
    if not isinstance(model, dict):
        raise ModelError(f"{name}/tokenizer.json has no 'model'", expected="a file as tokenizers saves it")
    return model


def _embedded(content: Mapping[str, object], name: str, *, kind: str) -> dict[str, int]:
    """The model's vocabulary and the added tokens. Unigram lists tokens in order, the others map them to ids."""
    path, model = f"{name}/tokenizer.json", _model(content, name)
    wanted, form = _MODELS[kind]
    if model.get("type") != wanted or not isinstance(model.get("vocab"), form):
        raise ModelError(f"{path!r} holds a {str(model.get('type'))!a} model", expected=f"a {wanted} model")
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        vocabulary = {_first(entry, path): number for number, entry in enumerate(vocabulary)}
    return _numbers({**vocabulary, **_added(content, path)}, path)


def _added(content: Mapping[str, object], path: str) -> dict[str, object]:
    entries = content.get("added_tokens") or []
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("content"), str) for entry in entries
    ):
        raise ModelError(f"{path!r}: added_tokens is no list of tokens", expected="a file as tokenizers saves it")
    return {entry["content"]: entry.get("id") for entry in entries}


def _first(entry: object, path: str) -> str:
    """The token of a Unigram entry: [token, score]."""
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
        raise ModelError(f"{path!r}: the vocabulary holds {str(entry)[:60]!a}", expected="pairs of token and score")
    return entry[0]


def _merges_text(files: CheckpointFiles, path: str) -> tuple[tuple[str, str], ...]:
    """One merge a line, after a line with the version."""
    lines = _lines(files, path)
    start = 1 if lines[0].startswith("#version") else 0
    return tuple(_pair(line.split(" "), path) for line in lines[start:] if line.strip())


def _merges_json(value: object, name: str) -> tuple[tuple[str, str], ...]:
    """Lists of two tokens, or, in older files, texts with a blank between them."""
    path = f"{name}/tokenizer.json"
    if not isinstance(value, list):
        raise ModelError(f"{path!r} has no merges", expected="a BPE tokenizer")
    return tuple(_pair(entry.split(" ") if isinstance(entry, str) else entry, path) for entry in value)


def _pair(parts: object, path: str) -> tuple[str, str]:
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise ModelError(f"{path!r}: {str(parts)[:60]!a} is no merge", expected="two tokens")
    return parts[0], parts[1]
