"""The positive control of text-to-image runs: the soft prompt finds the words, by the settings of the run."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invmm_gate.confirm.search_control import planted_prompts
from invmm_gate.core.records import SelfCheck
from invmm_gate.core.settings import PROFILES, Family, InversionSettings
from invmm_gate.diffusion.planted import PlantedText
from invmm_gate.measure.self_check import choices_with, positive_control_of_prompts
from invmm_gate.similarity.pixel import PixelRmse
from tests.models.tiny_text import build

TEXT: tuple[Family, ...] = ("stable_diffusion", "stable_diffusion_3")
GATE = PROFILES["gate"]["stable_diffusion"]
FAST = replace(GATE, test_every=25, batch_size=4, sampler_steps=10, guidance_scales=(1.0,))
BLIND = "steps: these settings and this copy threshold see neither copies nor the prompts that make them"


@pytest.fixture(scope="module")
def planted() -> PlantedText:
    return planted_prompts(build("sd1").model, lures=False)


def control(
    planted: PlantedText, settings: InversionSettings = FAST, *, threshold: float = 0.1, choices: Tensor | None = None
) -> SelfCheck:
    return positive_control_of_prompts(PixelRmse(threshold), settings, planted, choices=choices)


@pytest.mark.parametrize("prompt", ["joint", "prompt_only", "caption"])
@pytest.mark.parametrize("family", TEXT)
@pytest.mark.parametrize("profile", PROFILES)
def test_it_passes_under_every_profile_and_kind_of_prompt(
    planted: PlantedText, profile: str, family: Family, prompt: str
) -> None:
    check = control(planted, replace(PROFILES[profile][family], prompt=prompt))
    assert check.passed, check.detail
    assert check.name == "positive_control"
    assert "a closed-form text model that memorizes a pattern was inverted at step" in check.detail


@pytest.mark.parametrize("name", ["sdxl", "sd3", "ldm"])
def test_it_passes_with_every_kind_of_text_model(name: str) -> None:
    model = build(name).model
    check = control(planted_prompts(model, lures=False), PROFILES["gate"][model.family])
    assert check.passed, check.detail


def test_it_is_the_same_whenever_it_is_run(planted: PlantedText) -> None:
    check = control(planted)
    assert check.passed
    assert check == control(planted)


@pytest.mark.parametrize("prompt", ["joint", "prompt_only"])
def test_no_noise_brings_the_pattern_out_where_the_words_cannot_be_said(planted: PlantedText, prompt: str) -> None:
    deaf = replace(planted.model.prompts, affinity=torch.zeros_like(planted.model.prompts.affinity))
    model = replace(planted, model=replace(planted.model, prompts=deaf))
    check = control(model, replace(FAST, prompt=prompt))
    assert not check.passed
    assert check.value is None
    assert check.detail.endswith(f"came out as not_inverted after 200 {BLIND}")


@pytest.mark.parametrize(
    "blind",
    [{"learning_rate": 1e-3}, {"steps": 25}, {"prompt_tokens": 1}, {"temperature": 50.0}],
    ids=lambda blind: next(iter(blind)),
)
def test_settings_that_find_no_prompt_fail(planted: PlantedText, blind: dict[str, object]) -> None:
    check = control(planted, replace(FAST, **blind))  # type: ignore[arg-type]
    assert not check.passed
    assert BLIND in check.detail


def test_a_copy_threshold_that_sees_nothing_fails(planted: PlantedText) -> None:
    assert not control(planted, threshold=0.07).passed


def test_a_metric_that_takes_every_pattern_for_a_copy_does_not_make_it_pass(planted: PlantedText) -> None:
    assert not control(planted, replace(FAST, learning_rate=1e-3), threshold=2.0).passed
    assert control(planted, threshold=2.0).passed


def test_another_caption_than_the_words_fails(planted: PlantedText) -> None:
    settings = replace(FAST, prompt="caption")
    assert not control(replace(planted, caption="a cat"), settings).passed


def test_only_what_the_runs_soft_prompts_may_mix_is_mixed_beside_the_words(planted: PlantedText) -> None:
    few = torch.tensor([5, 9, 11])
    assert set(choices_with(planted, few).tolist()) == {5, 9, 11, *planted.triggers}
    whole = choices_with(planted, None)
    assert whole.tolist() == list(range(planted.model.prompts.vocabulary))
    large = choices_with(planted, torch.arange(40_000))
    assert 1024 <= len(large) <= 1024 + len(planted.triggers)
    assert set(planted.triggers) <= set(large.tolist())
