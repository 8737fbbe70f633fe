"""BERT's `tokenizer.json`: everything in it must be what `BertTokenizer` does by itself.

Versions of transformers differ in what they take from the file and what from the class; so nothing is left to differ.
"""

from collections.abc import Mapping
from typing import Final

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
