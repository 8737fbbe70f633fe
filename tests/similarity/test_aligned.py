"""Pixel distance after alignment: what is still a copy, what never becomes one, and that nothing else moves it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from invmm_gate.similarity.aligned import CONTRAST, GAIN, OFFSET, SCALES, Alignment, PixelAligned
from invmm_gate.similarity.calibrate import calibrate
from invmm_gate.similarity.pixel import PixelRmse

METRIC = PixelAligned()
LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def pictures(count: int, side: int = 16, *, seed: int = 0, width: int | None = None) -> Tensor:
    """Smooth random pictures with contrast in each channel, in [-1, 1]."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    return interpolate(coarse, size=(side, width or side), mode="bicubic", align_corners=False).clamp(-1, 1)


def distance(image: Tensor, reference: Tensor) -> float:
    return float(METRIC.compare(METRIC.embed(image[None]), METRIC.embed(reference[None]))[0])


def recoloured(image: Tensor, gain: float, offset: float) -> Tensor:
    return ((image + 1) / 2 * gain + offset) * 2 - 1


def scene(seed: int) -> Tensor:
    """A picture of 32 pixels, of which a window is looked at."""
    return pictures(1, 32, seed=seed)[0]


ALTERED = {
    "nothing": lambda image: image,
    "mirrored": lambda image: image.flip(-1),
    "darker": lambda image: recoloured(image, 0.85, 0.0),
    "brighter": lambda image: recoloured(image, 0.9, 0.08),
    "each channel in its own way": lambda image: torch.stack([
        recoloured(channel, gain, offset)
        for channel, gain, offset in zip(image, (0.85, 1.0, 0.9), (0.07, 0.0, 0.05), strict=True)
    ]),
    "grey": lambda image: (image * LUMA).sum(dim=0, keepdim=True).expand(3, -1, -1),
}  # fmt: skip


@pytest.mark.parametrize("name", ALTERED)
@pytest.mark.parametrize("seed", range(4))
def test_a_copy_that_was_altered_within_the_limits_is_at_no_distance(name: str, seed: int) -> None:
    image = pictures(1, seed=seed)[0] * 0.7
    assert distance(ALTERED[name](image), image) < 2e-3


@pytest.mark.parametrize(("down", "right"), [(0, 1), (2, -2), (-1, 2)])
def test_a_shift_by_whole_pixels_is_found_and_named(down: int, right: int) -> None:
    whole = scene(3)
    reference, image = whole[:, 8:24, 8:24], whole[:, 8 - down : 24 - down, 8 - right : 24 - right]
    assert distance(image, reference) < 1e-3
    found = METRIC.alignment(METRIC.embed(image[None]), METRIC.embed(reference[None]))
    assert (found.down, found.right, found.scale, found.mirrored, found.grey) == (down, right, 1.0, False, False)
    assert str(found) == f"moved by {right}, {down} pixels"


@pytest.mark.parametrize("scale", [scale for scale in SCALES if scale != 1])
def test_another_size_is_found(scale: float) -> None:
    reference = pictures(1, 32, seed=5)[0]
    side = round(32 * scale)
    moved = interpolate(reference[None], size=(side, side), mode="bilinear", align_corners=False)[0]
    edge = abs(side - 32) // 2
    image = pictures(1, 32, seed=6)[0]  # whatever stands around a reference that is smaller
    if scale > 1:
        image = moved[:, edge : edge + 32, edge : edge + 32]
    else:
        image[:, edge : edge + side, edge : edge + side] = moved
    assert distance(image, reference) < 0.04  # 32 pixels at 0.9 are 28.8
    assert METRIC.alignment(METRIC.embed(image[None]), METRIC.embed(reference[None])).scale == scale


def test_what_lies_beyond_the_limits_is_no_copy() -> None:
    image = pictures(1, seed=1)[0]
    for other in (-image, image.flip(-2), image.rot90(dims=(-2, -1)), pictures(1, seed=2)[0]):
        assert distance(other, image) > METRIC.threshold
    flat = torch.zeros_like(image)
    assert distance(flat, image) > METRIC.threshold, "a flat picture is not stretched into any other"
    assert distance(recoloured(image, 1.0, OFFSET + 0.2), image) > METRIC.threshold


def test_gain_and_offset_end_at_their_limits() -> None:
    """In closed form: contrast beyond the limit leaves its rest, which counts for more where there is little of it."""
    image = pictures(1, seed=4)[0] * 0.3
    strong = image * 2
    deviation = (image / 2).flatten(1).std(dim=1, correction=0).square().mean().sqrt()
    grey = ((image / 2) * LUMA).sum(dim=0).std(correction=0)
    expected = min(max(float(each), CONTRAST) for each in (deviation, grey)) * (2 / GAIN - 1)
    assert distance(strong, image) <= expected + 1e-4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([8, 11, 16]), st.sampled_from([8, 13, 16]))
def test_it_is_above_the_plain_distance_only_where_there_is_little_contrast(seed: int, side: int, width: int) -> None:
    images = pictures(4, side, seed=seed, width=width)
    aligned, plain = METRIC, PixelRmse()
    values = aligned.compare(aligned.embed(images), aligned.embed(images[:1]))
    rmse = plain.compare(plain.embed(images), plain.embed(images[:1]))
    contrast = (images[0] / 2).flatten(1).std(dim=1, correction=0).square().mean().sqrt()
    assert bool((values <= rmse * max(1.0, CONTRAST / float(contrast)) + 1e-3).all())
    assert bool((values >= 0).all())


@pytest.mark.parametrize("fading", [1.0, 0.5, 0.2])
def test_a_pale_reference_is_no_nearer_to_other_pictures_than_a_strong_one(fading: float) -> None:
    """Without this, every picture is near to a patch of sky at some alignment."""
    pale = pictures(16, seed=11) * fading
    near = [distance(image, pale[0]) for image in pale[1:]]
    assert min(near) > METRIC.threshold
    assert distance(pale[0].flip(-1), pale[0]) < 2e-3


def test_a_value_depends_on_no_other_row() -> None:
    images, references = pictures(6, seed=7), pictures(3, seed=8)
    rows, owners = METRIC.embed(images), METRIC.embed(references[[0, 0, 1, 1, 1, 2]])
    together = METRIC.compare(rows, owners)
    alone = [METRIC.compare(rows[row : row + 1], owners[row : row + 1]) for row in range(6)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_nan_is_no_copy() -> None:
    image = pictures(1)
    broken = image.clone()
    broken[0, 0, 3, 3] = math.nan
    values = METRIC.compare(METRIC.embed(broken), METRIC.embed(image))
    assert bool(values.isnan().all())
    assert not bool(METRIC.is_copy(values).any())
    assert METRIC.is_copy(torch.tensor([METRIC.threshold])).all()


def test_it_is_calibrated_like_any_other_and_needs_a_lower_threshold_than_the_plain_one() -> None:
    images = pictures(80, seed=9)
    rate = 1e-2
    aligned, plain = (calibrate(each, images, false_match_rate=rate, resamples=20) for each in (METRIC, PixelRmse()))
    assert 0 < aligned.threshold < plain.threshold


def test_it_is_unfit_above_64_pixels() -> None:
    assert METRIC.unfit_for(64, 64) is None
    assert METRIC.unfit_for(65, 64) is not None


def test_an_alignment_in_words() -> None:
    assert str(Alignment(mirrored=False, scale=1.0, down=0, right=0, grey=False)) == ""
    said = str(Alignment(mirrored=True, scale=0.8, down=1, right=-2, grey=True))
    assert said == "mirrored, in grey, at 0.8 of its size, moved by -2, 1 pixels"
