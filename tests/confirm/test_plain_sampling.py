"""Plain sampling: the rate is that of the model, the interval covers it, and the same samples answer for all probes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from invmm_gate.confirm.plain_sampling import Confirmed, Sampled, SamplingPlan, confirm_by_sampling, looks
from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.intervals import clopper_pearson
from invmm_gate.core.protocols import Condition, CopyMetric, DiffusionModel, NoiseLevel
from invmm_gate.core.records import Confirmation
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.samplers import GridSampler
from invmm_gate.measure.distributions import stream
from invmm_gate.similarity.pixel import PixelRmse
from invmm_gate.similarity.sscd import EncoderCosine
from tests.measure.bench import RowCounter, Wrapped

PLAN = SamplingPlan(trials=256, sampler_steps=10, rate_limit=0.05)
ABSENT = 32
METRIC = PixelRmse(0.1)
COSINE = EncoderCosine(lambda images: images.flatten(1), name="pixels", threshold=0.9)


@pytest.fixture(scope="module")
def model(mixture: Callable[..., MixtureDenoiser]) -> MixtureDenoiser:
    """Image 0 is half of all samples, image 1 an eighth, image 2 a 16th, the rest about a hundredth each."""
    weight = 0.3125 / 29
    return mixture(0.5 / weight, 0.125 / weight, 0.0625 / weight)


def references(images: Tensor, numbers: Sequence[int], metric: CopyMetric = METRIC) -> dict[str, tuple[Tensor, ...]]:
    return {str(number): (metric.embed(images[number][None]),) for number in numbers}


def confirmed(
    model: DiffusionModel,
    wanted: Mapping[str, Sequence[Tensor]],
    plan: SamplingPlan = PLAN,
    *,
    metric: CopyMetric = METRIC,
) -> dict[str, Confirmed]:
    events = confirm_by_sampling(GridSampler(model), metric, wanted, plan, streams=partial(stream, 0, "plain_sampling"))
    return {event.confirmation.probe: event for event in events if isinstance(event, Confirmed)}


def records(results: Mapping[str, Confirmed]) -> dict[str, Confirmation]:
    return {probe: result.confirmation for probe, result in results.items()}


def test_an_image_with_half_the_weight_is_about_half_of_the_samples(
    model: MixtureDenoiser, known_images: Tensor
) -> None:
    # A limit that no answer is clear of, so that all 1024 samples are drawn for every probe.
    plan = replace(PLAN, trials=1024, rate_limit=0.5)
    wanted = references(known_images, [0])
    (whole,) = records(confirmed(model, wanted, plan)).values()
    assert whole.trials == 1024
    assert abs(whole.hits / 1024 - 0.5) < 3 * (0.25 / 1024) ** 0.5
    assert whole.interval.low < 0.5 < whole.interval.high


@pytest.mark.parametrize(("number", "rate"), [(0, 0.5), (1, 0.125), (2, 0.0625), (5, 0.3125 / 29), (ABSENT, 0.0)])
def test_the_interval_covers_the_rate_that_the_model_has(
    model: MixtureDenoiser, known_images: Tensor, number: int, rate: float
) -> None:
    result = records(confirmed(model, references(known_images, [number]), replace(PLAN, rate_limit=0.0)))[str(number)]
    assert result.interval.low <= rate <= result.interval.high


def test_the_interval_is_the_exact_one_at_the_confidence_of_all_looks_together(
    model: MixtureDenoiser, known_images: Tensor
) -> None:
    results = records(confirmed(model, references(known_images, [0, 1, 2, ABSENT])))
    shared = 1 - 0.05 / len(looks(PLAN.trials))
    for result in results.values():
        exact = binomtest(result.hits, result.trials).proportion_ci(confidence_level=shared, method="exact")
        assert result.interval.confidence == pytest.approx(shared)
        assert result.interval.method == "clopper_pearson"
        assert (result.interval.low, result.interval.high) == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize(
    ("trials", "expected"),
    [(1, (1,)), (64, (64,)), (65, (64, 65)), (512, (64, 128, 256, 512)), (600, (64, 128, 256, 512, 600))],
)
def test_the_question_is_asked_at_64_samples_and_each_doubling(trials: int, expected: tuple[int, ...]) -> None:
    assert looks(trials) == expected


def test_a_clear_answer_stops_at_the_first_look_and_an_unclear_one_goes_on(
    model: MixtureDenoiser, known_images: Tensor
) -> None:
    results = records(confirmed(model, references(known_images, [0, 1, 2, ABSENT]), replace(PLAN, trials=1024)))
    assert (results["0"].status, results["0"].trials) == ("confirmed", 64)
    assert (results["2"].status, results["2"].trials) == ("refuted", 1024)  # 0.0625 is too near to 0.05 to tell
    assert results[str(ABSENT)].status == "refuted"
    assert 64 < results[str(ABSENT)].trials < 1024
    for result in results.values():
        assert result.evaluations == result.trials * PLAN.sampler_steps
        assert result.method == "plain_sampling"


@pytest.mark.parametrize("limit", [0.0, 0.02, 0.1, 0.5, 0.9])
def test_status_says_on_which_side_of_the_limit_the_interval_lies(
    model: MixtureDenoiser, known_images: Tensor, limit: float
) -> None:
    results = records(confirmed(model, references(known_images, [0, 1, 5, ABSENT]), replace(PLAN, rate_limit=limit)))
    for result in results.values():
        assert (result.status == "confirmed") == (result.interval.low > limit)
        if result.trials < PLAN.trials:
            assert result.status == "confirmed" or result.interval.high <= limit


def test_at_limit_zero_one_copy_confirms_and_no_copy_is_refuted_only_within_the_budget(
    model: MixtureDenoiser, known_images: Tensor
) -> None:
    results = records(confirmed(model, references(known_images, [5, ABSENT]), replace(PLAN, rate_limit=0.0)))
    assert results["5"].status == "confirmed"
    assert 0 < results["5"].hits < 10
    absent = results[str(ABSENT)]
    assert (absent.status, absent.hits, absent.trials) == ("refuted", 0, PLAN.trials)
    assert absent.interval.high > 0.01  # not a proof of absence
    assert absent.closest is not None
    assert absent.closest > METRIC.threshold


def test_a_probe_gets_the_same_answer_whatever_is_asked_with_it_and_in_any_order(
    model: MixtureDenoiser, known_images: Tensor
) -> None:
    numbers = [0, 1, 2, 5, ABSENT]
    together = confirmed(model, references(known_images, numbers))
    backwards = confirmed(model, references(known_images, numbers[::-1]))
    alone = {name: confirmed(model, references(known_images, [int(name)]))[name] for name in ("1", "5")}
    assert records(backwards) == records(together)
    for name, result in alone.items():
        assert result.confirmation == together[name].confirmation
        assert all(torch.equal(one, other) for one, other in zip(result.copies, together[name].copies, strict=True))


def test_up_to_four_of_the_copies_are_kept_and_they_are_copies(model: MixtureDenoiser, known_images: Tensor) -> None:
    wanted = references(known_images, [0, ABSENT])
    results = confirmed(model, wanted)
    assert (len(results["0"].copies), len(results[str(ABSENT)].copies)) == (4, 0)
    for copy in results["0"].copies:
        assert float(METRIC.compare(METRIC.embed(copy[None]), wanted["0"][0])) <= METRIC.threshold


@pytest.mark.parametrize("metric", [METRIC, COSINE], ids=["low is copy", "high is copy"])
def test_a_mirrored_sample_counts_where_the_mirror_is_asked_for(
    model: MixtureDenoiser, known_images: Tensor, metric: CopyMetric
) -> None:
    flipped = known_images.flip(-1)
    image, mirror = (metric.embed(images[0][None]) for images in (flipped, known_images))
    results = records(confirmed(model, {"plain": (image,), "both": (image, mirror)}, metric=metric))
    assert results["plain"].hits == 0
    assert results["both"].hits > 20


def test_where_high_means_copy_the_closest_sample_is_the_highest(model: MixtureDenoiser, known_images: Tensor) -> None:
    by_cosine = records(confirmed(model, references(known_images, [0, ABSENT], COSINE), metric=COSINE))
    by_distance = records(confirmed(model, references(known_images, [0, ABSENT])))
    assert by_cosine["0"].hits == by_distance["0"].hits
    assert by_cosine["0"].closest == pytest.approx(1.0, abs=1e-3)
    assert by_cosine[str(ABSENT)].closest < 0.9


def test_progress_adds_up_to_the_samples_that_were_drawn(model: MixtureDenoiser, known_images: Tensor) -> None:
    plan = replace(PLAN, trials=100, rate_limit=0.5)
    wanted = references(known_images, [0])
    events = list(confirm_by_sampling(GridSampler(model), METRIC, wanted, plan, streams=partial(stream, 0, "x")))
    drawn = [event.samples for event in events if isinstance(event, Sampled)]
    assert drawn == [32, 32, 32, 4]


def test_every_call_of_the_network_has_the_rows_of_the_plan(model: MixtureDenoiser, known_images: Tensor) -> None:
    counter = RowCounter(model)
    confirmed(counter, references(known_images, [0]), replace(PLAN, trials=100, rate_limit=0.5))
    assert counter.calls == {(False, PLAN.rows)}


class Broken(Wrapped):
    """A model whose samples are NaN or infinite from its second batch on."""

    def __init__(self, inner: MixtureDenoiser, value: float) -> None:
        super().__init__(inner)
        self.value, self.calls = value, 0

    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        self.calls += 1
        x_0_hat = self.inner.estimate_x_0(x_t, level)
        return x_0_hat * self.value if self.calls > PLAN.sampler_steps else x_0_hat


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_network_that_gives_nan_leaves_the_run_inconclusive(
    model: MixtureDenoiser, known_images: Tensor, value: float
) -> None:
    with pytest.raises(MeasurementError, match="measure's grid gave NaN or infinity; expected finite values") as caught:
        confirmed(Broken(model, value), references(known_images, [ABSENT]))
    assert caught.value.exit_code == 11


def test_a_metric_that_gives_nan_refutes_nothing(model: MixtureDenoiser, known_images: Tensor) -> None:
    metric = EncoderCosine(lambda images: images.flatten(1) * torch.nan, name="broken", threshold=0.5)
    with pytest.raises(MeasurementError, match="the copy metric broken gave NaN or infinity"):
        confirmed(model, references(known_images, [0], metric), metric=metric)


def test_stopping_early_does_not_cost_the_coverage_that_is_promised() -> None:
    """A probe exactly at the limit is confirmed by mistake in at most 2.5 % of runs, however often one looks."""
    random = torch.Generator().manual_seed(0)
    marks, limit, mistakes, runs = looks(1024), 0.1, 0, 2000
    draws = (torch.rand(runs, 1024, generator=random) < limit).cumsum(dim=1)
    shared = 1 - 0.05 / len(marks)
    low = {mark: [clopper_pearson(hits, mark, confidence=shared).low for hits in range(mark + 1)] for mark in marks}
    for run in draws.tolist():
        mistakes += any(low[mark][run[mark - 1]] > limit for mark in marks)
    assert 0 < mistakes / runs <= 0.025
