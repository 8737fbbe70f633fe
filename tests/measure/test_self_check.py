"""Before the probes: a gate that cannot see copies, or a model that cannot denoise, never gets as far as a pass."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invmm_gate.core.protocols import Condition, CopyMetric, NoiseLevel, Schedule
from invmm_gate.core.records import SelfCheck
from invmm_gate.core.settings import PROFILES, Family, InversionSettings
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.schedule import FlowMatching, VariancePreserving
from invmm_gate.measure.self_check import UTILITY_LIMIT, positive_control, utility_floor
from invmm_gate.similarity.pixel import PixelRmse
from invmm_gate.similarity.sscd import EncoderCosine
from tests.measure.bench import QUICK, Wrapped


def control(
    schedule: Schedule, metric: CopyMetric, settings: InversionSettings, *, image_size: tuple[int, int] = (8, 8)
) -> SelfCheck:
    return positive_control(metric, settings, schedule, image_size=image_size, device=torch.device("cpu"))


@pytest.mark.parametrize("family", ["pixel", "latent"])
@pytest.mark.parametrize("profile", PROFILES)
def test_the_positive_control_passes_under_every_profile(
    linear_schedule: VariancePreserving, profile: str, family: Family
) -> None:
    check = control(linear_schedule, PixelRmse(0.1), PROFILES[profile][family])
    assert check.passed, check.detail
    assert check.value is not None


@pytest.mark.parametrize("image_size", [(16, 16), (8, 24), (32, 32)])
def test_the_positive_control_passes_at_the_models_own_size(
    linear_schedule: VariancePreserving, image_size: tuple[int, int]
) -> None:
    check = control(linear_schedule, PixelRmse(0.1), PROFILES["gate"]["pixel"], image_size=image_size)
    assert check.passed, check.detail


@pytest.mark.parametrize("family", PROFILES["gate"])
@pytest.mark.parametrize("image_size", [(256, 256), (64, 160)])
def test_the_positive_control_passes_for_large_images(
    linear_schedule: VariancePreserving, image_size: tuple[int, int], family: Family
) -> None:
    """As of text-to-image models, whose images have 196,608 numbers and more."""
    schedule = FlowMatching() if family == "flow" else linear_schedule
    check = control(schedule, PixelRmse(0.1), PROFILES["gate"][family], image_size=image_size)
    assert check.passed, check.detail


def test_the_positive_control_passes_on_the_flow_schedule() -> None:
    check = control(FlowMatching(), PixelRmse(0.1), PROFILES["gate"]["latent"])
    assert check.passed, check.detail


def test_the_positive_control_is_the_same_whenever_it_is_run(linear_schedule: VariancePreserving) -> None:
    assert control(linear_schedule, PixelRmse(0.1), QUICK) == control(linear_schedule, PixelRmse(0.1), QUICK)


@pytest.mark.parametrize(
    ("metric", "outcome"),
    [
        (PixelRmse(threshold=0.0), "not_inverted"),
        (PixelRmse(threshold=0.021), "not_inverted"),
        (PixelRmse(threshold=0.07), "not_inverted"),
        (EncoderCosine(lambda images: images.flatten(1), name="pixels", threshold=1.1), "not_inverted"),
        (EncoderCosine(lambda images: images.flatten(1) * torch.nan, name="broken", threshold=0.5), "error"),
    ],
    ids=[
        "only exact copies",
        "nearer than most copies",
        "nearer than some",
        "cosine never reached",
        "metric gives NaN",
    ],
)
def test_a_metric_that_matches_no_copy_of_a_network_fails_the_positive_control(
    linear_schedule: VariancePreserving, metric: CopyMetric, outcome: str
) -> None:
    check = control(linear_schedule, metric, QUICK)
    assert not check.passed
    assert check.value is None
    steps = {"not_inverted": 80, "error": 10}[outcome]
    assert check.detail == (
        f"a closed-form model that memorizes a pattern came out as {outcome} after {steps} steps:"
        " these settings and this copy threshold cannot see copies"
    )


@pytest.mark.parametrize("metric", [PixelRmse(0.08), PixelRmse(0.1)])
def test_a_metric_that_matches_the_copies_of_a_network_passes_the_positive_control(
    linear_schedule: VariancePreserving, metric: CopyMetric
) -> None:
    assert control(linear_schedule, metric, PROFILES["gate"]["pixel"], image_size=(16, 16)).passed


@pytest.mark.parametrize("family", ["pixel", "latent"])
def test_a_run_of_one_step_fails_the_positive_control(linear_schedule: VariancePreserving, family: Family) -> None:
    short = replace(PROFILES["gate"][family], steps=1, test_every=1)
    check = control(linear_schedule, PixelRmse(0.1), short, image_size=(16, 16))
    assert not check.passed
    assert "came out as not_inverted after 1 steps" in check.detail


def test_a_run_whose_early_stop_comes_before_any_success_fails_the_positive_control(
    linear_schedule: VariancePreserving,
) -> None:
    hasty = replace(PROFILES["gate"]["pixel"], test_every=5, stop_above=1e-9, stop_after=0, stop_tests=1)
    check = control(linear_schedule, PixelRmse(0.1), hasty, image_size=(16, 16))
    assert not check.passed
    assert "came out as above_threshold" in check.detail


class Random(Wrapped):
    """Images of noise, whatever it is given."""

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        return torch.randn(x_t.shape, generator=torch.Generator().manual_seed(0))


class Linear(Wrapped):
    """The best linear denoiser of an image whose mean and variance it knows."""

    def __init__(self, inner: MixtureDenoiser, image: Tensor) -> None:
        super().__init__(inner)
        self.mean = image.mean(dim=(1, 2), keepdim=True)
        self.variance = (image - self.mean).square().mean()

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        alpha, sigma = level.alpha[:, None, None, None], level.sigma[:, None, None, None]
        gain = alpha * self.variance / (alpha.square() * self.variance + sigma.square())
        return self.mean + gain * (x_t - alpha * self.mean)


class Nan(Wrapped):
    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        return x_t * torch.nan


@pytest.fixture(scope="module")
def model(mixture: Callable[..., MixtureDenoiser]) -> MixtureDenoiser:
    return mixture()


def test_a_model_that_denoises_reaches_the_utility_floor(model: MixtureDenoiser, known_images: Tensor) -> None:
    check = utility_floor(model, list(known_images[:8]), root_seed=0)
    assert check.passed
    assert check.value is not None
    assert check.value < 0.01
    assert "on 8 controls is 0.00 of the best linear denoiser's (must be below 1)" in check.detail


def test_random_outputs_do_not_reach_the_utility_floor(model: MixtureDenoiser, known_images: Tensor) -> None:
    check = utility_floor(Random(model), list(known_images[:8]), root_seed=0)
    assert not check.passed
    assert check.value is not None
    assert check.value > 2 * UTILITY_LIMIT
    assert ": the checkpoint does not denoise; hold prediction_type and beta_schedule of its scheduler" in check.detail


def test_the_best_linear_denoiser_lies_at_one(model: MixtureDenoiser, known_images: Tensor) -> None:
    image = known_images[32]
    check = utility_floor(Linear(model, image), [image] * 8, root_seed=0)
    # Four noises of 192 elements: the mean error is known to a twentieth.
    assert check.value == pytest.approx(1.0, rel=0.1)


def test_nan_does_not_reach_the_utility_floor(model: MixtureDenoiser, known_images: Tensor) -> None:
    check = utility_floor(Nan(model), list(known_images[:8]), root_seed=0)
    assert (check.passed, check.value) == (False, None)
    assert "NaN or infinity" in check.detail


def test_one_image_that_gives_nan_is_enough(model: MixtureDenoiser, known_images: Tensor) -> None:
    images = [*known_images[:8], known_images[0] * torch.nan]
    assert not utility_floor(model, images, root_seed=0).passed


def test_a_control_of_one_colour_says_nothing_about_the_model(model: MixtureDenoiser, known_images: Tensor) -> None:
    flat = torch.full_like(known_images[0], 0.25)
    assert utility_floor(model, [*known_images[:8], flat], root_seed=0).value == (
        utility_floor(model, list(known_images[:8]), root_seed=0).value
    )
    only = utility_floor(model, [flat], root_seed=0)
    assert (only.passed, only.value) == (False, None)
    assert "one colour" in only.detail
