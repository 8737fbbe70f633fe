"""What can be typed: ids whose text, tokenized again, gives the same ids."""

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import CLIPTokenizer

from invmm_gate.confirm.prompt_objective import as_typed, survives, text_of, typeable_ids
from invmm_gate.core.errors import MeasurementError
from tests.clip_merges import CAPTIONS, merges_of_clip
from tests.confirm.text_world import WORDS, BytePairPrompts, TextMixture, tokenizer_of, word_merges

SMALL = BytePairPrompts(tokenizer_of(word_merges()), torch.zeros(1000, 1))
ALLOWED = typeable_ids(SMALL).tolist()


@pytest.fixture(scope="module", params=["the example's", "CLIP's"])
def learned(request: pytest.FixtureRequest, root: Path) -> BytePairPrompts:
    """A vocabulary that was learned from captions."""
    if request.param == "CLIP's":
        return BytePairPrompts(tokenizer_of(merges_of_clip()), torch.zeros(1, 1))
    tokenizer = CLIPTokenizer.from_pretrained(root / "examples/text_to_image/model/tokenizer")
    return BytePairPrompts(tokenizer, torch.zeros(1, 1))


def test_words_can_be_typed_and_special_ids_and_pieces_of_words_cannot(typeable: Tensor) -> None:
    allowed = set(typeable.tolist())
    for word in WORDS:
        assert set(SMALL.tokenize(word)) <= allowed
    assert allowed.isdisjoint(SMALL.special_ids)
    for piece in ("ri", "clo"):  # the beginnings of river, clock and cloud
        assert SMALL.tokenizer.convert_tokens_to_ids(piece) not in allowed
    assert not any(SMALL.decode([token]) != SMALL.decode([token]).strip() for token in allowed)


def test_control_characters_and_broken_bytes_cannot_be_typed(typeable: Tensor) -> None:
    texts = [SMALL.decode([token]) for token in typeable.tolist()]
    assert all(text.isprintable() and "�" not in text for text in texts)
    assert "\x08" not in texts


def test_ascii_only_leaves_out_other_scripts() -> None:
    narrow = typeable_ids(SMALL, ascii_only=True).tolist()
    assert set(narrow) <= set(ALLOWED)
    assert all(SMALL.decode([token]).isascii() for token in narrow)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*ALLOWED, SMALL.end_id]), min_size=1, max_size=20))
def test_a_string_that_is_accepted_is_its_own_text_with_the_free_places_last(ids: list[int]) -> None:
    typed = as_typed(SMALL, ids)
    if typed is None:
        return
    words = [token for token in ids if token != SMALL.end_id]
    assert len(typed) == len(ids)
    assert list(typed) == words + [SMALL.end_id] * (len(ids) - len(words))
    text = text_of(SMALL, ids)
    assert list(SMALL.tokenize(text)) == words
    assert "<|" not in text or SMALL.special_ids.isdisjoint(words)
    assert as_typed(SMALL, typed) == typed


def test_end_of_text_tokens_leave_no_trace_in_the_prompt_though_their_text_would_come_back() -> None:
    (river,), (clock,) = SMALL.tokenize("river"), SMALL.tokenize("clock")
    end = SMALL.end_id
    # The trap: the literal text of the end token is read as the end token again.
    assert SMALL.tokenize(SMALL.decode([end, river])) == (end, river)
    assert not survives(SMALL, [end, river])
    assert as_typed(SMALL, [end, river, end, clock]) == (river, clock, end, end)
    assert text_of(SMALL, [end, river, end, clock]) == "river clock"
    assert text_of(SMALL, [end, end]) == ""


def test_a_piece_that_only_stands_inside_a_word_is_no_text_at_its_end() -> None:
    piece = SMALL.tokenizer.convert_tokens_to_ids("clo")
    assert as_typed(SMALL, [*SMALL.tokenize("red"), piece]) is None


class TidiesUp(BytePairPrompts):
    """A tokenizer whose configuration strips the spaces before punctuation, as many of CLIP's do."""

    def decode(self, ids: list[int]) -> str:  # type: ignore[override]
        return super().decode(ids).replace(" .", ".").replace(". .", "..")


def test_marks_whose_spacing_is_tidied_up_are_left_out() -> None:
    tokenizer: CLIPTokenizer = tokenizer_of([*word_merges(), (".", ".</w>")])
    tidy = TidiesUp(tokenizer, torch.zeros(1000, 1))
    (dot,) = tidy.tokenize(".")
    assert survives(tidy, [dot])
    assert dot not in typeable_ids(tidy)
    assert set(typeable_ids(tidy).tolist()) >= set(tidy.tokenize("red river"))


class Mute(BytePairPrompts):
    """A tokenizer that reads nothing of what it writes."""

    def decode(self, ids: list[int]) -> str:  # type: ignore[override]
        return ""


def test_a_tokenizer_that_cannot_read_what_it_writes_is_an_error_of_the_measurement() -> None:
    with pytest.raises(MeasurementError, match="no token of the vocabulary can be typed"):
        typeable_ids(Mute(tokenizer_of([]), torch.zeros(1000, 1)))


def test_on_learned_vocabularies_most_random_strings_of_typeable_ids_come_back(learned: BytePairPrompts) -> None:
    draw = random.Random(0)
    sample = sorted(draw.sample(range(learned.vocabulary), min(3000, learned.vocabulary)))
    allowed = [token for token in sample if survives(learned, [token, token]) and learned.decode([token]).isprintable()]
    assert 200 < len(allowed) < len(sample)  # inside-of-word pieces are out
    strings = [[draw.choice(allowed) for _ in range(20)] for _ in range(200)]
    typed = [as_typed(learned, string) for string in strings]
    assert sum(string is not None for string in typed) > 180
    for string in filter(None, typed):
        assert learned.tokenize(text_of(learned, string)) == string


def test_captions_as_people_write_them_become_tokens_that_come_back(learned: BytePairPrompts) -> None:
    assert [caption for caption in CAPTIONS if not survives(learned, learned.tokenize(caption))] == []


def test_the_fixtures_words_are_one_token_each(text_model: TextMixture) -> None:
    assert text_model.prompts is not None
    assert all(len(text_model.prompts.tokenize(word)) == 1 for word in WORDS)
