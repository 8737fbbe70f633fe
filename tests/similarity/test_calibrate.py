"""A calibrated threshold lets through the stated share of pairs that are not copies, and says how well it is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.protocols import CopyMetric
from invmm_gate.similarity.calibrate import Calibration, calibrate
from invmm_gate.similarity.pixel import PixelRmse
from invmm_gate.similarity.sscd import EncoderCosine

RATE = 0.02


def smooth(count: int, seed: int) -> Tensor:
    """Images of a few smooth colours, some of which happen to look alike."""
    coarse = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=False)


def cosine() -> EncoderCosine:
    return EncoderCosine(lambda images: images.flatten(1), name="pixels", threshold=0.5)


METRICS = {"low is copy": PixelRmse, "high is copy": cosine}


def passing(metric: CopyMetric, images: Tensor, threshold: float) -> float:
    """The share of all pairs of different images that would pass for copies at this threshold."""
    features = metric.embed(images)
    values = torch.stack([metric.compare(features, features[row : row + 1]) for row in range(len(images))])
    upper = values[torch.ones_like(values, dtype=torch.bool).triu(diagonal=1)]
    close = upper >= threshold if metric.higher_is_copy else upper <= threshold
    return float(close.double().mean())


@pytest.mark.parametrize("build", METRICS.values(), ids=METRICS)
def test_the_threshold_holds_the_stated_rate_on_pairs_that_it_has_not_seen(build: type[PixelRmse]) -> None:
    metric = build()
    result = calibrate(metric, smooth(150, seed=0), false_match_rate=RATE)
    assert passing(metric, smooth(400, seed=1), result.threshold) == pytest.approx(RATE, abs=0.008)
    assert (result.images, result.pairs, result.metric) == (150, 150 * 149 // 2, metric.name)


@pytest.mark.parametrize("build", METRICS.values(), ids=METRICS)
def test_the_interval_holds_the_threshold_and_most_often_the_true_one(build: type[PixelRmse]) -> None:
    metric = build()
    truth = calibrate(metric, smooth(600, seed=99), false_match_rate=RATE, resamples=2).threshold
    results = [calibrate(metric, smooth(60, seed=seed), false_match_rate=RATE, resamples=200) for seed in range(20)]
    assert all(result.low <= result.threshold <= result.high for result in results)
    assert all(result.low < result.high for result in results)
    assert sum(result.low <= truth <= result.high for result in results) >= 16


@pytest.mark.parametrize("build", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize(("count", "rate"), [(60, 0.001), (60, 0.01), (60, 0.5), (60, 0.999), (25, 0.57)])
def test_never_more_than_the_stated_share_of_the_given_pairs_passes(
    build: type[PixelRmse], count: int, rate: float
) -> None:
    metric, images = build(), smooth(count, seed=3)
    threshold = calibrate(metric, images, false_match_rate=rate, resamples=2).threshold
    pairs = count * (count - 1) // 2
    # 300 * 0.57 is 170.99999999999997 in floating point, and 171 pairs all the same.
    assert round(passing(metric, images, threshold) * pairs) == int(round(rate * pairs, 6))


def test_the_same_images_and_seed_give_the_same_calibration() -> None:
    first, second = (calibrate(PixelRmse(), smooth(40, seed=0), false_match_rate=0.05) for _ in range(2))
    assert first == second
    other = calibrate(PixelRmse(), smooth(40, seed=0), false_match_rate=0.05, seed=1)
    assert isinstance(other, Calibration)
    assert replace(other, low=0.0, high=0.0) == replace(first, low=0.0, high=0.0)


@pytest.mark.parametrize(("count", "rate"), [(0, 0.5), (1, 0.5), (2, 0.5), (10, 0.01), (40, 0.001)])
def test_too_few_pairs_for_the_rate_are_refused(count: int, rate: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{count} images make \d+ pairs; expected at least {1 / rate:.0f} pairs"):
        calibrate(PixelRmse(), smooth(count, seed=0), false_match_rate=rate)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="expected a share between 0 and 1"):
        calibrate(PixelRmse(), smooth(20, seed=0), false_match_rate=rate)


def test_the_fewest_images_that_do_are_enough() -> None:
    # Of three images one draw in nine is of a single image, and makes no pair.
    result = calibrate(PixelRmse(), smooth(3, seed=0), false_match_rate=0.5)
    assert result.low <= result.threshold <= result.high


def test_a_metric_that_gives_nan_is_not_calibrated() -> None:
    metric = EncoderCosine(lambda images: images.flatten(1) * torch.nan, name="broken", threshold=0.5)
    with pytest.raises(ConfigError, match="the copy metric broken gives NaN or infinity"):
        calibrate(metric, smooth(20, seed=0), false_match_rate=0.05)
