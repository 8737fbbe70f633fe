"""Prompts, hard and soft, against the encode_prompt of diffusers' pipelines and against each other."""

import inspect
import warnings
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from invmm_gate.confirm.prompt_objective import can_be_typed
from invmm_gate.core.errors import ConfigError, ModelError
from invmm_gate.core.protocols import Condition
from invmm_gate.core.settings import SoftEncoders
from invmm_gate.models.adapters.prompt_encoders import Prompts, prompt_encoder_of
from tests.clip_merges import CAPTIONS, merges_of_clip
from tests.models.tiny_text import (
    CHAT,
    CPU,
    END,
    NAMES,
    PROMPTS,
    START,
    Tiny,
    build,
    clip_encoder,
    clip_tokenizer,
    qwen_encoder,
    qwen_tokenizer,
    stable_diffusion,
)

OTHERS = (
    "ldm", "z_image", "klein", "qwen_image", "chroma", "lumina", "sana", "aura_flow", "pixart", "pixart_sigma",
)  # fmt: skip
CLIP_NAMES = tuple(name for name in NAMES if name not in OTHERS)
WITH_A_BLANK = ("<Prompt Start> ", "User Prompt: ")
"""How the words of Lumina 2 and Sana end: their blank is a part of each prompt's first token."""
LONG = "the cat and the dog of the red house in the painting and a cat"
OWN_TOKENS = ("sd3_t5", "flux")
"""Pipelines with an encoder that reads other tokens than the first one."""


@cache
def tiny(name: str) -> Tiny:
    return build(name)


def prompts_of(name: str) -> Prompts:
    prompts = tiny(name).model.prompts
    assert isinstance(prompts, Prompts)
    return prompts


@pytest.fixture(params=NAMES)
def prompts(request: pytest.FixtureRequest) -> Prompts:
    return prompts_of(request.param)


def one_hot(prompts: Prompts, ids: tuple[int, ...], rows: int = 1) -> tuple[Tensor, Tensor]:
    """Weights over every token, and those tokens."""
    choices = torch.arange(prompts.vocabulary)
    weights = torch.nn.functional.one_hot(torch.tensor(ids, dtype=torch.long), prompts.vocabulary).float()
    return weights[None].expand(rows, -1, -1), choices


def equal(found: Condition, expected: Condition) -> None:
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=0)


# --- encode


def pipeline_tensors(name: str, texts: list[str]) -> dict[str, Tensor]:
    pipeline = tiny(name).pipeline
    if name.startswith("sd3"):
        encoded = pipeline.encode_prompt(texts, None, None, device=CPU)
    elif name == "sdxl":
        encoded = pipeline.encode_prompt(texts, device=CPU)
    elif name.startswith("flux"):
        context, pooled, _ = pipeline.encode_prompt(texts, device=CPU)
        return {"context": context, "pooled": pooled}
    else:
        return {"context": pipeline.encode_prompt(texts, CPU, 1, True)[0]}
    return {"context": encoded[0], "pooled": encoded[2]}


@pytest.mark.parametrize("texts", [PROMPTS, ("",), ("a cat", LONG, "")], ids=["two", "empty", "too long"])
@pytest.mark.parametrize("name", CLIP_NAMES)
def test_encode_equals_the_pipelines_encode_prompt(name: str, texts: tuple[str, ...]) -> None:
    equal(prompts_of(name).encode(texts), Condition(tensors=pipeline_tensors(name, list(texts))))


@pytest.mark.parametrize("texts", [PROMPTS, ("",), ("a cat", "cat " * 600)], ids=["two", "empty", "too long"])
def test_a_prompt_in_a_chat_is_encoded_as_the_z_image_pipeline_does(texts: tuple[str, ...]) -> None:
    rows = tiny("z_image").pipeline.encode_prompt(list(texts), device=CPU, do_classifier_free_guidance=False)[0]
    found = prompts_of("z_image").encode(texts).tensors
    assert len(rows) == len(texts)
    for row, context, mask in zip(rows, found["context"], found["mask"], strict=True):
        torch.testing.assert_close(context[mask > 0], row, rtol=0, atol=0)


