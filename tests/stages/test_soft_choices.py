"""What soft prompts are made of where the text encoders of a model read tokens of their own."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from invmm_gate.confirm.prompt_objective import typeable_ids
from invmm_gate.core.errors import ModelError
from invmm_gate.core.settings import PROFILES, InversionSettings
from invmm_gate.models.adapters.prompt_encoders import Prompts, prompt_encoder_of
from invmm_gate.stages.soft_choices import soft_choices
from tests.models.tiny_text import CPU, build, stable_diffusion_3, t5_tokenizer

GATE = PROFILES["gate"]["stable_diffusion_3"]


@cache
def prompts_of(name: str) -> Prompts:
    return build(name).model.prompts


def words(prompts: Prompts, settings: InversionSettings = GATE) -> set[str]:
    choices = soft_choices(prompts, settings)
    assert choices is not None
    assert choices.tolist() == sorted(choices.tolist())
    return {prompts.decode([token]) for token in choices.tolist()}


def test_soft_prompts_of_stable_diffusion_3_are_made_of_words_that_clip_and_t5_read_as_one_token() -> None:
    """Under profile `gate` alone: `reference` and `paper` mix all of CLIP's tokens, and T5 reads the caption."""
    prompts = prompts_of("sd3_t5")
    assert words(prompts) == {"a", "red", "cat", "and", "the", "dog", "of"}
    assert words(prompts) == words(prompts, replace(GATE, vocabulary="typeable"))
    for profile in ("reference", "paper"):
        assert soft_choices(prompts, PROFILES[profile]["stable_diffusion_3"]) is None


def test_without_t5_they_are_made_of_every_token_as_before() -> None:
    prompts = prompts_of("sd3")
    assert soft_choices(prompts, GATE) is None
    typed = soft_choices(prompts, replace(GATE, vocabulary="typeable"))
    assert typed is not None
    assert torch.equal(typed, typeable_ids(prompts))


def test_a_policy_can_ask_for_the_same_of_flux() -> None:
    asked = replace(PROFILES["gate"]["flow"], soft_encoders="all")
    assert words(prompts_of("flux"), asked) == {"a", "red", "cat", "and", "the", "dog", "of"}


def odd() -> Prompts:
    """T5 that reads no word of CLIP's as one token."""
    tiny = stable_diffusion_3(t5=True)
    parts = {**tiny.pipeline.components, "tokenizer_3": t5_tokenizer(words=())}
    return prompt_encoder_of("StableDiffusion3Pipeline", parts, CPU)


def test_tokenizers_without_common_words_are_refused_in_one_line_that_says_what_to_do() -> None:
    with pytest.raises(ModelError) as refused:
        soft_choices(odd(), GATE)
    said = str(refused.value)
    assert "of 75 tokens that can be typed, all text encoders read 0 as one token" in said
    assert "set measure.settings.soft_encoders to clip" in said
    assert "\n" not in said


@pytest.mark.parametrize("changes", [{"soft_encoders": "clip"}, {"prompt": "caption"}])
def test_nothing_is_refused_where_nothing_is_mixed_for_t5(changes: dict[str, str]) -> None:
    assert soft_choices(odd(), replace(GATE, **changes)) is None
