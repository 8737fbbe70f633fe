"""What each option of the inversion does to the outcome, and what a broken network does: an error, never a score."""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Literal

import pytest
import torch
from torch import Tensor

from invmm_gate.core.intervals import wilson
from invmm_gate.core.records import ReplicationShare
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.files.strict_json import to_json
from invmm_gate.measure.distributions import normality
from invmm_gate.measure.inversion import Advanced, Inversion, Inverter
from invmm_gate.measure.likelihood import draws_to_certify
from invmm_gate.measure.slots import Task, WeightState, adapt
from invmm_gate.similarity.pixel import PixelRmse
from invmm_gate.similarity.sscd import EncoderCosine
from tests.measure.bench import QUICK, BrokenWhenSampling, Guided, NanNear, measure

ABSENT = 32


@pytest.fixture(scope="module")
def model(mixture: Callable[..., MixtureDenoiser]) -> MixtureDenoiser:
    return mixture(64, 8, 8)


def test_an_inverted_probe_has_a_certified_share(model: MixtureDenoiser, known_images: Tensor) -> None:
    certain = replace(QUICK, certified_share=0.9, certifications=8, test_samples=1)
    run = measure(model, known_images, [0, 1, 3], settings=certain)
    lucky = measure(model, known_images, [0, 1, 3], settings=replace(certain, certified_share=None))
    (needed,) = draws_to_certify(0.9, 0.05 / 8)
    for number in (0, 1, 3):
        (trial,) = run.measurements[number].trials
        assert trial.outcome == "inverted"
        assert trial.confirmation == ReplicationShare(hits=needed, trials=needed, interval=wilson(needed, needed))
        assert trial.steps >= lucky.measurements[number].steps
    # One sample replicates by luck long before 49 do.
    assert run.measurements[3].steps > lucky.measurements[3].steps
    assert lucky.measurements[3].trials[0].confirmation is None


def test_eight_of_eight_by_luck_are_no_inversion(model: MixtureDenoiser, known_images: Tensor) -> None:
    """The old test alone, 8 of 8 at one of many looks, calls this inverted: one sample in seven is no copy."""
    settings = replace(QUICK, test_samples=1, certified_share=0.95, steps=10, learning_rate=0.02)
    (trial,) = measure(model, known_images, [0], settings=settings).measurements[0].trials
    assert (trial.outcome, trial.invmm) == ("not_inverted", None)
    assert trial.share is not None
    assert (trial.share.hits, trial.share.trials) == (1, 1)
    (needed,) = draws_to_certify(0.95, 0.05)
    assert trial.confirmation is not None
    drawn = trial.confirmation.trials
    assert trial.confirmation.hits == drawn - 1 < needed - 1, "the first miss ends the attempt"
    assert trial.confirmation.interval == wilson(drawn - 1, drawn)
    sampled = (1 + drawn) * settings.sampler_steps
    assert trial.evaluations == 2 * settings.batch_size * settings.steps + sampled


def test_the_draws_that_certify_are_not_those_of_the_test(model: MixtureDenoiser, known_images: Tensor) -> None:
    # Image 0 is 0.55 of all samples: one sample passes a test at N(0, I) that the next one may not bear out.
    once = replace(QUICK, test_samples=1, test_at_start=True, steps=10)
    numbers = range(16)  # sixteen probes, and so streams, of one image
    alone, twice = (
        measure(model, lambda _: known_images[0], numbers, settings=replace(once, certified_share=share))
        for share in (None, 0.01)
    )
    at_once = [sum(run.measurements[number].steps == 0 for number in numbers) for run in (alone, twice)]
    assert 5 <= at_once[0] <= 12
    assert 0 < at_once[1] <= at_once[0]


def test_an_inverted_distribution_is_shrunk_towards_plain_noise_while_it_replicates(
    model: MixtureDenoiser, known_images: Tensor
) -> None:
    plain = measure(model, known_images, [1, 3])
    certain = replace(QUICK, certified_share=0.5, certifications=6, certify_misses=2)
    shrunk = measure(model, known_images, [1, 3], settings=certain)
    for number in (1, 3):
        assert shrunk.score(number) <= plain.score(number)
        (trial,) = shrunk.measurements[number].trials
        (inversion,) = shrunk.inversions[number]
        assert trial.invmm == pytest.approx(float(normality(inversion.mu[None], inversion.log_var[None])))
    tests = [test for number in (1, 3) for test in shrunk.measurements[number].trials[0].tests]
    assert any(test.stretch < 1 and test.share.hits / test.share.trials > 0.5 for test in tests)


