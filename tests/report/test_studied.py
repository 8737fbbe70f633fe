"""What a report says of the study: only where the run searched as the study did."""

from dataclasses import replace

import pytest

from invmm_gate.core.run_records import ConfirmPlan, LikelihoodPlan, RunInputs
from invmm_gate.core.settings import PROFILES
from invmm_gate.policy.schema import load_policy
from invmm_gate.report.formats import render_html
from invmm_gate.report.studied import studied
from tests.report.conftest import verdict

STRICT = load_policy("strict")


@pytest.fixture
def inputs(data) -> RunInputs:
    """Of a run of `strict` on a model of 16 x 16 pixels."""
    metric = replace(data.run.inputs.metric, name="pixel_rmse", threshold=0.1, higher_is_copy=False)
    return replace(
        data.run.inputs,
        image_size=(16, 16),
        family="pixel",
        settings=PROFILES["gate"]["pixel"],
        confirm=STRICT.confirm.plan(),
        metric=metric,
    )


def test_a_run_of_a_shipped_policy_is_told_what_its_search_found_elsewhere(inputs: RunInputs) -> None:
    study = studied(inputs)
    assert study is not None
    assert [times for times, _, _ in study.planted] == [1, 2, 4, 8, 16, 32, 64]
    assert study.planted[-1][1] == study.planted[-1][2] == 8 * len(study.models)
    assert study.never_seen[1] == 64 * len(study.models)


def test_a_mirrored_search_is_no_weaker(inputs: RunInputs) -> None:
    assert studied(replace(inputs, settings=replace(inputs.settings, mirror=True))) == studied(inputs)


def likelihoods(plan: ConfirmPlan, **changes: int) -> ConfirmPlan:
    own = LikelihoodPlan(**({"draws": 128, "plain_draws": 2048, "confidence": 0.95} | changes))
    return replace(plan, likelihood=own)


def test_nothing_is_told_of_another_search(inputs: RunInputs) -> None:
    others = (
        replace(inputs, family="stable_diffusion_3"),
        replace(inputs, settings=replace(inputs.settings, steps=100)),
        replace(inputs, confirm=likelihoods(inputs.confirm, draws=64)),
        replace(inputs, confirm=likelihoods(inputs.confirm, plain_draws=512)),
        replace(inputs, confirm=replace(inputs.confirm, likelihood=None)),
        replace(inputs, metric=replace(inputs.metric, threshold=0.05)),
        replace(inputs, confirm=replace(inputs.confirm, plain_sampling=None)),
    )
    assert studied(replace(inputs, confirm=likelihoods(inputs.confirm))) is not None
    assert [studied(other) for other in others] == [None] * len(others)


def test_of_larger_images_the_study_is_told_with_its_size(inputs: RunInputs) -> None:
    small, large = studied(inputs), studied(replace(inputs, image_size=(64, 64)))
    assert small is not None
    assert large is not None
    assert small.smaller is None
    assert f"at most {large.smaller} pixels a side there" in " ".join(large.sentences())
    assert "a side there" not in " ".join(small.sentences())


def test_of_a_model_with_prompts_the_study_tells_what_its_prompts_brought_out(inputs: RunInputs) -> None:
    text = replace(inputs, family="stable_diffusion", settings=PROFILES["gate"]["stable_diffusion"])
    study = studied(replace(text, image_size=(32, 32)))
    assert study is not None
    assert [times for times, _, _ in study.planted] == [1, 2, 4, 8, 16, 32, 64]
    assert study.never_seen == (0, 16)
    assert "prompt" in " ".join(study.sentences())
    assert studied(replace(text, confirm=replace(text.confirm, prompts=None))) is None


def test_the_page_of_a_run_without_canaries_tells_of_it(data, inputs: RunInputs) -> None:
    told = replace(data, run=replace(data.run, inputs=inputs), verdict=verdict())
    assert "this search certified that an image comes out" in render_html(told)
    other = replace(told, run=replace(told.run, inputs=replace(inputs, family="stable_diffusion_3")))
    assert "this search certified that an image comes out" not in render_html(other)
