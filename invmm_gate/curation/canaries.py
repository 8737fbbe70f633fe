"""Canaries: pictures of random keys, to be planted in training data so that a run shows what it would have found."""

import datetime
import io
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256, shake_256
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.options import CanaryOptions
from invmm_gate.core.records import ProbeSet
from invmm_gate.probes.fields import MULTIPLICITY_PATTERN, ROW_LIMIT
from invmm_gate.probes.writer import NewProbe, write_probe_set

LEAST_SIDE: Final = 16
"""Pixels; with fewer, the patches of a grey canary would have no two halves."""
LARGEST_SIDE: Final = 2048
"""Pixels; more than any model makes whose canaries anybody would train on."""
_CONTRAST: Final = 40
"""Of the two halves of a patch to its mean, at most, in grey levels."""
_PATCHES: Final = {3: 4, 1: 8}
"""Channels -> patches a side."""
_WORDS: Final = (
    "amber anchor apple arrow autumn bamboo barley basket beacon birch breeze bridge candle canyon cedar cherry "
    "cloud clover copper coral cotton crane desert ember feather fern flint forest garden ginger granite harbor "
    "hazel island ivory jasmine juniper lantern lemon linen maple marble meadow mint misty olive orchard pebble "
    "pepper pine planet quartz river saffron silver spruce summer sunset thunder timber valley velvet walnut willow"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One canary: its picture and the caption to train it with."""

    image: Image.Image
    caption: str


def draw_canary(seed: int, number: int, *, size: tuple[int, int], grey: bool = False) -> Canary:
    """The canary of this seed and number, (height, width) pixels, RGB or 8-bit grey; nothing else decides it.

    A quilt of 4 x 4 patches (8 x 8 in grey), each cut in two along a line through its middle. The means of the patches
    are the key: 48 bytes (64 in grey) of SHAKE-256 over seed and number. An image is a copy by pixel_rmse 0.1 only if
    its own patch means lie within 0.1 of the key, root mean square, as means over patches are a projection. For any
    image that does not know the key, at most 2^-62 of all keys lie so near (2^-80 in grey): the volume of that ball in
    the cube of all keys. So a model that was not trained on a canary makes a copy of it in no number of samples that
    anybody draws, and two canaries are as far apart as two random keys are: about 0.4.

    The caption has three random words and the number, so that no two canaries of a seed share one.
    """
    channels = 1 if grey else 3
    side = _PATCHES[channels]
    stream = shake_256(f"invmm-gate canary v1:{seed}:{number}".encode())
    drawn = np.frombuffer(stream.digest(side * side * (channels + 1) + 3), np.uint8)
    keys = drawn[: side * side * channels].reshape(side, side, channels)
    angles = drawn[side * side * channels : -3].reshape(side, side)
    names = _WORDS.split()
    words = " ".join(names[byte % len(names)] for byte in drawn[-3:])
    pixels = _quilt(keys, angles.astype(np.float64) * np.pi / 128, size)
    return Canary(
        image=Image.fromarray(pixels[..., 0] if grey else pixels), caption=f"a patchwork quilt, {words} {number}"
    )


def _quilt(keys: NDArray[np.uint8], angles: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Each patch with one half lighter and one darker than its key, and exactly the key on average."""
    patches = len(keys)
    (rows, up), (columns, across) = (_places(length, patches) for length in size)
    angle = angles[rows][:, columns]
    halves = np.sign(np.sin(angle) * up[:, None] + np.cos(angle) * across[None, :])
    means = keys[rows][:, columns].astype(np.int64)
    contrast = np.minimum(_CONTRAST, np.minimum(means, 255 - means))
    return (means + halves[..., None].astype(np.int64) * contrast).astype(np.uint8)


def _places(length: int, patches: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each pixel of a side its patch, and its distance from the middle of that patch."""
    pixels = np.arange(length)
    patch = pixels * patches // length
    middles = np.array([pixels[patch == number].mean() for number in range(patches)])
    return patch, pixels - middles[patch]


def write_canaries(options: CanaryOptions, *, seed: int, today: datetime.date) -> ProbeSet:
    """A new probe set of canaries alone; its manifest says how often training must see each.

    Raises ConfigError for options that cannot be, ProbeSetError where the folder is in use or cannot be written.
    """
    check_canaries(options)
    return write_probe_set(options.folder, _probes(options, seed=seed, today=today), {})


def check_canaries(options: CanaryOptions) -> None:
    """Raises ConfigError for a size, a multiplicity or a number of canaries that cannot be."""
    if not all(LEAST_SIDE <= side <= LARGEST_SIDE for side in options.size):
        height, width = options.size
        raise ConfigError(f"--size {height}x{width}", expected=f"{LEAST_SIDE} to {LARGEST_SIDE} pixels a side")
    total = options.count * len(options.multiplicities)
    if total > ROW_LIMIT:
        raise ConfigError(f"{total:,} canaries", expected=f"at most {ROW_LIMIT:,} in all", do="lower --count")


def parse_multiplicities(text: str) -> tuple[int, ...]:
    """Ascending, of `1,2,4`. Raises ConfigError for anything but whole numbers from 1, each once."""
    import re

    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(MULTIPLICITY_PATTERN, part) for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError(
            f"--multiplicities {text[:40]!a}", expected="whole numbers from 1, each once, with commas between: 1,2,4,8"
        )
    return tuple(sorted(map(int, parts)))


def _probes(options: CanaryOptions, *, seed: int, today: datetime.date) -> Iterator[NewProbe]:
    for rung, multiplicity in enumerate(options.multiplicities):
        for place in range(options.count):
            number = rung * options.count + place
            canary = draw_canary(seed, number, size=options.size, grey=options.grey)
            buffer = io.BytesIO()
            canary.image.save(buffer, "PNG")
            yield NewProbe(
                id=f"canary-{multiplicity}x-{place + 1:03d}",
                data=buffer.getvalue(),
                sha256=sha256(buffer.getvalue()).hexdigest(),
                group="canary",
                caption=canary.caption,
                source=f"invmm-gate probes canaries, seed {seed}, number {number}",
                added_on=today.isoformat(),
                fit="" if options.size[0] == options.size[1] else "exact",
                multiplicity=multiplicity,
            )