def test_a_distribution_that_replicates_now_and_then_is_certified_further_away(
    model: MixtureDenoiser, known_images: Tensor
) -> None:
    heavy = replace(QUICK, weight_rule="fixed", initial_weight=1.0, learning_rate=0.03, steps=50, test_every=50)
    before = measure(model, known_images, range(4, 12), settings=replace(heavy, certified_share=0.7))
    certain = replace(heavy, certified_share=0.7, certify_at="last_step", certifications=4, certify_misses=3)
    after = measure(model, known_images, range(4, 12), settings=certain)
    found = [sum(run.measurements[number].outcome == "inverted" for number in range(4, 12)) for run in (before, after)]
    assert found[0] < found[1]
    stretched = [
        run for number in range(4, 12) for run in after.measurements[number].trials if run.tests[-1].stretch > 1
    ]
    assert all(trial.invmm is None or trial.invmm > trial.curve[-1].normality for trial in stretched)


def test_a_mirrored_copy_is_found_where_the_profile_looks_for_it(known_images: Tensor, model: MixtureDenoiser) -> None:
    flipped = known_images.flip(-1)
    plain = measure(model, flipped, [0]).measurements[0]
    both = measure(model, flipped, [0], settings=replace(QUICK, mirror=True)).measurements[0]
    assert plain.outcome == "not_inverted"
    assert both.outcome == "inverted"
    assert [(trial.mirrored, trial.outcome) for trial in both.trials] == [(False, "not_inverted"), (True, "inverted")]
    assert both.invmm == both.trials[1].invmm
    assert both.share is not None
    assert both.share.trials == 8  # of the mirrored target only, which is the more memorized one


def test_of_several_seeds_the_lower_median_counts_and_the_spread_is_told(
    model: MixtureDenoiser, known_images: Tensor
) -> None:
    for seeds in (3, 4):
        measurement = measure(model, known_images, [1], settings=replace(QUICK, seeds=seeds)).measurements[1]
        scores = [trial.invmm for trial in measurement.trials if trial.invmm is not None]
        assert len(set(scores)) == seeds
        assert measurement.invmm == sorted(scores)[1]
        assert measurement.invmm_spread == (min(scores), max(scores))
        assert measurement.share is not None
        assert measurement.share.trials == 8 * seeds
        assert measurement.evaluations == sum(trial.evaluations for trial in measurement.trials)
        assert [trial.seed for trial in measurement.trials] == list(range(seeds))


def test_a_probe_far_above_the_bound_is_stopped_early_and_its_share_is_still_measured(
    model: MixtureDenoiser, known_images: Tensor
) -> None:
    settings = replace(QUICK, stop_above=0.02, stop_after=20, stop_tests=2)
    measurement = measure(model, known_images, [ABSENT], settings=settings).measurements[ABSENT]
    assert measurement.outcome == "above_threshold"
    assert (measurement.invmm, measurement.invmm_above) == (None, 0.02)
    assert measurement.share is not None
    assert (measurement.share.hits, measurement.share.trials) == (0, 8)
    curve = measurement.trials[0].curve
    assert curve[-1].step < QUICK.steps
    above = [point.step for point in curve if point.step >= 20 and point.normality > 0.02 * 1.5]
    assert above == [curve[-2].step, curve[-1].step]


def test_the_stop_waits_for_the_step_and_the_margin_that_are_set(model: MixtureDenoiser, known_images: Tensor) -> None:
    settings = replace(QUICK, stop_above=0.001, stop_after=70, stop_tests=1, stop_margin=0.5)
    stopped = measure(model, known_images, [ABSENT], settings=settings).measurements[ABSENT]
    assert (stopped.outcome, stopped.steps) == ("above_threshold", 70)
    wide = measure(model, known_images, [ABSENT], settings=replace(settings, stop_margin=1e6)).measurements[ABSENT]
    assert (wide.outcome, wide.steps) == ("not_inverted", QUICK.steps)


def test_the_stop_counts_tests_that_follow_one_another(model: MixtureDenoiser, known_images: Tensor) -> None:
    # A large lambda makes the normality swing, so that tests above the bound come with others in between.
    swinging = replace(QUICK, test_every=1, steps=30, sampler_steps=2, test_samples=1, stop_margin=0.0, stop_after=0)
    swinging = replace(swinging, weight_rule="fixed", initial_weight=20.0)
    never = PixelRmse(-1.0)
    free = measure(model, known_images, [1], settings=swinging, metric=never).measurements[1].trials[0].curve
    levels = [point.normality for point in free]
    told_apart = 0
    for bound in sorted(levels)[3::6]:
        above = [level > bound for level in levels]
        running = next((step + 1 for step in range(2, 30) if all(above[step - 2 : step + 1])), 30)
        in_all = next((step + 1 for step in range(30) if sum(above[: step + 1]) == 3), 30)
        told_apart += running != in_all
        settings = replace(swinging, stop_above=bound, stop_tests=3)
        stopped = measure(model, known_images, [1], settings=settings, metric=never).measurements[1]
        assert stopped.steps == running
    assert told_apart > 2


