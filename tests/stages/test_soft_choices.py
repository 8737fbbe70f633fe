"""What soft prompts are made of where the text encoders of a model read tokens of their own."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from invmm_gate.confirm.prompt_objective import typeable_ids
from invmm_gate.core.errors import ModelError
from invmm_gate.core.settings import PROFILES, InversionSettings
from invmm_gate.models.adapters.prompt_encoders import Prompts, prompt_encoder_of
from invmm_gate.probes.edit import init_probe_set
from invmm_gate.stages.soft_choices import soft_choices
from tests.models.tiny_text import CPU, build, stable_diffusion_3, t5_tokenizer
from tests.stages.world import Called, World, add_picture, policy_with

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


def checked(
    folder: Path, *, t5: bool = True, words: tuple[str, ...] | None = None, **changes: str
) -> tuple[World, Called]:
    """A random network: what it is measured by is recorded, and the run is inconclusive."""
    pipeline = stable_diffusion_3(t5=t5).pipeline
    if words is not None:
        pipeline.tokenizer_3 = t5_tokenizer(words=words)
    pipeline.save_pretrained(folder / "model")
    world = World(folder, folder / "model")
    init_probe_set(world.probes)
    for number, group in ((1, "sensitive"), (100_000, "control"), (100_001, "control")):
        add_picture(world, number, group)
    settings = {"prompt_tokens": 8, "steps": 20, "test_every": 10, "batch_size": 2, "sampler_steps": 4, **changes}
    small = {"guidance_scales": [1.0], "long_captions": "truncate"}
    policy = policy_with(
        name="small-sd3", settings=settings | small, confirm={"prompts": {"trials": 4, "sampler_steps": 4}}
    )
    return world, world.check(policy=world.policy(policy))


@pytest.mark.parametrize(
    ("t5", "changes", "encoders", "readers"),
    [
        (True, {}, "all", None),
        (True, {"soft_encoders": "clip"}, "clip", "text_encoder_3"),
        (False, {}, "clip", None),
    ],
)
def test_the_record_says_which_encoders_see_the_soft_prompt_and_the_report_which_read_the_caption(
    tmp_path: Path, t5: bool, changes: dict[str, str], encoders: str, readers: str | None
) -> None:
    world, called = checked(tmp_path, t5=t5, **changes)
    assert called.code == 11, called.err
    run = json.loads((world.run / "run.json").read_text())
    assert run["inputs"]["settings"]["soft_encoders"] == encoders
    said = "its caption, which text_encoder_3 read while it was inverted"
    assert (said in (world.run / "report.html").read_text()) == (readers is not None)
    assert not any("other settings" in reason for reason in world.verdict()["reasons"])


def test_a_checkpoint_whose_tokenizers_share_no_word_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    unknown = tuple(f"of{number}" for number in range(7))  # as many tokens as T5 embeds
    world, called = checked(tmp_path, words=unknown)
    assert called.code not in (0, 10, 11)
    assert "all text encoders read 0 as one token" in called.err
    assert not (world.run / "measurements.jsonl").exists()
