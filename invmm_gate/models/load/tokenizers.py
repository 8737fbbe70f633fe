"""Tokenizers from files that were read and checked, and what a pipeline's tokenizers make of texts."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from invmm_gate.core.errors import ModelError
from invmm_gate.models.networks import transformers
from invmm_gate.models.read.tokenizer_config import Kind
from invmm_gate.models.read.tokenizer_files import TokenizerFiles
from invmm_gate.models.read.tokenizer_json import word_pieces


def build_tokenizer(files: TokenizerFiles) -> Any:
    """A transformers tokenizer. Raises ModelError for a vocabulary that the library cannot use."""
    library = transformers()
    try:
        return _BUILDERS[files.kind](library, files)
    except Exception as error:  # the tokenizers' Rust code raises bare Exceptions
        raise ModelError(
            f"{files.name} cannot be built: {str(error)[:200]}", expected="the tokenizer that diffusers saved"
        ) from error


def _clip(library: Any, files: TokenizerFiles) -> Any:
    """From a private folder: transformers 4 reads the vocabulary from files alone."""
    with tempfile.TemporaryDirectory(prefix="invmm-gate-") as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps(files.vocabulary), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in files.merges), ""]
        merges.write_bytes("\n".join(lines).encode())
        return library.CLIPTokenizer(str(vocabulary), str(merges), **_options(library, files))


def _t5(library: Any, files: TokenizerFiles) -> Any:
    """`tokenizer.json` is all that T5's fast tokenizer is; the class around it adds nothing to ids or texts."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(json.dumps(files.json))
    return library.PreTrainedTokenizerFast(tokenizer_object=backend, **_options(library, files))


def _bert(library: Any, files: TokenizerFiles) -> Any:
    """From the vocabulary alone: inspection made sure that all else is what `BertTokenizer` does."""
    backend = word_pieces(files.vocabulary, files.special)
    return library.PreTrainedTokenizerFast(tokenizer_object=backend, **_options(library, files))


def _options(library: Any, files: TokenizerFiles) -> dict[str, Any]:
    """Tidied spaces would change prompts that were found: `. .` would come back as `..`, which is another token."""
    tokens = {key: library.AddedToken(**token.model_dump()) for key, token in files.special.items()}
    limit = {} if files.max_length is None else {"model_max_length": files.max_length}
    return {**tokens, **limit, "clean_up_tokenization_spaces": False}


_BUILDERS: Final[dict[Kind, Callable[[Any, TokenizerFiles], Any]]] = {"clip": _clip, "t5": _t5, "bert": _bert}


_MOST_TOKENS: Final = 256
"""Tokens of one text, where the tokenizer has no limit: as many as StableDiffusion3Pipeline gives T5."""


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
