"""Token ids that a user can type: they come back when their text is tokenized again by the same tokenizer."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.protocols import PromptEncoder


def survives(prompts: PromptEncoder, ids: Sequence[int]) -> bool:
    """Whether these ids, and no others, are what the text of `ids` becomes; special ids never do."""
    return prompts.special_ids.isdisjoint(ids) and prompts.tokenize(prompts.decode(ids)) == tuple(ids)


def typeable_ids(prompts: PromptEncoder, *, ascii_only: bool = False) -> Int[Tensor, " choice"]:
    """Ids that survive alone and twice in a row, ascending. Raises MeasurementError where none does.

    Pieces that only stand inside a word do not survive alone; marks whose spacing a tokenizer tidies up, not twice.
    Control characters would come back, but nobody types them: only printable text counts.
    Worth keeping: it decodes and tokenizes the whole vocabulary, seconds for CLIP's.
    """
    found = [
        token
        for token in range(prompts.vocabulary)
        if survives(prompts, [token])
        and survives(prompts, [token, token])
        and _on_a_keyboard(prompts.decode([token]), ascii_only=ascii_only)
    ]
    if not found:
        raise MeasurementError(
            "no token of the vocabulary can be typed: none comes back from its own text",
            expected="a tokenizer that reads what it writes",
            do="check the checkpoint's tokenizer files",
        )
    return torch.tensor(found)


def _on_a_keyboard(text: str, *, ascii_only: bool) -> bool:
    return text.isprintable() and (text.isascii() or not ascii_only)


def as_typed(prompts: PromptEncoder, ids: Sequence[int]) -> tuple[int, ...] | None:
    """A string of fixed length as it would reach the model: its text first, free places last; None if it is no text.

    A free place holds the end-of-text id. It leaves no trace in the text, wherever it stood: what a search evaluates
    and what is reported are one and the same prompt. Written out, such a place would be special-token text.
    """
    text = [token for token in ids if token != prompts.end_id]
    if text and not survives(prompts, text):
        return None
    return (*text, *[prompts.end_id] * (len(ids) - len(text)))


def text_of(prompts: PromptEncoder, ids: Sequence[int]) -> str:
    """The prompt that a string stands for, free places left out."""
    text = [token for token in ids if token != prompts.end_id]
    return prompts.decode(text) if text else ""