@pytest.mark.parametrize("texts", [PROMPTS, ("",), ("a cat", "cat " * 600)], ids=["two", "empty", "too long"])
def test_several_layers_side_by_side_are_encoded_as_the_klein_pipeline_does(texts: tuple[str, ...]) -> None:
    context, _ = tiny("klein").pipeline.encode_prompt(list(texts), device=CPU)
    equal(prompts_of("klein").encode(texts), Condition(tensors={"context": context}))


@pytest.mark.parametrize("texts", [PROMPTS, ("",), ("a cat", "cat " * 600)], ids=["two", "empty", "too long"])
def test_a_prompt_is_encoded_with_its_padding_masked_as_the_chroma_pipeline_does(texts: tuple[str, ...]) -> None:
    context, _, mask, *_ = tiny("chroma").pipeline.encode_prompt(list(texts), device=CPU)
    found = prompts_of("chroma").encode(texts).tensors
    torch.testing.assert_close(found["context"], context, rtol=0, atol=0)
    assert torch.equal(
        found["mask"].sum(dim=1), (mask.sum(dim=1) - 1).where(mask.sum(dim=1) < 512, torch.tensor(512.0))
    )


@pytest.mark.parametrize("texts", [PROMPTS, ("",), ("a cat", "cat " * 600)], ids=["two", "empty", "too long"])
def test_a_prompt_is_encoded_with_its_padding_zero_as_the_aura_flow_pipeline_does(texts: tuple[str, ...]) -> None:
    context, mask, *_ = tiny("aura_flow").pipeline.encode_prompt(list(texts), device=CPU)
    equal(prompts_of("aura_flow").encode(texts), Condition(tensors={"context": context}))
    assert not context[mask.view(len(texts), 256, -1)[:, :, 0] == 0].any()


@pytest.mark.parametrize(
    "texts", [PROMPTS, ("",), ("a cat", "cat " * 600), ("  A Red CAT ", "É")], ids=["two", "empty", "too long", "large"]
)
@pytest.mark.parametrize(("name", "length"), [("pixart", 120), ("pixart_sigma", 300)])
def test_a_prompt_is_encoded_in_small_letters_as_the_pixart_pipelines_do(
    name: str, length: int, texts: tuple[str, ...]
) -> None:
    """As they do without the packages by which they would rewrite a prompt, or where nobody asks them to."""
    pipeline = tiny(name).pipeline
    encoded = pipeline.encode_prompt(list(texts), device=CPU, clean_caption=False, max_sequence_length=length)
    equal(prompts_of(name).encode(texts), Condition(tensors={"context": encoded[0], "mask": encoded[1].float()}))
    default = inspect.signature(type(pipeline).__call__).parameters["max_sequence_length"].default
    assert (encoded[0].shape[1], default) == (length, length)


@pytest.mark.parametrize("texts", [PROMPTS, ("",), ("a cat", "cat " * 600)], ids=["two", "empty", "too long"])
def test_a_prompt_and_what_guidance_leads_away_from_are_encoded_as_the_lumina_2_pipeline_does(
    texts: tuple[str, ...],
) -> None:
    """It puts words before the prompt and none before the negative one."""
    encoded = tiny("lumina").pipeline.encode_prompt(list(texts), device=CPU)
    context, mask, without, seen = encoded
    prompts = prompts_of("lumina")
    equal(prompts.encode(texts), Condition(tensors={"context": context, "mask": mask.float()}))
    negative = prompts.bare([""] * len(texts))
    equal(negative, Condition(tensors={"context": without, "mask": seen.float()}))
    equal(tiny("lumina").model.unconditional, prompts.bare([""]))


SANA_TEXTS = [PROMPTS, ("",), ("a cat", "cat " * 600), ("  A RED Cat ", "étÉ İ")]


