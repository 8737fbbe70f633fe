"""The vocabulary of a tokenizer and how it splits texts, from `tokenizer.json` or from older files beside it.

The `tokenizers` library reads `tokenizer.json`. Of BERT and CLIP it must be what the class does by itself: versions of
transformers differ in what they take from the file and what from the class; so nothing is left to differ. The library
passes over keys that it does not know, over merges that come twice and ids that do not count: such a file is refused.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.checkpoint_files import MAX_JSON_BYTES, CheckpointFiles
from invmm_gate.models.read.pipelines import TOKENIZERS, Kind
from invmm_gate.models.read.weight_files import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Special = Mapping[str, Mapping[str, Any]]
"""`cls_token` and others -> the token's keys, as `tokenizers` has them."""
MAX_TOKENS: Final = 1_000_000
_VOCABULARIES: Final[dict[Kind, str]] = {"clip": "vocab.json", "bert": "vocab.txt", "qwen2": "vocab.json"}
_MODELS: Final[dict[Kind, str]] = {
    "clip": "BPE", "t5": "Unigram", "bert": "WordPiece", "qwen2": "BPE", "gemma": "BPE", "llama": "BPE",
}  # fmt: skip
_READ: Final = frozenset({"added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model"})
_IDLE: Final = frozenset({"type", "pair", "trim_offsets", "add_prefix_space", "use_regex"})
"""Keys of a post-processor that change no token of one prompt beside those of its template."""
_LONGEST_WORD: Final = 100
"""Letters; a longer word is unknown to BERT."""
_WORDS: Final = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_WORDS_OF_QWEN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL_WORDS: Final = r"<\|startoftext\|>|<\|endoftext\|>|"
"""In front of CLIP's words as OpenAI has them, not as transformers 4 does: special tokens are found before."""


def read_tokenizer_json(files: CheckpointFiles, path: str, kind: Kind) -> dict[str, Any] | None:
    """What the library reads of the file; None where there is no file. Raises ModelError for any other tokenizer."""
    if path not in files:
        return None
    content = read_json(files, path)
    with library(path) as tokenizers:
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    _check_ids(tokenizer.get_vocab(), path)  # the library would write out every id up to the largest, billions too
    read: dict[str, Any] = json.loads(tokenizer.to_str())
    if read["model"]["type"] != _MODELS[kind]:
        raise ModelError(f"{path!r} holds a {read['model']['type']} model", expected=f"a {_MODELS[kind]} model")
    for part in ("padding", "truncation"):  # transformers obeys the file, also where the class builds all else
        if (read[part] or {}).get("direction", "Right") != "Right":
            raise _other(path, f"{part} is {str(read[part])[:100]!a}", f"{part} on the right, or null")
    for part in content.keys() & (_READ if kind != "t5" else {"added_tokens"}):  # older files of T5 have keys that went
        if _hides(_as_written(part, content[part]), _as_written(part, read[part])):
            raise _other(path, f"the {part} says more than the library reads", "a file as tokenizers saves it")
    return read


@contextmanager
def library(path: str) -> Iterator[Any]:
    """The library; whatever it raises for the file becomes a ModelError."""
    try:
        import tokenizers

        yield tokenizers
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # its Rust code raises bare Exceptions, and panics, which are none
        raise ModelError(
            f"{path!r} cannot be read: {str(error)[:200]}", expected="a tokenizer as tokenizers saves it"
        ) from error


def _as_written(part: str, value: Any) -> Any:
    """Added tokens in the order of their ids; merges as pairs, as older files hold texts with a blank between."""
    if part == "added_tokens":
        return sorted(value, key=lambda token: token["id"])
    if part == "model" and "merges" in value:
        return {**value, "merges": [pair.split(" ") if isinstance(pair, str) else pair for pair in value["merges"]]}
    return value


def _hides(stated: object, read: object) -> bool:
    """Whether the file states anything that was not read, or was read as something else."""
    if stated == read:
        return False
    if isinstance(stated, dict) and isinstance(read, dict):
        return any(key not in read or _hides(value, read[key]) for key, value in stated.items())
    if isinstance(stated, list) and isinstance(read, list) and len(stated) == len(read):
        return any(map(_hides, stated, read))
    return True


