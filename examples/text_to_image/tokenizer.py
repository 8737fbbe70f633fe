"""A byte-pair tokenizer in CLIP's own layout, its merges learned from captions.

Ids are 256 bytes, the 256 bytes that end a word (`</w>`), one id a merge, `<|startoftext|>`, `<|endoftext|>`: so any
text can be written, and every word that the captions use often is one token.
"""

import json
from collections.abc import Iterable
from typing import Final

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MODEL_MAX_LENGTH: Final = 16
_WORDS: Final = r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def new_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """A `CLIPTokenizer` for at most 14 tokens of text between start and end."""
    merges = _merges(captions)
    alphabet = _byte_letters()
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MODEL_MAX_LENGTH)


def _merges(captions: Iterable[str]) -> list[tuple[str, str]]:
    """Every merge that captions pay for, most frequent first; learned by the `tokenizers` package."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2_000, min_frequency=2, end_of_word_suffix="</w>", show_progress=False, special_tokens=[]
    )
    learner.train_from_iterator(captions, trainer)
    return [(first, second) for first, second in json.loads(learner.to_str())["model"]["merges"]]


def _byte_letters() -> list[str]:
    """A printable letter for each byte, in CLIP's order: the printable bytes as they are, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + place) for place in range(len(others)))]
