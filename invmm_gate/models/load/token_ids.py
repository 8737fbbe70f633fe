"""What a pipeline's tokenizers make of texts: captions that are read as other tokens are other prompts."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

_MOST_TOKENS: Final = 256
"""Of one text, where the tokenizer has no limit: as many as StableDiffusion3Pipeline gives T5."""


def token_ids_of(pipeline: Any, texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each tokenizer of a pipeline a digest of each text's ids, padded and cut as the pipeline does it.

    One text at a time: a tokenizer would take threads for several, which a forked process has none of.
    """
    parts = {name: part for name, part in sorted(pipeline.components.items()) if name.startswith("tokenizer")}
    return {
        name: tuple(_digest(_ids(part, text)) for text in texts) for name, part in parts.items() if part is not None
    }


def read_otherwise(
    ours: Mapping[str, Sequence[str]], theirs: Mapping[str, Sequence[str]], texts: Sequence[str]
) -> list[str]:
    """One sentence for each tokenizer that does not read every text as the other side's does; a caption is private."""
    said = []
    for name in sorted(ours.keys() | theirs.keys()):
        mine, other = tuple(ours.get(name, ())), tuple(theirs.get(name, ()))
        if len(mine) != len(texts) or len(other) != len(texts):
            said.append(f"{name} reads {len(mine)} of {len(texts)} captions here and {len(other)} there")
        elif different := sum(one != two for one, two in zip(mine, other, strict=True)):
            said.append(f"{name} reads {different} of {len(texts)} captions as other tokens")
    return said


def _ids(tokenizer: Any, text: str) -> list[int]:
    length = min(tokenizer.model_max_length, _MOST_TOKENS)
    ids: list[int] = tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
    return ids


def _digest(ids: Sequence[int]) -> str:
    return hashlib.sha256(repr(list(ids)).encode()).hexdigest()[:32]
