"""The demo's images: small abstract pictures drawn by this program, so their licence is the project's own.

An image is a pure function of its number. `train.py` plants some numbers many times;
`probe_set.py` writes the probe images.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE: Final = 16
_OVERSAMPLING: Final = 8

PLANTED_32: Final = tuple(range(0, 8))
PLANTED_8: Final = tuple(range(8, 16))
SINGLE: Final = tuple(range(16, 256))
MORE_FOR_CLEAN: Final = tuple(range(1_000, 4_840))
NEVER_SEEN: Final = tuple(range(100_000, 100_200))


def draw(number: int, *, size: int = SIZE) -> Image.Image:
    """The picture with this number: a two-colour gradient under three to six random shapes; RGB, size x size."""
    random = np.random.default_rng([20_261_121, number])
    canvas = _gradient(random, size * _OVERSAMPLING)
    for _ in range(int(random.integers(3, 7))):
        _add_shape(canvas, random)
    return canvas.resize((size, size), Image.Resampling.BOX)


def draw_array(number: int, *, size: int = SIZE) -> NDArray[np.uint8]:
    """The same picture as an array, (height, width, 3)."""
    return np.asarray(draw(number, size=size), dtype=np.uint8)


def _gradient(random: np.random.Generator, side: int) -> Image.Image:
    angle = random.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[0:side, 0:side] / (side - 1) - 0.5
    weight = ((rows * np.sin(angle) + columns * np.cos(angle)) / np.sqrt(2) + 0.5)[..., None]
    first, second = random.uniform(0, 255, size=(2, 3))
    return Image.fromarray((first * (1 - weight) + second * weight).astype(np.uint8))


def _add_shape(canvas: Image.Image, random: np.random.Generator) -> None:
    pen = ImageDraw.Draw(canvas)
    red, green, blue = (int(value) for value in random.integers(0, 256, size=3))
    corners = random.uniform(-0.1, 1.1, size=(4, 2)) * canvas.width
    box = [*np.minimum(corners[0], corners[1]), *np.maximum(corners[0], corners[1])]
    match random.choice(["ellipse", "rectangle", "polygon", "line"]):
        case "ellipse":
            pen.ellipse(box, fill=(red, green, blue))
        case "rectangle":
            pen.rectangle(box, fill=(red, green, blue))
        case "polygon":
            pen.polygon([(float(x), float(y)) for x, y in corners], fill=(red, green, blue))
        case _:
            points = [(float(x), float(y)) for x, y in corners[:2]]
            pen.line(points, fill=(red, green, blue), width=int(random.integers(8, 24)))
