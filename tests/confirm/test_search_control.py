"""The search's control: shipped plans find the prompt that is there, plans that see nothing fail."""

import string
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invmm_gate.confirm.prompt_objective import can_be_typed, survives, typeable_ids
from invmm_gate.confirm.search_control import STEPS, planted_prompts, planted_words, search_control
from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.protocols import CopyMetric
from invmm_gate.core.records import SelfCheck
from invmm_gate.core.settings import GcgPlan
from invmm_gate.diffusion.planted import LURES, TRIGGERS, PlantedText
from invmm_gate.diffusion.samplers import GridSampler
from invmm_gate.diffusion.schedule import VariancePreserving
from invmm_gate.policy.schema import load_policy, shipped_policies
from invmm_gate.similarity.pixel import PixelRmse
from invmm_gate.similarity.sscd import EncoderCosine
from tests.confirm.text_world import BytePairPrompts, TextMixture, tokenizer_of
from tests.models.tiny_text import build

LETTERS = string.ascii_lowercase
SHIPPED = {
    name: plan for name in shipped_policies() if (plan := load_policy(name).confirm.prompts.search_plan(rows=32))
}
STRICT = SHIPPED["strict"]
METRIC = PixelRmse(0.1)
SOON = 8
"""Steps within which the plan of strict has long found the prompt."""
UNFOUND = (
    "steps the search found no prompt that brings out what a closed-form text model memorizes, so what this search"
)


class Words(BytePairPrompts):
    """676 words of two letters, beside single characters."""

    positions = 20

    def __init__(self) -> None:
        tokenizer = tokenizer_of([(first, f"{last}</w>") for first in LETTERS for last in LETTERS])
        super().__init__(tokenizer, torch.zeros(len(tokenizer), 1))


WORDS = Words()
ALLOWED = typeable_ids(WORDS)


@pytest.fixture(scope="module")
def planted(known_images: Tensor, linear_schedule: VariancePreserving) -> PlantedText:
    model = TextMixture(known_images[:1], linear_schedule, base=torch.zeros(1), prompts=WORDS)
    return planted_prompts(model, lures=True)


Control = Callable[..., SelfCheck]


@pytest.fixture(scope="module")
def control(planted: PlantedText) -> Control:
    def checked(
        plan: GcgPlan = STRICT, metric: CopyMetric = METRIC, model: PlantedText = planted, **changed: object
    ) -> SelfCheck:
        changed_plan = replace(plan, **changed)  # type: ignore[arg-type]
        return search_control(metric, changed_plan, model, cost=GridSampler(model.model), allowed=ALLOWED)

    return checked


def test_some_shipped_policies_search() -> None:
    assert set(SHIPPED) == {"standard", "strict"}


@pytest.mark.parametrize("policy", sorted(SHIPPED))
@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "ldm"])
def test_the_plan_of_every_shipped_policy_finds_the_prompt_with_every_kind_of_text_model(
    name: str, policy: str
) -> None:
    model = build(name).model
    check = search_control(
        METRIC,
        SHIPPED[policy],
        planted_prompts(model, lures=True),
        cost=GridSampler(model),
        allowed=typeable_ids(model.prompts),
    )
    assert check.passed, check.detail
    assert check.value is not None
    assert check.value < STEPS / 3, "far from the last step"


def test_the_prompt_is_found_and_the_step_is_told_and_it_is_the_same_whenever_it_is_run(control: Control) -> None:
    check = control()
    assert check.passed
    assert check.name == "search_control"
    assert check.value is not None
    assert check.value < SOON
    assert check.detail == (
        f"the search found a prompt that brings out what a closed-form text model memorizes at step {check.value:g}"
        f", among {len(ALLOWED)} of {WORDS.vocabulary} tokens that can be typed"
    )
    assert control() == check


@pytest.mark.parametrize(
    "blind",
    [
        {"candidates": 1},
        {"steps": 1},
        {"top_k": 1, "steps": 3 * SOON},
        {"tokens": 1, "steps": SOON},
        {"guidance_scales": (0.01,), "steps": SOON, "trials": 8},
        {
            "max_evaluations": STRICT.dearest_step(lambda steps, _: steps)
            + STRICT.fresh_seeds(lambda steps, _: 2 * steps)
        },
    ],
    ids=lambda blind: next(iter(blind)),
)
def test_a_plan_that_sees_nothing_fails(control: Control, blind: dict[str, object]) -> None:
    check = control(**blind)
    assert not check.passed
    assert check.value is None
    assert UNFOUND in check.detail
    assert "look at confirm.prompts in the policy" in check.detail


