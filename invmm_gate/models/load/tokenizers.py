"""Tokenizers from files that were read and checked: the class is called, nothing is looked up by name or fetched."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from invmm_gate.core.errors import ModelError
from invmm_gate.models.networks import transformers
from invmm_gate.models.read.tokenizer_configs import Kind
from invmm_gate.models.read.tokenizer_files import TokenizerFiles
from invmm_gate.models.read.word_pieces import LONGEST_WORD


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
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    unknown, start, end = (files.special[key].content for key in ("unk_token", "cls_token", "sep_token"))
    pieces = models.WordPiece(vocab=dict(files.vocabulary), unk_token=unknown, max_input_chars_per_word=LONGEST_WORD)
    backend = Tokenizer(pieces)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start}:0 $A:0 {end}:0", special_tokens=[(token, files.vocabulary[token]) for token in (start, end)]
    )
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return library.PreTrainedTokenizerFast(tokenizer_object=backend, **_options(library, files))


def _options(library: Any, files: TokenizerFiles) -> dict[str, Any]:
    """Tidied spaces would change prompts that were found: `. .` would come back as `..`, which is another token."""
    tokens = {key: library.AddedToken(**token.model_dump()) for key, token in files.special.items()}
    limit = {} if files.max_length is None else {"model_max_length": files.max_length}
    return {**tokens, **limit, "clean_up_tokenization_spaces": False}


_BUILDERS: Final[dict[Kind, Callable[[Any, TokenizerFiles], Any]]] = {"clip": _clip, "t5": _t5, "bert": _bert}