def word_pieces(vocabulary: Mapping[str, int], special: Special) -> "Tokenizer":
    """What an uncased `BertTokenizer` is."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    unknown, start, end = (special[key]["content"] for key in ("unk_token", "cls_token", "sep_token"))
    pieces = models.WordPiece(vocab=dict(vocabulary), unk_token=unknown, max_input_chars_per_word=_LONGEST_WORD)
    tokenizer = Tokenizer(pieces)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}:0 $A:0 {end}:0", special_tokens=[(token, vocabulary[token]) for token in (start, end)]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return tokenizer


def _byte_pairs(vocabulary: Mapping[str, int], special: Special, words: str) -> "Tokenizer":
    """What `CLIPTokenizer` is, without its vocabulary."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    start, end = ((special[key]["content"], vocabulary[special[key]["content"]]) for key in ("bos_token", "eos_token"))
    tokenizer = Tokenizer(models.BPE(vocab={}, merges=[], end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(words), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.post_processor = processors.RobertaProcessing(end, start)
    return tokenizer


def _bytes_in_pairs() -> "Tokenizer":
    """What `Qwen2Tokenizer` is, without its vocabulary."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.BPE(vocab={}, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS_OF_QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _pieces_or_bytes(vocabulary: Mapping[str, int], special: Special) -> "Tokenizer":
    """What `GemmaTokenizer` is, without its vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    unknown, start = (special[key]["content"] for key in ("unk_token", "bos_token"))
    tokenizer = Tokenizer(models.BPE(vocab={}, merges=[], unk_token=unknown, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}:0 $A:0", special_tokens=[(start, vocabulary[start])]
    )
    return tokenizer


def check_as_class(
    read: Mapping[str, Any], path: str, kind: Kind, vocabulary: Mapping[str, int], special: Special
) -> None:
    """Raises ModelError, naming the first part of a tokenizer, not T5's, that reads texts in another way."""
    with library(path):
        if kind == "bert":
            own = json.loads(word_pieces(vocabulary, special).to_str())
        elif kind == "qwen2":
            own = json.loads(_bytes_in_pairs().to_str())
            if _adds_nothing(read["post_processor"]):
                read = {**read, "post_processor": own["post_processor"]}
        elif kind == "gemma":
            own = json.loads(_pieces_or_bytes(vocabulary, special).to_str())
            # It splits at blanks, of which the normalizer leaves none.
            read = {**read, "pre_tokenizer": read["pre_tokenizer"] or own["pre_tokenizer"]}
        else:
            words = (_SPECIAL_WORDS if "startoftext" in str(read["pre_tokenizer"]) else "") + _WORDS
            own = json.loads(_byte_pairs(vocabulary, special, words).to_str())
            own["model"]["unk_token"] = read["model"]["unk_token"]  # no byte is unknown
            read = {**read, "post_processor": read["post_processor"] or own["post_processor"]}
    found, known = _parts(read, kind), [*special.values()]
    pairs = [(part, found.get(part), expected) for part, expected in _parts(own, kind).items()]
    if kind == "bert":
        tokens = [{key: value for key, value in token.items() if key != "id"} for token in read["added_tokens"]]
        pairs += [("an added token", token, known) for token in tokens if token not in known]
    for part, stated, expected in pairs:
        if stated != expected:
            own_part = f"that of {TOKENIZERS[kind][0]}, {str(expected)[:200]}"
            raise _other(path, f"{part} is {str(stated)[:100]!a}", own_part)


_BLANKS: Final = ({"String": " "}, {"Regex": " {2,}"})


_LETTERS: Final = tuple(map(chr, range(33, 127)))


def check_pieces(read: Mapping[str, Any], path: str) -> None:
    """Raises ModelError for a T5 tokenizer that changes more of a text than its characters' forms and its blanks.

    transformers 5 takes the map of characters alone from the file, transformers 4 all of it: nothing else may differ.
    The map leaves what stands on every keyboard: a search types that, and reads pieces of the vocabulary as texts.
    """
    for part, inner, known in (("normalizer", "normalizers", _kept), ("pre_tokenizer", "pretokenizers", _splits)):
        stated = read[part] or {"type": "Sequence", inner: []}
        for step in stated[inner] if stated["type"] == "Sequence" else [stated]:
            if not known(step):
                raise _other(path, f"the {part} has {str(step)[:100]!a}", "the steps of T5's published tokenizers")
    with library(path) as tokenizers:
        normalizer = tokenizers.Tokenizer.from_str(json.dumps(read)).normalizer
        changed = [each for each in _LETTERS if normalizer is not None and normalizer.normalize_str(each) != each]
    if changed:
        raise _other(path, f"the normalizer reads {changed[0]!a} as another letter", "a map that leaves ASCII as it is")


def _kept(step: Mapping[str, Any]) -> bool:
    """Whether a step of a normalizer leaves the letters of a text."""
    if step["type"] == "Replace":
        return step["pattern"] in _BLANKS and step["content"] in ("\u2581", " ")
    return step["type"] in ("Precompiled", "Strip")


def _splits(step: Mapping[str, Any]) -> bool:
    """Whether a step before the model splits a text at its blanks."""
    return bool(step["type"] == "WhitespaceSplit" or (step["type"] == "Metaspace" and step["replacement"] == "\u2581"))


def _adds_nothing(ends: Mapping[str, Any] | None) -> bool:
    """Whether a post-processor puts no token around one prompt."""
    if ends is None or ends["type"] == "ByteLevel":
        return True
    return bool(ends["type"] == "TemplateProcessing" and [*map(list, ends["single"])] == [["Sequence"]])


def _other(path: str, what: str, expected: str) -> ModelError:
    return ModelError(
        f"{path}: {what}", expected=expected, do="save the pipeline again with transformers' own tokenizer"
    )


def _parts(read: Mapping[str, Any], kind: Kind) -> dict[str, object]:
    """Whatever has an effect on the tokens of one prompt, beside the vocabulary."""
    # CLIP's words are split already; Qwen's may hold signs, at which ByteLevel would split them again.
    idle = ("trim_offsets",) if kind == "qwen2" else ("trim_offsets", "use_regex")
    for step in (read["pre_tokenizer"] or {}).get("pretokenizers", ()):
        step.update((key, True) for key in idle if key in step)
    ends, model = read["post_processor"] or {}, read["model"]
    return {
        "the normalizer": read["normalizer"],
        "the pre_tokenizer": read["pre_tokenizer"],
        "the post_processor": {key: value for key, value in ends.items() if key not in _IDLE},
        **{f"the model's {key}": model[key] or None for key in model if key not in ("vocab", "merges")},
    }


def ids_of(read: Mapping[str, Any] | None, added: Mapping[str, int]) -> dict[str, int] | None:
    """Token -> id of tokenizer.json. Unigram lists tokens in order, the others map them to ids."""
    if read is None:
        return None
    ids = read["model"]["vocab"]
    if isinstance(ids, list):
        ids = {token: number for number, (token, _) in enumerate(ids)}
    return {**ids, **added}


def read_vocabulary(
    files: CheckpointFiles, name: str, kind: Kind, listed: Mapping[str, int], embedded: dict[str, int] | None
) -> dict[str, int]:
    """Token -> id, ids from 0 without a gap or a repetition. Raises ModelError unless both places say the same."""
    own = _VOCABULARIES.get(kind, "")
    stated = ids_in(files, f"{name}/{own}")
    if stated is not None:
        stated = {**stated, **listed}
    if stated is not None and embedded is not None and stated != embedded:
        raise ModelError(f"{name}: {own} and tokenizer.json disagree", expected="one vocabulary", do="save again")
    vocabulary = stated or embedded
    if not vocabulary:
        raise ModelError(f"component {name!r} has no vocabulary", expected=f"tokenizer.json or {own}")
    _check_ids(vocabulary, name)
    return vocabulary


def _check_ids(vocabulary: Mapping[str, int], name: str) -> None:
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ModelError(f"{name}: the token ids leave gaps or repeat", expected=f"0 to {len(vocabulary) - 1}")


def ids_in(files: CheckpointFiles, path: str) -> dict[str, int] | None:
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


def read_merges(files: CheckpointFiles, name: str, read: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
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
