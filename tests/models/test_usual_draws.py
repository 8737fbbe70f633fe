"""The defaults of pipelines that a policy with `sampler: released` falls back on are diffusers' own."""

import inspect
from dataclasses import replace
from typing import Any

import pytest

from invmm_gate.core.settings import PROFILES
from invmm_gate.core.usual_draws import USUAL_DRAWS, drawn_as_usual
from invmm_gate.models.networks import of_diffusers
from invmm_gate.models.read.pipelines import FAMILIES
from invmm_gate.policy.schema import load_policy

OFFSET = {"ZImagePipeline": 1.0}
"""What is added to the pipeline's scale, where 0 is its conditional estimate."""


@pytest.mark.parametrize("name", USUAL_DRAWS)
def test_they_are_those_of_the_pipelines_call(name: str) -> None:
    known = inspect.signature(of_diffusers(name).__call__).parameters
    assert USUAL_DRAWS[name].steps == known["num_inference_steps"].default
    argument = "true_cfg_scale" if name == "QwenImagePipeline" else "guidance_scale"
    if argument in known:
        assert USUAL_DRAWS[name].guidance_scale == known[argument].default + OFFSET.get(name, 0.0)


def test_every_pipeline_that_is_read_has_them() -> None:
    assert {name for name in FAMILIES if name.endswith("Pipeline")} == set(USUAL_DRAWS)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (50, (1.0, 3.0, 7.0))),
        ({"sampler": "released"}, (4, (1.0, 8.5))),
        ({"sampler": "released", "sampler_steps": 2}, (2, (1.0, 8.5))),
        ({"sampler": "released", "sampler_steps": 2, "guidance_scales": (1.0,)}, (2, (1.0,))),
    ],
)
def test_what_the_policy_names_counts_before_them(
    given: dict[str, Any], expected: tuple[int, tuple[float, ...]]
) -> None:
    settings = replace(PROFILES["gate"]["stable_diffusion"], **given)
    found = drawn_as_usual(settings, "LatentConsistencyModelPipeline", given)
    assert (found.sampler_steps, found.guidance_scales) == expected


def test_strict_measures_on_the_grid() -> None:
    settings = load_policy("strict").resolve_settings("stable_diffusion", pipeline="LatentConsistencyModelPipeline")
    assert (settings.sampler, settings.sampler_steps) == ("grid", 50)