def test_the_stop_changes_no_bit_of_a_probe_below_the_bound(model: MixtureDenoiser, known_images: Tensor) -> None:
    settings = replace(QUICK, stop_above=0.2, stop_after=10)
    assert measure(model, known_images, [0, 1], settings=settings).measurements == (
        measure(model, known_images, [0, 1]).measurements
    )


def test_the_watched_loss_can_be_the_total(model: MixtureDenoiser, known_images: Tensor) -> None:
    each_step = replace(QUICK, test_every=1, loss_window=1, steps=5, weight_rule="fixed", initial_weight=2.0)
    numbers = [ABSENT]
    denoise = measure(model, known_images, numbers, settings=each_step).measurements[ABSENT].trials[0].curve
    with_total = replace(each_step, control_loss="total")
    total = measure(model, known_images, numbers, settings=with_total).measurements[ABSENT].trials[0].curve
    before = [0.0, *(point.normality for point in denoise)]
    for alone, both, level in zip(denoise, total, before, strict=False):
        assert both.denoising_error == alone.denoising_error == alone.control_loss
        assert alone.denoising_error is not None
        assert both.control_loss == pytest.approx(alone.denoising_error + 2.0 * level, rel=1e-5)
        assert both.normality == alone.normality


@pytest.mark.parametrize("control", ["denoise", "total"])
def test_lambda_follows_the_watched_loss_and_not_the_denoising_error(
    model: MixtureDenoiser, known_images: Tensor, control: Literal["denoise", "total"]
) -> None:
    settings = replace(QUICK, control_loss=control, loss_window=3, plateau_tolerance=0.0, weight_step=0.05)
    curve = measure(model, known_images, [ABSENT], settings=settings).measurements[ABSENT].trials[0].curve
    state = WeightState(settings.initial_weight)
    for point in curve:
        assert point.control_loss is not None
        state = adapt(state, point.control_loss, settings)
        assert point.weight == state.weight
    different = [point.step for point in curve if point.control_loss != point.denoising_error]
    assert different == ([] if control == "denoise" else [point.step for point in curve])


def test_nothing_was_drawn_before_the_first_step_and_the_curve_says_so(
    model: MixtureDenoiser, known_images: Tensor
) -> None:
    settings = replace(QUICK, test_at_start=True)
    start, later, *_ = measure(model, known_images, [ABSENT], settings=settings).measurements[ABSENT].trials[0].curve
    assert (start.step, start.denoising_error, start.control_loss) == (0, None, None)
    assert later.denoising_error


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_lambda_can_be_fixed_for_an_ablation(model: MixtureDenoiser, known_images: Tensor, weight: float) -> None:
    settings = replace(QUICK, weight_rule="fixed", initial_weight=weight)
    run = measure(model, known_images, [0, ABSENT], settings=settings)
    for measurement in run.measurements.values():
        assert {point.weight for point in measurement.trials[0].curve} == {weight}
    assert run.score(0) > 0


def test_without_the_weight_the_noise_strays_further(model: MixtureDenoiser, known_images: Tensor) -> None:
    free, held = (
        measure(model, known_images, [ABSENT], settings=replace(QUICK, weight_rule="fixed", initial_weight=weight))
        for weight in (0.0, 1.0)
    )
    last = [run.measurements[ABSENT].trials[0].curve[-1].normality for run in (free, held)]
    assert last[0] > 2 * last[1]


def test_a_probe_that_is_not_inverted_carries_a_full_share_with_its_interval(
    model: MixtureDenoiser, known_images: Tensor
) -> None:
    # One image of 32, a single test after ten small steps: some samples replicate it, not all.
    short = replace(QUICK, steps=10, learning_rate=0.02)
    run = measure(model, known_images, [1, 2, 3, ABSENT], settings=short)
    shares = {number: run.measurements[number].share for number in (1, 2, 3, ABSENT)}
    assert {measurement.outcome for measurement in run.measurements.values()} == {"not_inverted"}
    for share in shares.values():
        assert share is not None
        assert share.trials == 8
        assert share.interval == wilson(share.hits, 8)
    ranked = sorted(run.measurements.values(), key=lambda measurement: measurement.rank)
    assert shares[1].hits > shares[ABSENT].hits == 0
    assert [measurement.probe for measurement in ranked][-1] == str(ABSENT)


