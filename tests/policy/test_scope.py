"""What a verdict's scores are of, and the seed that content gives: nothing that is no content moves it."""

import datetime
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invmm_gate.core.run_records import RunData
from invmm_gate.policy.confirm_schema import ConfirmChoice
from invmm_gate.policy.evidence import content_seed, scope_of
from invmm_gate.policy.judge import judge
from tests.policy.policy_builders import SAMPLERS, STANDARD, STRICT, TODAY, clean_run, digest

OF_CONTENT = {"model": digest("model"), "probe_set": digest("probes"), "policy": STRICT.digest}


def run_with(**inputs: Any) -> RunData:
    data = clean_run()
    said = {"image_size": (16, 24), "seed": content_seed(**OF_CONTENT)} | inputs
    return replace(data, run=replace(data.run, inputs=replace(data.run.inputs, **said)))


def test_the_seed_of_content_is_known_and_fits_every_reader_of_json_and_every_generator() -> None:
    assert content_seed(model="a" * 64, probe_set="b" * 64, policy="c" * 64) == 6783905175078705


@given(st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), min_size=3, max_size=3, unique=True))
def test_each_of_the_three_digests_moves_the_seed_and_so_does_their_order(digests: list[str]) -> None:
    model, probe_set, policy = digests
    seed = content_seed(model=model, probe_set=probe_set, policy=policy)
    assert 0 <= seed < 2**53
    others = [(probe_set, model, policy), (model, policy, probe_set), (policy, probe_set, model)]
    others += [(digest("x"), probe_set, policy), (model, digest("x"), policy), (model, probe_set, digest("x"))]
    assert seed not in {content_seed(model=a, probe_set=b, policy=c) for a, b, c in others}


def test_a_verdict_names_size_sampler_scales_and_the_seed_that_content_gave() -> None:
    verdict = judge(run_with(), STRICT, (), today=TODAY)
    said = verdict.tested
    assert (said.image_size, said.samplers, said.sampler_steps) == ((16, 24), (SAMPLERS.released, SAMPLERS.grid), 50)
    assert said.guidance_scales == (1.0,)
    assert (said.seed, said.seed_chosen) == (content_seed(**OF_CONTENT), False)


@pytest.mark.parametrize("seed", [0, 7, 2**62])
def test_another_seed_than_that_of_content_is_a_chosen_one(seed: int) -> None:
    said = judge(run_with(seed=seed), STRICT, (), today=TODAY).tested
    assert (said.seed, said.seed_chosen) == (seed, True)


def test_a_seed_that_was_drawn_for_another_policy_is_a_chosen_one_under_this() -> None:
    said = judge(run_with(), STANDARD, (), today=TODAY).tested
    assert said.seed_chosen


def test_the_scales_of_captions_and_searches_count_for_a_model_that_takes_prompts() -> None:
    confirm = ConfirmChoice.model_validate({"prompts": {"guidance_scales": [7.5, 1.0]}}).plan()
    settings = replace(clean_run().run.inputs.settings, sampler_steps=20, guidance_scales=(3.0,), prompt="joint")
    data = run_with(settings=settings, confirm=confirm)
    said = scope_of(data, STRICT.digest)
    assert said.guidance_scales == (1.0, 3.0, 7.5)


def test_a_later_day_changes_nothing_of_what_was_tested() -> None:
    later = TODAY + datetime.timedelta(days=30)
    assert judge(run_with(), STRICT, (), today=later).tested == judge(run_with(), STRICT, (), today=TODAY).tested
