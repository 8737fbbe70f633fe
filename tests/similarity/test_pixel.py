"""Pixel distances: closed forms, NaN is never a copy, and neighbours that are duplicates hide nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.protocols import CopyMetric
from invmm_gate.similarity.pixel import NeighbourNormalisedL2, PixelRmse


def flat(value: float, rows: int = 1) -> Tensor:
    return torch.full((rows, 3, 8, 8), value)


def between(metric: CopyMetric, image: Tensor, other: Tensor) -> float:
    return metric.compare(metric.embed(image), metric.embed(other)).item()


def test_rmse_is_on_the_unit_scale() -> None:
    metric = PixelRmse()
    assert between(metric, flat(-1.0), flat(1.0)) == 1.0
    assert between(metric, flat(0.0), flat(0.2)) == pytest.approx(0.1)
    half = flat(0.0)
    half[:, :, :4] = 0.2
    assert between(metric, half, flat(0.0)) == pytest.approx(0.1 / math.sqrt(2))


def test_values_outside_the_range_of_images_count_as_clamped() -> None:
    assert between(PixelRmse(), flat(7.0), flat(1.0)) == 0.0


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31))
def test_rmse_is_a_distance(seed: int) -> None:
    metric = PixelRmse()
    one, two, three = torch.rand(3, 1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    assert between(metric, one, one) == 0.0
    assert 0 < between(metric, one, two) <= 1
    assert between(metric, one, two) == between(metric, two, one)
    assert between(metric, one, three) <= between(metric, one, two) + between(metric, two, three) + 1e-6


def test_rows_are_compared_each_with_its_own_reference_or_all_with_one(known_images: Tensor) -> None:
    metric = PixelRmse()
    features = metric.embed(known_images[:4])
    assert metric.compare(features, features).tolist() == [0.0] * 4
    against_one = metric.compare(features, features[2:3]).tolist()
    assert against_one == [between(metric, known_images[row : row + 1], known_images[2:3]) for row in range(4)]


@pytest.mark.parametrize("metric", [PixelRmse(0.1), PixelRmse(1e9)])
def test_the_threshold_is_a_copy_and_nan_never_is(metric: PixelRmse) -> None:
    values = torch.tensor([0.0, metric.threshold, math.nan, math.inf])
    above = torch.nextafter(values[1], torch.tensor(math.inf))[None]
    assert metric.is_copy(values).tolist() == [True, True, False, False]
    assert metric.is_copy(above).tolist() == [False]


@pytest.fixture(scope="module")
def crowd() -> Tensor:
    """200 different images."""
    return torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


def test_the_normalised_distance_is_that_of_carlini_et_al(crowd: Tensor) -> None:
    metric = NeighbourNormalisedL2(crowd, neighbours=50, scale=0.5)
    sample, target = crowd[:1] + 0.1, crowd[7:8]
    # Written out: l2 over half the mean l2 to the 50 nearest references, all on [0, 1].
    unit = ((crowd + 1) / 2).flatten(1)
    unit_sample = ((sample.clamp(-1, 1) + 1) / 2).flatten(1)
    nearest = (unit - unit_sample).norm(dim=1).sort().values[:50].mean()
    expected = (unit[7] - unit_sample[0]).norm() / (0.5 * nearest)
    assert between(metric, sample, target) == pytest.approx(expected.item(), rel=1e-4)
    assert metric.name == "pixel_l2_neighbours@50"


def test_a_near_copy_passes_and_another_image_does_not(crowd: Tensor) -> None:
    metric = NeighbourNormalisedL2(crowd)
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    copy = metric.compare(metric.embed(crowd[:1] + 0.1 * noise), metric.embed(crowd[:1]))
    other = metric.compare(metric.embed(crowd[:1] + 0.1 * noise), metric.embed(crowd[1:2]))
    assert metric.is_copy(torch.cat([copy, other])).tolist() == [True, False]


def test_duplicates_among_the_references_do_not_hide_a_copy(crowd: Tensor) -> None:
    """Sixty copies of an image would fill all 50 places of its neighbours, so that nothing was close any more."""
    planted = torch.cat([crowd, crowd[:1].repeat(60, 1, 1, 1)])
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sample = crowd[:1] + 0.1 * noise
    plain, aware = NeighbourNormalisedL2(crowd), NeighbourNormalisedL2(planted)
    blind = NeighbourNormalisedL2(planted, duplicate_rmse=-1.0)
    assert between(aware, sample, crowd[:1]) == pytest.approx(between(plain, sample, crowd[:1]), rel=1e-4)
    assert between(aware, sample, crowd[:1]) < 0.5
    assert between(blind, sample, crowd[:1]) > 1.0


def test_near_duplicates_count_once_too(crowd: Tensor) -> None:
    noise = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    planted = torch.cat([crowd, crowd[:1] + 0.02 * noise])
    assert between(NeighbourNormalisedL2(planted), crowd[:1], crowd[1:2]) == pytest.approx(
        between(NeighbourNormalisedL2(crowd), crowd[:1], crowd[1:2]), rel=1e-4
    )


def test_fewer_references_than_neighbours_are_all_neighbours(crowd: Tensor) -> None:
    assert NeighbourNormalisedL2(crowd[:7]).name == "pixel_l2_neighbours@7"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_references_of_which_no_two_differ_are_refused(crowd: Tensor, count: int) -> None:
    same = crowd[:1].repeat(count, 1, 1, 1)
    with pytest.raises(
        ConfigError, match=rf"^{count} reference images, of which {min(count, 1)} differ; expected at least 2"
    ):
        NeighbourNormalisedL2(same)


def test_nan_stays_nan_and_is_no_copy(crowd: Tensor) -> None:
    for metric in (PixelRmse(), NeighbourNormalisedL2(crowd)):
        values = metric.compare(metric.embed(crowd[:1] * math.nan), metric.embed(crowd[:1]))
        assert bool(values.isnan().all())
        assert metric.is_copy(values).tolist() == [False]


@pytest.mark.parametrize("side", [8, 32, 64])
def test_pixel_metrics_are_fit_up_to_64_pixels(crowd: Tensor, side: int) -> None:
    assert PixelRmse().unfit_for(side, side) is None
    assert NeighbourNormalisedL2(crowd).unfit_for(side, side) is None


def test_above_64_pixels_they_say_so_and_what_to_use(crowd: Tensor) -> None:
    for metric in (PixelRmse(), NeighbourNormalisedL2(crowd)):
        reason = metric.unfit_for(64, 65)
        assert reason is not None
        assert "64x65" in reason
        assert "use sscd" in reason
