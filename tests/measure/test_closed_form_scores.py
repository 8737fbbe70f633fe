"""Models whose memorization is known without training get the scores that they must have, on both schedules."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from invmm_gate.core.protocols import Schedule
from invmm_gate.core.settings import PROFILES
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.schedule import FlowMatching, VariancePreserving
from tests.measure.bench import QUICK, measure

ABSENT = 32


@pytest.fixture(params=["variance preserving", "flow matching"])
def schedule(request: pytest.FixtureRequest, linear_schedule: VariancePreserving) -> Schedule:
    return linear_schedule if request.param == "variance preserving" else FlowMatching()


@pytest.fixture
def model_with(schedule: Schedule, known_images: Tensor) -> Callable[..., MixtureDenoiser]:
    """A model of images 0 to 31, with the given weights for the first ones and 1 for the rest."""

    def build(*first_weights: float) -> MixtureDenoiser:
        weights = torch.ones(32)
        weights[: len(first_weights)] = torch.tensor(first_weights)
        return MixtureDenoiser(known_images[:32], weights, schedule)

    return build


def test_an_image_that_is_all_the_model_knows_scores_exactly_zero(schedule: Schedule, known_images: Tensor) -> None:
    model = MixtureDenoiser(known_images[:1], torch.ones(1), schedule)
    # No gradient moves the noise away from N(0, I), as the model is right whatever the noise.
    assert measure(model, known_images, [0]).score(0) == 0.0


def test_an_image_with_almost_all_the_weight_scores_near_zero(
    model_with: Callable[..., MixtureDenoiser], known_images: Tensor
) -> None:
    # 0.0075 is what one step of Adam at learning rate 0.1 costs any image.
    assert measure(model_with(1e9), known_images, [0]).score(0) < 1e-3
    assert measure(model_with(1e4), known_images, [0]).score(0) < 0.0075


def test_tested_at_the_start_such_an_image_scores_zero_at_step_zero(
    model_with: Callable[..., MixtureDenoiser], known_images: Tensor
) -> None:
    run = measure(model_with(1e9), known_images, [0], settings=replace(QUICK, test_at_start=True))
    measurement = run.measurements[0]
    assert (measurement.outcome, measurement.invmm, measurement.steps) == ("inverted", 0.0, 0)
    assert measurement.evaluations == QUICK.test_samples * QUICK.sampler_steps
    assert not run.inversions[0][0].mu.any()


FINE_STEPS = replace(QUICK, learning_rate=0.02, test_every=2, seeds=3)
"""The authors' learning rate of 0.1 costs every image 0.0075 a step at first, which hides 8 copies of 32."""


def test_the_more_often_an_image_is_planted_the_lower_its_score(
    model_with: Callable[..., MixtureDenoiser], known_images: Tensor
) -> None:
    run = measure(model_with(64, 8, 8), known_images, range(5), settings=FINE_STEPS, slots=5)
    planted_64, planted_8, once = run.score(0), [run.score(1), run.score(2)], [run.score(3), run.score(4)]
    assert 2 * planted_64 < min(planted_8)
    assert max(planted_8) < min(once)


@pytest.mark.parametrize("family", ["pixel", "latent"])
def test_under_the_gate_each_rung_of_a_ladder_scores_below_the_next(
    linear_schedule: VariancePreserving, known_images: Tensor, family: str
) -> None:
    """With a learning rate of 0.1 and a test every 10 steps, four plantings scored like a single one."""
    weights = torch.ones(32)
    weights[:3] = torch.tensor([64.0, 16.0, 4.0])
    model = MixtureDenoiser(known_images[:32], weights, linear_schedule)
    run = measure(model, known_images, [*range(4), ABSENT], settings=PROFILES["gate"][family], slots=5)
    scores = [run.score(number) for number in range(4)]
    assert scores == sorted(scores)
    assert all(1.05 * nearer < farther for nearer, farther in pairwise(scores)), scores
    assert run.measurements[ABSENT].outcome == "not_inverted"


def test_an_image_that_the_model_does_not_know_is_not_inverted(
    model_with: Callable[..., MixtureDenoiser], known_images: Tensor
) -> None:
    measurement = measure(model_with(64, 8), known_images, [ABSENT], slots=1).measurements[ABSENT]
    assert (measurement.outcome, measurement.invmm, measurement.steps) == ("not_inverted", None, QUICK.steps)
    assert measurement.share is not None
    assert (measurement.share.hits, measurement.share.trials) == (0, 8)


def test_the_inverted_noise_makes_the_image_again(
    model_with: Callable[..., MixtureDenoiser], known_images: Tensor
) -> None:
    (inversion,) = measure(model_with(64, 8), known_images, [1]).inversions[1]
    assert len(inversion.copies) == 4
    for copy in inversion.copies:
        torch.testing.assert_close(copy, known_images[1], atol=0.2, rtol=0)
