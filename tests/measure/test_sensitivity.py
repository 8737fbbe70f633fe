"""The sequential sensitivity test decides as the full one does, for fewer network evaluations.

`pytest -s tests/measure/test_sensitivity.py` prints how many it saves; benchmarks/early_fail.py does so for the demo's
trained checkpoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invmm_gate.core.protocols import CopyMetric, DiffusionModel
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.sampling import sample
from invmm_gate.measure.distributions import noise_from
from invmm_gate.measure.sensitivity import TestCase, TestResult, run_tests
from invmm_gate.similarity.pixel import PixelRmse
from invmm_gate.similarity.sscd import EncoderCosine
from tests.measure.bench import Guided, NanNear

CASES, SAMPLES, SAMPLER_STEPS = 200, 8, 5
SCALES = {"one guidance scale": (1.0,), "three guidance scales": (1.0, 2.0, 3.0)}


@pytest.fixture(scope="module")
def model(mixture: Callable[..., MixtureDenoiser]) -> Guided:
    """The higher the guidance scale, the more of images 0 to 3."""
    return Guided(mixture(), mixture(4, 4, 4, 4))


@pytest.fixture(scope="module")
def cases(known_images: Tensor) -> list[TestCase]:
    """Distributions on the way from N(0, I) towards an image, so that none, some or all of their draws give it."""
    metric = PixelRmse(0.1)
    generator = torch.Generator().manual_seed(0)
    built = []
    for _ in range(CASES):
        image = known_images[int(torch.randint(32, (), generator=generator))]
        strength, width = torch.rand(2, generator=generator).tolist()
        direction = image + 0.5 * torch.randn(image.shape, generator=generator)
        built.append(
            TestCase(
                mu=0.7 * strength * direction,
                log_var=torch.full_like(image, -width),
                standard=torch.randn(SAMPLES, *image.shape, generator=generator),
                seeds=torch.arange(SAMPLES),
                reference=metric.embed(image[None]),
                needed=(SAMPLES,),
            )
        )
    return built


def decide(
    model: DiffusionModel,
    cases: Sequence[TestCase],
    scales: tuple[float, ...],
    *,
    rows: int = 64,
    metric: CopyMetric | None = None,
) -> tuple[TestResult, ...]:
    metric = metric or PixelRmse(0.1)
    return run_tests(model, metric, cases, rows=rows, sampler_steps=SAMPLER_STEPS, guidance_scales=scales)


def in_full(cases: Sequence[TestCase]) -> list[TestCase]:
    return [replace(case, fewest=len(case.standard)) for case in cases]


def every_value(model: DiffusionModel, case: TestCase, scale: float) -> list[float]:
    """The full test, straight down: sample all noises and compare each with the image."""
    noise = noise_from(case.mu[None], case.log_var[None], case.standard[None])[0]
    images = sample(model, noise, steps=SAMPLER_STEPS, guidance_scale=scale).clamp(-1, 1)
    return (((images + 1) / 2).flatten(1) - case.reference).square().mean(1).sqrt().tolist()


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
def test_early_fail_decides_as_the_full_test_in_200_cases(
    model: Guided, cases: list[TestCase], scales: tuple[float, ...]
) -> None:
    early, full = decide(model, cases, scales), decide(model, in_full(cases), scales)
    assert [(case.passed, case.guidance_scale) for case in early] == [
        (case.passed, case.guidance_scale) for case in full
    ]
    # The cases are worth something: every share from 0 to 8 of 8 occurs, and neither decision is rare.
    assert {case.hits for case in full} == set(range(SAMPLES + 1))
    assert 40 < sum(case.passed for case in full) < 160
    assert all(case.samples == SAMPLES * len(scales) for case in full)
    assert all(case.samples <= SAMPLES * len(scales) for case in early)
    needed = {
        name: sum(case.samples for case in some) * SAMPLER_STEPS for name, some in (("early", early), ("full", full))
    }
    assert needed["early"] < needed["full"]
    print(
        f"\n{CASES} tests of {SAMPLES} samples at scales {scales}: {sum(case.passed for case in full)} passed;"
        f" network evaluations {needed['full']} in full, {needed['early']} with early fail"
        f" ({1 - needed['early'] / needed['full']:.0%} saved)"
    )


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
def test_both_are_the_decision_written_straight_down(
    model: Guided, cases: list[TestCase], scales: tuple[float, ...]
) -> None:
    some = cases[:30]
    for case, early, full in zip(some, decide(model, some, scales), decide(model, in_full(some), scales), strict=True):
        values = {scale: every_value(model, case, scale) for scale in scales}
        hits = {scale: sum(value <= 0.1 for value in some) for scale, some in values.items()}
        first = next((scale for scale in scales if hits[scale] == SAMPLES), None)
        assert early.passed == full.passed == (first is not None)
        assert early.guidance_scale == full.guidance_scale == first
        assert full.hits == max(hits.values())
        assert full.best_value == pytest.approx(min(min(some) for some in values.values()), abs=1e-4)
        until = [scale for scale in scales if first is None or scale <= first]
        assert early.samples == sum(next_miss(values[scale]) for scale in until)


NEEDED = (4, 6, 8)
"""None of four samples may be no copy, or one of six, or two of eight."""


@pytest.mark.parametrize("fewest", [0, 5])
def test_some_misses_are_allowed_where_further_samples_make_up_for_them(
    model: Guided, cases: list[TestCase], fewest: int
) -> None:
    """What is decided stays so, whatever is drawn afterwards so that at least the fewest samples are known."""
    some = [replace(case, needed=NEEDED, fewest=fewest) for case in cases[:60]]
    found = decide(model, some, (1.0,))
    for case, result, other in zip(some, found, decide(model, some[::-1], (1.0,), rows=5)[::-1], strict=True):
        copies = [value <= 0.1 for value in every_value(model, case, 1.0)]
        ends = (
            count for count in range(1, SAMPLES + 1) if (m := copies[:count].count(False)) > 2 or count >= NEEDED[m]
        )
        decided = next(ends)
        tried = copies[: max(decided, fewest)]
        assert (result.trials, result.samples, result.hits) == (len(tried), len(tried), sum(tried))
        assert result.passed == (copies[:decided].count(False) <= 2)
        assert counted(other) == counted(result)
    expected = {(True, 4), (True, 6), (True, 8), (False, 3)} if not fewest else {(True, 5), (True, 6), (False, 5)}
    assert {(result.passed, result.trials) for result in found} >= expected


def test_a_test_of_one_sample_ends_at_the_first_scale_that_passes_too(model: Guided, cases: list[TestCase]) -> None:
    single = [replace(case, standard=case.standard[:1], seeds=case.seeds[:1], needed=(1,)) for case in cases[:20]]
    found = decide(model, single, (1.0, 2.0, 3.0))
    assert {result.samples for result in found if result.guidance_scale == 1.0} == {1}
    assert {result.samples for result in found if not result.passed} == {3}


def next_miss(values: list[float]) -> int:
    """Samples up to and including the first miss."""
    return next((index + 1 for index, value in enumerate(values) if value > 0.1), len(values))


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("rows", [1, 13])
def test_what_is_counted_depends_neither_on_the_rows_nor_on_the_mates(
    model: Guided, cases: list[TestCase], scales: tuple[float, ...], rows: int
) -> None:
    expected = decide(model, cases[:8], scales)
    few = decide(model, cases[:8], scales, rows=rows)
    backwards = decide(model, cases[7::-1], scales, rows=rows)[::-1]
    alone = [decide(model, [case], scales, rows=rows)[0] for case in cases[:2]]
    assert [counted(case) for case in few] == [counted(case) for case in expected]
    assert [counted(case) for case in backwards] == [counted(case) for case in expected]
    assert [counted(case) for case in alone] == [counted(case) for case in expected[:2]]
    # At one row count the values are the same bits, too.
    assert [case.best_value for case in backwards] == [case.best_value for case in few]
    assert [case.best_value for case in alone] == [case.best_value for case in few[:2]]


def counted(result: TestResult) -> tuple[bool, float | None, int, int, int]:
    return (result.passed, result.guidance_scale, result.hits, result.samples, len(result.copies))


def test_full_and_early_cases_go_together_in_one_call(model: Guided, cases: list[TestCase]) -> None:
    scales = (1.0, 2.0, 3.0)
    mixed = [replace(case, fewest=SAMPLES if index % 2 else 0) for index, case in enumerate(cases[:20])]
    early, full = decide(model, cases[:20], scales), decide(model, in_full(cases[:20]), scales)
    expected = [full[index] if index % 2 else early[index] for index in range(20)]
    assert [counted(case) for case in decide(model, mixed, scales)] == [counted(case) for case in expected]


def test_the_copies_shown_are_copies(model: Guided, cases: list[TestCase]) -> None:
    metric = PixelRmse(0.1)
    for case, result in zip(cases[:40], decide(model, in_full(cases[:40]), (1.0,)), strict=True):
        assert len(result.copies) == min(result.hits, 4)
        for copy in result.copies:
            assert bool(metric.is_copy(metric.compare(metric.embed(copy[None]), case.reference)).all())


def test_a_metric_where_high_means_copy_is_read_the_right_way_round(model: Guided, cases: list[TestCase]) -> None:
    cosine = EncoderCosine(lambda images: images.flatten(1), name="pixels", threshold=0.9)
    # Features of PixelRmse are pixels on [0, 1]; back to [-1, 1] for the cosine.
    some = in_full(cases[:40])
    turned = [replace(case, reference=torch.nn.functional.normalize(case.reference * 2 - 1)) for case in some]
    by_cosine, by_distance = decide(model, turned, (1.0,), metric=cosine), decide(model, some, (1.0,))
    for high, low in zip(by_cosine, by_distance, strict=True):
        assert high.passed == low.passed
        assert high.best_value > 0.9 if high.hits else high.best_value < 0.9


def test_nan_is_no_copy_and_marks_its_own_case_only(
    mixture: Callable[..., MixtureDenoiser], cases: list[TestCase], known_images: Tensor
) -> None:
    sound = mixture(4, 4, 4, 4)
    expected = decide(sound, cases[:40], (1.0,))
    broken = decide(NanNear(sound, known_images[0]), cases[:40], (1.0,))
    marked = [not result.finite for result in broken]
    assert 0 < sum(marked) < 20
    for result, before in zip(broken, expected, strict=True):
        if result.finite:
            assert (counted(result), result.best_value) == (counted(before), before.best_value)
        else:
            assert not result.passed
            assert result.best_value != result.best_value