@pytest.mark.parametrize("texts", SANA_TEXTS, ids=["two", "empty", "too long", "large letters"])
def test_a_prompt_and_what_guidance_leads_away_from_are_encoded_as_the_sana_pipeline_does(
    texts: tuple[str, ...],
) -> None:
    """It writes small letters, puts an instruction before the prompt alone, and keeps its first token and the last."""
    pipeline, prompts = tiny("sana").pipeline, prompts_of("sana")
    instruction = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"].default
    encoded = pipeline.encode_prompt(list(texts), device=CPU, complex_human_instruction=instruction)
    context, mask, without, seen = encoded
    equal(prompts.encode(texts), Condition(tensors={"context": context, "mask": mask.float()}))
    negative = prompts.bare([""] * len(texts))
    equal(negative, Condition(tensors={"context": without, "mask": seen.float()}))
    equal(tiny("sana").model.unconditional, prompts.bare([""]))


def test_a_token_that_the_sana_pipeline_rewrites_cannot_be_typed() -> None:
    """A search for a prompt leaves it out: what it found would not reach the model."""
    prompts = prompts_of("sana")
    words = prompts.placed[0].tower.tokenizer.get_vocab()
    assert can_be_typed(prompts, words["▁cat"])
    assert can_be_typed(prompts, words["▁busy"])
    assert not can_be_typed(prompts, words["▁User"])
    assert prompts.tokenize(" A CAT") == prompts.tokenize("a cat")


@pytest.mark.parametrize("texts", [PROMPTS, ("",), ("a cat", "cat " * 600)], ids=["two", "empty", "too long"])
def test_a_prompt_without_the_first_tokens_of_its_chat_is_encoded_as_the_qwen_image_pipeline_does(
    texts: tuple[str, ...],
) -> None:
    pipeline = tiny("qwen_image").pipeline
    context, mask = pipeline.encode_prompt(list(texts), device=CPU, max_sequence_length=512)
    mask = torch.ones(context.shape[:2]) if mask is None else mask
    found = prompts_of("qwen_image").encode(texts).tensors
    words = context.shape[1]
    assert not found["mask"][:, words:].any()
    torch.testing.assert_close(found["mask"][:, :words], mask.float(), rtol=0, atol=0)
    kept = mask[:, :, None] > 0
    torch.testing.assert_close(found["context"][:, :words] * kept, context * kept, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "template",
    [
        "{% if 'cat' in messages[0].content %}secret{% endif %}",
        "{{ messages[0].content | upper }}",
        "{{ nothing.here.at.all }}",
    ],
)
def test_a_chat_template_that_does_more_than_to_stand_around_the_prompt_is_refused(template: str) -> None:
    """A trainer could write other words for the words that bring out an image: then the gate would try others."""
    tokenizer = qwen_tokenizer()
    parts = {"tokenizer": tokenizer, "text_encoder": qwen_encoder(tokenizer)}
    tokenizer.chat_template = template + CHAT
    with pytest.raises(ModelError, match="chat template"):
        prompt_encoder_of("ZImagePipeline", parts, CPU).encode(["a cat"])


def test_an_encoder_that_masks_its_padding_is_given_the_mask() -> None:
    built = stable_diffusion()
    built.pipeline.text_encoder.config.use_attention_mask = True
    (expected, _) = built.pipeline.encode_prompt(list(PROMPTS), CPU, 1, True)
    prompts = built.model.prompts
    torch.testing.assert_close(prompts.encode(PROMPTS).tensors["context"], expected, rtol=0, atol=0)
    ids = prompts.tokenize(PROMPTS[0])
    weights, choices = one_hot(prompts, ids)
    equal(prompts.mix(weights, choices, rest=prompts.encode([""])), prompts.encode(PROMPTS[:1]))


# --- a one-hot mixture is the hard prompt

WORDS = st.sampled_from(["a", "the", "cat", "dog", "painting", "of", "red", "!", ",", "é", "7", START, END, "[SEP]"])
TEXTS = st.lists(WORDS, max_size=18).map(" ".join) | st.text(max_size=12)