def test_no_search_takes_more_steps_than_the_controls_own_limit(control: Control) -> None:
    check = control(steps=500, candidates=1)
    assert check.detail.startswith(f"in {STEPS} {UNFOUND}")


def test_a_budget_pays_for_as_many_steps_as_it_does_in_the_run(planted: PlantedText) -> None:
    """A sample of the released pipeline may cost more than one of the closed-form model, or less."""

    class Dear(GridSampler):  # type: ignore[misc]
        def forwards(self, *, steps: int, guidance_scale: float = 1.0) -> int:
            return 100 * steps

    plan = replace(STRICT, max_evaluations=STRICT.fresh_seeds(lambda steps, _: 100 * steps) + 90_000)
    cheap, dear = (
        search_control(METRIC, plan, planted, cost=cost(planted.model), allowed=ALLOWED) for cost in (GridSampler, Dear)
    )
    assert cheap.passed
    assert not dear.passed
    assert UNFOUND in dear.detail


def test_a_copy_threshold_that_sees_no_copy_of_a_network_fails(control: Control) -> None:
    check = control(metric=PixelRmse(0.07), steps=SOON)
    assert not check.passed
    assert UNFOUND in check.detail


def test_a_metric_that_takes_every_pattern_for_a_copy_neither_fails_nor_shortens_the_search(control: Control) -> None:
    """A copy detector for photographs may do so with smooth patterns."""
    assert control(metric=PixelRmse(2.0)) == control()
    check = control(metric=PixelRmse(2.0), steps=1)
    assert not check.passed


def test_a_metric_that_gives_nan_fails(control: Control) -> None:
    check = control(metric=EncoderCosine(lambda images: images.flatten(1) * torch.nan, name="broken", threshold=0.5))
    assert not check.passed
    assert "the search for a prompt of a closed-form text model broke (the copy metric broken" in check.detail


@pytest.mark.parametrize("fault", ["deaf", "no gradient", "NaN"])
def test_a_text_side_that_hears_nothing_fails(control: Control, planted: PlantedText, fault: str) -> None:
    prompts = planted.model.prompts
    faulty = {
        "deaf": replace(prompts, affinity=torch.zeros_like(prompts.affinity)),
        "no gradient": replace(prompts, lure=-prompts.affinity),  # nothing of a word is seen before it is there
        "NaN": replace(prompts, affinity=prompts.affinity * torch.nan),
    }
    model = replace(planted, model=replace(planted.model, prompts=faulty[fault]))
    check = control(model=model, steps=SOON)
    assert not check.passed


def test_three_words_bring_the_pattern_out_together_and_fewer_do_not(planted: PlantedText) -> None:
    def chance(*words: int) -> float:
        return float(planted.model.chance(WORDS.decode(words))[0])

    assert chance(*planted.triggers) > 0.99
    for left_out in planted.triggers:
        assert chance(*(word for word in planted.triggers if word != left_out)) < 0.01
    for word in planted.triggers:
        assert chance(*[word] * WORDS.positions) < 1e-4, "said again, a word says no more"
    ordinary = planted.model.prompts.affinity[:, 0].sort(descending=True).indices[TRIGGERS:]
    assert chance(*ordinary[: WORDS.positions].tolist()) < 1e-6, "nor do words that are no triggers"


def test_the_words_can_be_typed_and_a_fixed_key_draws_them_of_the_whole_vocabulary() -> None:
    words = planted_words(WORDS)
    assert len(words) == len(set(words)) == TRIGGERS + LURES
    assert set(words) <= set(ALLOWED.tolist())
    assert survives(WORDS, words[:TRIGGERS])
    assert words == planted_words(Words())
    drawn = torch.randperm(WORDS.vocabulary, generator=torch.Generator().manual_seed(1)).tolist()
    assert words[0] == next(token for token in drawn if can_be_typed(WORDS, token))


def test_a_tokenizer_of_which_too_little_can_be_typed_is_refused_in_words() -> None:
    class Mute(Words):
        def decode(self, ids: object) -> str:
            return "ab"

    with pytest.raises(MeasurementError, match="0 tokens of the vocabulary can be typed together; expected at least 3"):
        planted_words(Mute())
