"""`tokenizer.json` of BERT and CLIP: everything in it must be what the tokenizer's class does by itself.

Versions of transformers differ in what they take from the file and what from the class; so nothing is left to differ.
"""

from collections.abc import Mapping
from typing import Any, Final

from invmm_gate.core.errors import ModelError
from invmm_gate.models.read.tokenizer_configs import SpecialToken

LONGEST_WORD: Final = 100
"""Letters; a longer word is unknown."""
_NORMALIZER: Final = {
    "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
    "lowercase": True,
}  # fmt: skip


def check_word_pieces(
    content: Mapping[str, object], name: str, *, vocabulary: Mapping[str, int], special: Mapping[str, SpecialToken]
) -> None:
    """Raises ModelError, naming the first part that reads texts in another way."""
    start, end = special["cls_token"].content, special["sep_token"].content
    template = {
        "type": "TemplateProcessing",
        "single": [_placed(start), {"Sequence": {"id": "A", "type_id": 0}}, _placed(end)],
        "special_tokens": {
            token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]} for token in (start, end)
        },
    }
    model = {
        "type": "WordPiece",
        "unk_token": special["unk_token"].content,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": LONGEST_WORD,
    }
    _compare(content.get("normalizer"), _NORMALIZER, f"{name}/tokenizer.json: the normalizer")
    _compare(content.get("pre_tokenizer"), {"type": "BertPreTokenizer"}, f"{name}/tokenizer.json: the pre_tokenizer")
    _compare(_without(content.get("post_processor"), "pair"), template, f"{name}/tokenizer.json: the post_processor")
    _compare(_without(content.get("model"), "vocab"), model, f"{name}/tokenizer.json: the model")
    known = [token.model_dump() for token in special.values()]
    entries = content.get("added_tokens")
    for entry in entries if isinstance(entries, list) else ():
        if _without(entry, "id") not in known:
            _compare(entry, "a special token", f"{name}/tokenizer.json: an added token")


def _placed(token: str) -> dict[str, object]:
    return {"SpecialToken": {"id": token, "type_id": 0}}


def _without(value: object, key: str) -> object:
    return {name: item for name, item in value.items() if name != key} if isinstance(value, dict) else value


def _compare(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise ModelError(
            f"{what} is {str(found)[:100]!a}",
            expected=f"that of an uncased BertTokenizer, {str(expected)[:160]}",
            do="save the pipeline again with transformers' own BertTokenizer",
        )


_CLIP_NORMALIZER: Final = {
    "type": "Sequence",
    "normalizers": [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ],
}
_WORDS: Final = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SPLITS: Final = tuple(
    {"type": "Split", "pattern": {"Regex": start + _WORDS}, "behavior": "Removed", "invert": True}
    for start in ("", r"<\|startoftext\|>|<\|endoftext\|>|")
)
"""With the special tokens, as OpenAI has it, and without, as transformers 4 converts it: they are found before."""
_MODEL: Final[dict[str, tuple[object, ...]]] = {
    "dropout": (None, 0, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": ("</w>",),
    "fuse_unk": (None, False),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}


def check_byte_pairs(content: Mapping[str, object], name: str) -> None:
    """Raises ModelError, naming the first part that reads texts in another way."""
    if content.get("normalizer") != _CLIP_NORMALIZER:
        raise _other(name, "normalizer", content.get("normalizer"), _CLIP_NORMALIZER)
    found = content.get("pre_tokenizer")
    steps: Any = found.get("pretokenizers") if isinstance(found, dict) else None
    if not (isinstance(steps, list) and len(steps) == 2 and steps[0] in _SPLITS and _of_bytes(steps[1])):
        raise _other(name, "pre_tokenizer", found, "the words of CLIP, then their bytes")
    model: Any = content["model"]  # its vocabulary was read before
    for key, allowed in _MODEL.items():
        if model.get(key, allowed[0]) not in allowed:
            raise _other(name, f"model's {key}", model.get(key), allowed[0])


def _of_bytes(step: object) -> bool:
    return isinstance(step, dict) and step.get("type") == "ByteLevel" and step.get("add_prefix_space") is False


def _other(name: str, part: str, found: object, expected: object) -> ModelError:
    return ModelError(
        f"{name}/tokenizer.json: the {part} is {str(found)[:100]!a}",
        expected=f"that of CLIPTokenizer, {str(expected)[:200]}",
        do="save the pipeline again with transformers' own CLIPTokenizer",
    )