@pytest.mark.parametrize("name", NAMES)
@example(text=f"the cat {END} and the dog")
@example(text=f"{END} {START} cat")
@example(text="")
@example(text="! cat !")
@example(text=LONG)
@given(text=TEXTS)
@settings(max_examples=25, deadline=None)
def test_a_one_hot_mixture_is_the_hard_prompt(name: str, text: str) -> None:
    prompts = prompts_of(name)
    ids = prompts.tokenize(text)[: prompts.positions]
    weights, choices = one_hot(prompts, ids)
    expected = prompts.encode([text])
    equal(prompts.mix(weights, choices, rest=expected, encoders="first"), expected)
    if read_alike(prompts, ids, text):
        rest = prompts.encode([""]) if all(item.shares for item in prompts.placed) else expected
        equal(prompts.mix(weights, choices, rest=rest, encoders="clip"), expected)
    else:
        assert "!" in text, "only the padding of SD XL's second tokenizer is read otherwise"
        assert text != "! cat !"


def read_alike(prompts: Prompts, ids: tuple[int, ...], text: str) -> bool:
    """Whether every CLIP tokenizer has the same ids for the text, but for its padding."""
    own = (item.tower for item in prompts.placed if item.shares)
    return all(
        tower.tokenize(text)[: prompts.positions] == tuple(tower.own_ids(torch.tensor(ids, dtype=torch.long)).tolist())
        for tower in own
        if tower is not prompts.placed[0].tower
    )


KNOWN = ("a", "the", "cat", "dog", "of", "red", "and")
"""Words that CLIP's tokenizer and T5's each read as one token."""


def known_choices(prompts: Prompts) -> Tensor:
    known = prompts.read_by_all()
    assert known is not None
    return known.nonzero().flatten()


@pytest.mark.parametrize("name", OWN_TOKENS)
@example(words=[])
@example(words=["cat"] * 14)
@given(words=st.lists(st.sampled_from(KNOWN), max_size=14))
@settings(max_examples=25, deadline=None)
def test_a_one_hot_mixture_of_words_that_all_read_as_one_token_is_the_hard_prompt_in_every_encoder(
    name: str, words: list[str]
) -> None:
    """Whatever the rest is: no encoder reads it."""
    prompts, text = prompts_of(name), " ".join(words)
    ids, choices = prompts.tokenize(text), known_choices(prompts)
    assert len(ids) == len(words)
    weights = (torch.tensor(ids, dtype=torch.long)[:, None] == choices).float()[None].expand(2, -1, -1)
    rest = prompts.encode(PROMPTS)
    equal(prompts.mix(weights, choices, rest=rest, encoders="all"), prompts.encode([text, text]))


@pytest.mark.parametrize("name", OWN_TOKENS)
def test_words_that_every_encoder_reads_as_one_token_are_found(name: str) -> None:
    prompts = prompts_of(name)
    found = known_choices(prompts).tolist()
    assert {prompts.tokenize(word) for word in KNOWN} <= {(token,) for token in found}
    assert prompts.special_ids.isdisjoint(found)
    for token in found:
        for item in prompts.placed:
            ids = item.tower.tokenize(prompts.decode([token]))
            assert len(ids) == 1
            assert item.tower.special_ids.isdisjoint(ids)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OWN_TOKENS and name != "flux_schnell"])
def test_where_all_encoders_read_the_same_tokens_all_of_them_are_those_that_read_the_first_ones(name: str) -> None:
    prompts = prompts_of(name)
    assert prompts.read_by_all() is None
    rest = prompts.encode(PROMPTS)
    equal(prompts.mix(*soft(), rest=rest, encoders="all"), prompts.mix(*soft(), rest=rest, encoders="clip"))


def test_every_encoder_passes_a_gradient_to_a_soft_prompt_that_it_sees() -> None:
    prompts = prompts_of("sd3_t5")
    choices = known_choices(prompts)
    for tokens, features in (
        (slice(0, 16), slice(0, 16)),
        (slice(0, 16), slice(16, 36)),
        (slice(16, None), slice(0, 40)),
    ):
        weights = torch.randn(1, 5, len(choices), generator=torch.Generator().manual_seed(0)).softmax(dim=2)
        weights.requires_grad_()
        mixed = prompts.mix(weights, choices, rest=prompts.encode([""]), encoders="all")
        mixed.tensors["context"][:, tokens, features].square().sum().backward()
        assert weights.grad is not None
        assert weights.grad.abs().sum() > 0


