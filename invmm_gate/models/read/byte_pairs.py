"""CLIP's `tokenizer.json`: everything in it must be what `CLIPTokenizer` does by itself.

Versions of transformers differ in what they take from the file and what from the class; so nothing is left to differ.
"""

from collections.abc import Mapping
from typing import Any, Final

from invmm_gate.core.errors import ModelError

_NORMALIZER: Final = {
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
    if content.get("normalizer") != _NORMALIZER:
        raise _other(name, "normalizer", content.get("normalizer"), _NORMALIZER)
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
