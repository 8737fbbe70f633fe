"""Canaries: a pure function of seed and number, far apart, and too many keys to meet one by chance."""

from math import lgamma, log, pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from invmm_gate.core.errors import ConfigError
from invmm_gate.curation.canaries import draw_canary, parse_multiplicities
from invmm_gate.similarity.pixel import PixelRmse

CAPTION = "a patchwork quilt, planet ginger maple 3"
PIXELS = [
    [[211, 242, 241], [65, 120, 142], [11, 0, 152], [144, 233, 80]],
    [[139, 126, 134], [196, 246, 72], [41, 34, 39], [50, 70, 36]],
    [[173, 212, 255], [120, 38, 255], [94, 55, 16], [30, 117, 2]],
    [[33, 0, 16], [151, 166, 110], [109, 231, 228], [103, 52, 175]],
]
SIZES = st.tuples(st.integers(16, 80), st.integers(16, 80))


def pixels(image: Image.Image) -> torch.Tensor:
    array = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1)[None] / 127.5 - 1


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**60), number=st.integers(0, 10**6), size=SIZES, grey=st.booleans())
def test_seed_and_number_alone_decide(seed: int, number: int, size: tuple[int, int], grey: bool) -> None:
    first, again = (draw_canary(seed, number, size=size, grey=grey) for _ in range(2))
    assert (first.image.tobytes(), first.caption) == (again.image.tobytes(), again.caption)
    assert first.image.mode == ("L" if grey else "RGB")
    assert first.image.size == (size[1], size[0])
    other = draw_canary(seed + 1, number, size=size, grey=grey)
    assert PixelRmse().compare(pixels(first.image).flatten(1) / 2, pixels(other.image).flatten(1) / 2).item() > 0.2


def test_the_drawing_does_not_change_between_releases() -> None:
    canary = draw_canary(7, 3, size=(16, 16))
    assert canary.caption == CAPTION
    assert np.asarray(canary.image)[::5, ::5].tolist() == PIXELS


@pytest.mark.parametrize("grey", [False, True])
def test_no_two_canaries_are_copies_even_mirrored_or_turned(grey: bool) -> None:
    metric = PixelRmse(threshold=0.2)  # twice what counts as a copy
    images = [draw_canary(1, number, size=(16, 16), grey=grey).image for number in range(140)]
    plain = metric.embed(torch.cat([pixels(image) for image in images]))
    for view in (None, *Image.Transpose):
        turned = images if view is None else [image.transpose(view) for image in images]
        others = metric.embed(torch.cat([pixels(image) for image in turned]))
        distances = torch.cdist(plain, others) / plain.shape[1] ** 0.5
        if view is None:
            distances.fill_diagonal_(1.0)
        assert not metric.is_copy(distances.flatten()).any(), view


@pytest.mark.parametrize("grey", [False, True])
@settings(deadline=None, max_examples=20)
@given(number=st.integers(0, 10**6), size=SIZES)
def test_the_mean_of_a_patch_is_its_key_whatever_its_halves(grey: bool, number: int, size: tuple[int, int]) -> None:
    image = np.asarray(draw_canary(5, number, size=size, grey=grey).image, dtype=np.float64)
    patches = 8 if grey else 4
    rows, columns = (np.arange(length) * patches // length for length in size)
    means = np.array(
        [[image[rows == r][:, columns == c].mean(axis=(0, 1)) for c in range(patches)] for r in range(patches)]
    )
    np.testing.assert_allclose(means, np.round(means), atol=1e-9)
    assert len(np.unique(means)) > 16


@pytest.mark.parametrize(("grey", "least"), [(False, 62), (True, 80)])
def test_at_most_so_many_keys_lie_near_any_image(grey: bool, least: int) -> None:
    """Keys within the ball around an image that makes it a copy, by volume: each key is a cube of side 1."""
    patches, channels = (8, 1) if grey else (4, 3)
    for size in range(16, 129):
        shares = np.bincount(np.arange(size) * patches // size) / size
        weights = np.log(np.outer(shares, shares) / channels).sum() * channels
        free = patches * patches * channels
        radius = 0.1 * 255 + 0.5  # a key's cube reaches half a grey level beyond its middle
        volume = free / 2 * log(pi) - lgamma(free / 2 + 1) + free * log(radius) - weights / 2
        assert (free * log(256) - volume) / log(2) >= least, size


def test_captions_are_short_plain_words_and_differ() -> None:
    captions = [draw_canary(1, number, size=(16, 16)).caption for number in range(300)]
    assert len(set(captions)) == 300
    assert all(caption.isascii() and caption.isprintable() and len(caption) < 60 for caption in captions)
    assert len({caption.split(", ")[1].rsplit(" ", 1)[0] for caption in captions}) > 290


@pytest.mark.parametrize(
    ("text", "found"), [("1", (1,)), ("1,2,4", (1, 2, 4)), ("64, 8,1", (1, 8, 64)), ("999999999", (999_999_999,))]
)
def test_multiplicities_are_read_in_any_order(text: str, found: tuple[int, ...]) -> None:
    assert parse_multiplicities(text) == found


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "0", "-1", "1.5", "1;2", "1 2", "01", "1,1", "1, 1", "eight", "٣", "1\n,2x"]
)
def test_other_multiplicities_are_one_clear_line(text: str) -> None:
    with pytest.raises(ConfigError, match="expected whole numbers from 1, each once") as caught:
        parse_multiplicities(text)
    assert "\n" not in str(caught.value)