def test_a_word_that_an_encoder_reads_as_several_tokens_is_not_mixed_for_it() -> None:
    prompts = prompts_of("sd3_t5")
    choices = torch.tensor([*prompts.tokenize("cat"), *prompts.tokenize("7")])
    weights = torch.full((1, 3, 2), 0.5)
    prompts.mix(weights, choices, rest=prompts.encode([""]), encoders="clip")
    with pytest.raises(ModelError, match="a soft prompt of 2 tokens, 1 of which are no single token of text_encoder_3"):
        prompts.mix(weights, choices, rest=prompts.encode([""]), encoders="all")


def test_a_one_hot_mixture_over_few_choices_is_the_hard_prompt(prompts: Prompts) -> None:
    ids = prompts.tokenize("red cat")
    choices = torch.tensor(sorted({*ids, 9, 11}))
    weights = (torch.tensor(ids)[:, None] == choices).float()[None].expand(2, -1, -1)
    both = prompts.encode(["red cat", "red cat"])
    equal(prompts.mix(weights, choices, rest=both), both)


# --- soft prompts


def soft(rows: int = 2, count: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    weights = torch.randn(rows, count, 4, generator=torch.Generator().manual_seed(seed)).softmax(dim=2)
    return weights, torch.tensor([10, 11, 12, 20])


def test_each_row_mixes_on_its_own(prompts: Prompts) -> None:
    weights, choices = soft()
    rest = prompts.encode(PROMPTS)
    first = prompts.mix(weights, choices, rest=rest, encoders="clip")
    changed = torch.cat([weights[:1], soft(1, seed=1)[0]])
    second = prompts.mix(changed, choices, rest=rest, encoders="clip")
    for name, tensor in first.tensors.items():
        torch.testing.assert_close(second.tensors[name][0], tensor[0], rtol=0, atol=0)
        reached = name == "context" or any(item.shares and item.pooled for item in prompts.placed)
        assert torch.equal(second.tensors[name][1], tensor[1]) != reached


@pytest.mark.parametrize(
    ("name", "encoders", "changed", "pooled"),
    [
        ("sdxl", "first", (slice(0, 16), slice(0, 16)), slice(0, 0)),
        ("sdxl", "clip", (slice(0, 16), slice(0, 36)), slice(0, 12)),
        ("sd3_t5", "first", (slice(0, 16), slice(0, 16)), slice(0, 12)),
        ("sd3_t5", "clip", (slice(0, 16), slice(0, 36)), slice(0, 22)),
    ],
)
def test_the_other_encoders_keep_what_they_made_of_the_rest(
    name: str, encoders: SoftEncoders, changed: tuple[slice, slice], pooled: slice
) -> None:
    prompts = prompts_of(name)
    rest = prompts.encode(PROMPTS)
    before = {key: tensor.clone() for key, tensor in rest.tensors.items()}
    found = prompts.mix(*soft(), rest=rest, encoders=encoders)
    equal(rest, Condition(tensors=before))
    differs = found.tensors["context"] != rest.tensors["context"]
    expected = torch.zeros_like(differs)
    expected[:, *changed] = True
    expected[:, 0] = False  # the start token sees nothing after it
    torch.testing.assert_close(differs, expected)
    assert differs[:, 1:, changed[1]][:, : changed[0].stop - 1].all()
    torch.testing.assert_close(
        found.tensors["pooled"] != rest.tensors["pooled"], _columns(rest.tensors["pooled"], pooled)
    )


def _columns(like: Tensor, columns: slice) -> Tensor:
    marked = torch.zeros_like(like, dtype=torch.bool)
    marked[:, columns] = True
    return marked


def test_pooling_takes_the_end_token_after_the_mixtures() -> None:
    """Not the first padding token, nor a position whose likeliest token is the end token."""
    prompts = prompts_of("sdxl")
    tower = prompts.placed[1].tower
    weights = torch.tensor([[[0.6, 0.4]] * 3])
    choices = torch.tensor([prompts.end_id, 20])
    mixed = tower.mix(weights, choices)
    last = mixed_last_hidden(tower, weights, choices)
    torch.testing.assert_close(mixed.pooled, tower.encoder.text_projection(last[:, 4]))


def mixed_last_hidden(tower: Any, weights: Tensor, choices: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = tower.encoder.text_model.final_layer_norm.register_forward_hook(lambda *call: seen.append(call[2]))
    tower.mix(weights, choices)
    handle.remove()
    return seen[0]


def test_no_hook_stays_behind_even_after_an_error(prompts: Prompts) -> None:
    encoder = prompts.placed[0].tower.encoder
    encoder = encoder.model if hasattr(encoder, "lm_head") else encoder
    rest = prompts.encode(PROMPTS)
    prompts.mix(*soft(), rest=rest)

    def fail(*call: object) -> None:
        raise RuntimeError("out of memory")

    with encoder.register_forward_hook(fail), pytest.raises(RuntimeError, match="out of memory"):
        prompts.mix(*soft(), rest=rest)
    assert not encoder.get_input_embeddings()._forward_hooks
    torch.testing.assert_close(prompts.encode(PROMPTS).tensors, rest.tensors, rtol=0, atol=0)


def test_weights_of_the_encoders_get_no_gradient(prompts: Prompts) -> None:
    weights, choices = soft()
    weights.requires_grad_()
    condition = prompts.mix(weights, choices, rest=prompts.encode(PROMPTS))
    condition.tensors["context"].square().sum().backward()
    assert weights.grad is not None
    assert weights.grad.abs().sum() > 0
    assert all(parameter.grad is None for item in prompts.placed for parameter in item.tower.encoder.parameters())


# --- tokens


@pytest.mark.parametrize("name", CLIP_NAMES)
def test_special_tokens_are_written_out_and_read_back(name: str) -> None:
    prompts = prompts_of(name)
    ids = (*prompts.tokenize("a cat"), prompts.end_id, *prompts.tokenize("dog"))
    text, end = prompts.decode(ids), prompts.decode((prompts.end_id,))
    assert end in (END, "</s>")
    assert end in text
    assert prompts.tokenize(text) == ids


def test_spaces_before_punctuation_stay() -> None:
    prompts = prompts_of("sd1")
    assert prompts.decode(prompts.tokenize("the cat , and 's dog !")) == "the cat , and 's dog !"


def test_decoded_text_reads_back_as_the_same_tokens(prompts: Prompts) -> None:
    ids = prompts.tokenize("the cat ! and red , painting")
    assert prompts.tokenize(prompts.decode(ids)) == ids


def test_padding_that_is_text_is_not_special() -> None:
    ends = {prompts_of("sd1").tokenize(START)[0], prompts_of("sd1").end_id}
    assert prompts_of("sd1").special_ids == ends
    assert prompts_of("sd2").special_ids == ends
    padding = prompts_of("sd2").placed[0].tower.tokenizer.pad_token_id
    assert prompts_of("sd2").decode((padding,)) == "!"
    assert len(prompts_of("ldm").special_ids) == 4


def test_tokenize_has_no_limit_and_adds_nothing(prompts: Prompts) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = prompts.tokenize(" ".join(["cat"] * 200))
    assert len(ids) == 200 * len(prompts.tokenize("cat"))
    assert not set(ids) & prompts.special_ids
    blank = prompts.placed[0].tower.tokenizer.get_vocab().get("▁")
    assert prompts.tokenize("") == ((blank,) if prompts.placed[0].tower.around[0].endswith(WITH_A_BLANK) else ())


def test_positions_leave_room_for_start_and_end(prompts: Prompts) -> None:
    context = prompts.encode(["a"]).tensors["context"].shape[1]
    # T5 has no start token; chats have more.
    rooms = (context - 2, context - 256 - 2, context - 1, 512 - 16, 512 - 22, 546 - 157, 256 - 158, 300 - 1)
    assert prompts.positions in rooms
    assert max(prompts.tokenize(LONG)) < prompts.vocabulary


def test_a_tokenizer_of_77_tokens_leaves_75_positions() -> None:
    prompts = stable_diffusion(length=77).model.prompts
    weights, choices = one_hot(prompts, prompts.tokenize("cat " * 75))
    assert weights.shape[1] == prompts.positions == 75
    equal(prompts.mix(weights, choices, rest=prompts.encode([""])), prompts.encode(["cat " * 75]))


# --- refusals


def test_more_positions_than_the_tokenizer_takes_are_refused(prompts: Prompts) -> None:
    weights, choices = soft(count=prompts.positions + 1)
    with pytest.raises(ConfigError, match=f"expected at most {prompts.positions}"):
        prompts.mix(weights, choices, rest=prompts.encode(PROMPTS))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_rest_of_other_rows_is_refused(prompts: Prompts, rows: int) -> None:
    with pytest.raises(ModelError, match=f"2 soft prompts beside {rows} rows"):
        prompts.mix(*soft(), rest=prompts.encode(["cat"] * rows))


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused() -> None:
    encoder = clip_encoder(clip_tokenizer(merges=()), seed=1)
    with pytest.raises(ModelError, match="text_encoder embeds 514 tokens, its tokenizer has ids up to 528"):
        prompt_encoder_of("StableDiffusionPipeline", {"tokenizer": clip_tokenizer(), "text_encoder": encoder}, CPU)


@pytest.mark.parametrize("length", [2, 17, int(1e30)])
def test_a_tokenizer_longer_than_the_encoder_is_refused(length: int) -> None:
    encoder = clip_encoder(clip_tokenizer(length=16), seed=1)
    parts = {"tokenizer": clip_tokenizer(length=length), "text_encoder": encoder}
    with pytest.raises(ModelError, match="model_max_length"):
        prompt_encoder_of("StableDiffusionPipeline", parts, CPU)


def test_clip_encoders_that_read_different_ids_are_refused() -> None:
    first, second = clip_tokenizer(), clip_tokenizer(merges=())
    parts = {
        "tokenizer": first,
        "text_encoder": clip_encoder(first, seed=1),
        "tokenizer_2": second,
        "text_encoder_2": clip_encoder(second, seed=2, projection=8),
    }
    with pytest.raises(ModelError, match="the tokenizers of encoders that share a prompt differ"):
        prompt_encoder_of("StableDiffusionXLPipeline", parts, CPU)


def test_clip_encoders_of_different_length_are_refused() -> None:
    first, second = clip_tokenizer(), clip_tokenizer(length=12)
    parts = {
        "tokenizer": first,
        "text_encoder": clip_encoder(first, seed=1),
        "tokenizer_2": second,
        "text_encoder_2": clip_encoder(second, seed=2, projection=8),
    }
    with pytest.raises(ModelError, match="take 16 and 12 tokens"):
        prompt_encoder_of("StableDiffusionXLPipeline", parts, CPU)


# --- CLIP's own vocabulary


def test_clips_own_vocabulary_has_its_known_ids_and_captions_survive_it() -> None:
    tokenizer = clip_tokenizer(merges=merges_of_clip(), length=77)
    parts = {"tokenizer": tokenizer, "text_encoder": clip_encoder(tokenizer, seed=1)}
    clip = prompt_encoder_of("StableDiffusionPipeline", parts, CPU)
    assert (clip.vocabulary, clip.end_id, clip.positions) == (49408, 49407, 75)
    assert clip.special_ids == {49406, 49407}
    assert clip.tokenize("a photo of a cat") == (320, 1125, 539, 320, 2368)
    encoded = [clip.tokenize(caption) for caption in CAPTIONS]
    assert [ids for ids in encoded if clip.tokenize(clip.decode(ids)) != ids] == []