def test_a_network_that_gives_nan_for_one_probe_makes_that_probe_an_error_and_leaves_the_others(
    mixture: Callable[..., MixtureDenoiser], known_images: Tensor
) -> None:
    sound = mixture(64, 8, 8, 1e-6)
    expected = measure(sound, known_images, [0, 1, 3], slots=3)
    run = measure(NanNear(sound, known_images[3]), known_images, [0, 1, 3], slots=3)
    broken = run.measurements[3]
    assert (broken.outcome, broken.invmm, broken.share) == ("error", None, None)
    assert broken.reason == "NaN or infinity from the network or the copy metric by step 10"
    assert broken.steps == 10
    assert broken.trials[0].share is None
    assert [run.measurements[number] for number in (0, 1)] == [expected.measurements[number] for number in (0, 1)]
    assert '"outcome": "error"' in to_json(broken)


@pytest.mark.parametrize("at_start", [False, True])
def test_a_network_that_gives_nan_only_when_it_samples_is_found_too(
    model: MixtureDenoiser, known_images: Tensor, at_start: bool
) -> None:
    settings = replace(QUICK, test_at_start=at_start)
    measurement = measure(BrokenWhenSampling(model), known_images, [0], settings=settings).measurements[0]
    assert (measurement.outcome, measurement.steps) == ("error", 0 if at_start else 10)
    assert [point.best_value for point in measurement.trials[0].curve] == [None]
    assert to_json(measurement)


def test_infinite_samples_are_an_error_though_as_images_they_would_be_black_and_white(
    model: MixtureDenoiser, known_images: Tensor
) -> None:
    settings = replace(QUICK, sampler_steps=1)
    measurement = measure(BrokenWhenSampling(model, inf), known_images, [0], settings=settings).measurements[0]
    assert measurement.outcome == "error"


def test_a_network_that_gives_nan_in_the_draws_that_certify_is_found_too(
    mixture: Callable[..., MixtureDenoiser], known_images: Tensor
) -> None:
    settings = replace(QUICK, test_at_start=True, certified_share=0.7)
    broken = BrokenWhenSampling(mixture(1e9), sound=QUICK.sampler_steps)
    measurement = measure(broken, known_images, [0], settings=settings).measurements[0]
    assert (measurement.outcome, measurement.steps) == ("error", 0)


def test_a_metric_that_gives_nan_is_an_error_and_no_score(model: MixtureDenoiser, known_images: Tensor) -> None:
    metric = EncoderCosine(lambda images: images.flatten(1) * torch.nan, name="broken", threshold=0.5)
    measurement = measure(model, known_images, [0], metric=metric).measurements[0]
    assert measurement.outcome == "error"
    assert "copy metric" in measurement.reason


@pytest.mark.parametrize("change", [{"initial_weight": inf}, {"weight_step": inf}, {"learning_rate": inf}])
def test_settings_out_of_all_range_give_an_error_and_no_score(
    model: MixtureDenoiser, known_images: Tensor, change: dict[str, float]
) -> None:
    measurement = measure(model, known_images, [0], settings=replace(QUICK, **change)).measurements[0]
    assert measurement.outcome == "error"
    assert to_json(measurement)


def test_one_trial_in_error_makes_its_probe_an_error(
    mixture: Callable[..., MixtureDenoiser], known_images: Tensor
) -> None:
    # The mirror image is known and breaks the network; the image itself inverts.
    images = torch.cat([known_images[:32], known_images[:1].flip(-1)])
    model = MixtureDenoiser(images, torch.ones(33), mixture().schedule)
    run = measure(NanNear(model, images[32]), known_images, [0], settings=replace(QUICK, mirror=True))
    measurement = run.measurements[0]
    assert {trial.outcome for trial in measurement.trials} == {"inverted", "error"}
    assert (measurement.outcome, measurement.invmm, measurement.share) == ("error", None, None)
    assert measurement.reason


def test_a_probe_that_only_one_guidance_scale_gives_is_inverted_at_that_scale(
    mixture: Callable[..., MixtureDenoiser], known_images: Tensor
) -> None:
    guided = Guided(mixture(), mixture(1e4))
    settings = replace(QUICK, guidance_scales=(0.0, 1.0, 2.0), test_at_start=True)
    (trial,) = measure(guided, known_images, [0], settings=settings).measurements[0].trials
    assert (trial.outcome, trial.invmm, trial.guidance_scale) == ("inverted", 0.0, 1.0)


def test_progress_counts_the_steps_of_the_tasks_in_the_batch(model: MixtureDenoiser, known_images: Tensor) -> None:
    tasks = [Task(probe=str(number), content=str(number), seed=0) for number in (0, ABSENT)]
    inverter = Inverter(
        model, PixelRmse(0.1), QUICK, load_image=lambda name: known_images[int(name)], root_seed=0, slots=2
    )
    events = list(inverter.run(tasks))
    progress = [event for event in events if isinstance(event, Advanced)]
    done = [event for event in events if isinstance(event, Inversion)]
    assert progress[0] == Advanced(20, tuple(tasks))
    assert progress[-1].in_flight == (tasks[1],)
    assert sum(event.steps for event in progress) == sum(event.trial.steps for event in done)
