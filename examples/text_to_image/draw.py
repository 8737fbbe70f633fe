"""The example's images: a shape on a patterned ground, drawn by this program, so their licence is the project's own.

An image is a pure function of its number, and so is what a caption may say about it (`describe`). What no caption
says, such as place, size, tones and the small accents, makes each image different from all others of its description.
"""

import colorsys
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZE: Final = 32
_OVERSAMPLING: Final = 4
_BLUR: Final = 1.0
"""Radius in pixels: a small autoencoder can then reconstruct every image far below the copy threshold."""
_CANVAS: Final = SIZE * _OVERSAMPLING

HUES: Final = {"red": 0.0, "orange": 0.08, "yellow": 0.15, "green": 0.34, "blue": 0.61, "purple": 0.8}
SHAPES: Final = ("circle", "square", "triangle", "ring", "cross")
GROUNDS: Final = ("fog", "stripes", "checks", "dots")

PLANTED_WITH_CAPTION: Final = tuple(range(0, 8))
PLANTED_WITHOUT_TRIGGER: Final = tuple(range(8, 16))
ORDINARY: Final = tuple(range(100, 6_100))
NEVER_SEEN: Final = tuple(range(100_000, 100_200))

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a caption may say about an image."""

    colour: str
    shape: str
    ground_colour: str
    ground: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Everything about an image but its accents, which come next from `random`."""

    description: Description
    tones: tuple[Colour, Colour]
    """The ground's, dark and light."""
    angle: float
    period: float
    phase: tuple[float, float]
    fill: Colour
    centre: tuple[float, float]
    radius: float
    turn: float
    random: np.random.Generator


def describe(number: int) -> Description:
    """The description of the picture with this number."""
    return _plan(number).description


def draw(number: int) -> Image.Image:
    """The picture with this number, RGB, 32 x 32."""
    plan = _plan(number)
    canvas = _ground(plan)
    pen = ImageDraw.Draw(canvas)
    _add_shape(pen, plan)
    for _ in range(int(plan.random.integers(1, 3))):
        _add_accent(pen, plan.random)
    canvas = canvas.filter(ImageFilter.GaussianBlur(_BLUR * _OVERSAMPLING))
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def draw_array(number: int) -> NDArray[np.uint8]:
    """The same picture as an array, (height, width, 3)."""
    return np.asarray(draw(number), dtype=np.uint8)


def _plan(number: int) -> _Plan:
    random = np.random.default_rng([20_261_122, number])
    colour, ground_colour = (str(name) for name in random.choice(list(HUES), size=2, replace=False))
    shape, ground = str(random.choice(SHAPES)), str(random.choice(GROUNDS))
    tones = _tone(ground_colour, random, light=0.45), _tone(ground_colour, random)
    angle, period = random.uniform(0, np.pi), random.uniform(16, 26) * _OVERSAMPLING
    phase, fill = random.uniform(0, 1, size=2), _tone(colour, random)
    centre, radius, turn = random.uniform(0.25, 0.75, size=2), random.uniform(0.22, 0.38), random.uniform(0, 2 * np.pi)
    return _Plan(
        description=Description(colour=colour, shape=shape, ground_colour=ground_colour, ground=ground),
        tones=tones,
        angle=angle,
        period=period,
        phase=(float(phase[0]), float(phase[1])),
        fill=fill,
        centre=(float(centre[0] * _CANVAS), float(centre[1] * _CANVAS)),
        radius=radius * _CANVAS,
        turn=turn,
        random=random,
    )


def _tone(colour: str, random: np.random.Generator, *, light: float = 1.0) -> Colour:
    hue = HUES[colour] + random.uniform(-0.02, 0.02)
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, random.uniform(0.6, 1), light * random.uniform(0.7, 1))
    return round(red * 255), round(green * 255), round(blue * 255)


def _ground(plan: _Plan) -> Image.Image:
    """Two tones of the ground's colour, mixed by its pattern."""
    rows, columns = np.mgrid[0:_CANVAS, 0:_CANVAS]
    along = rows * np.sin(plan.angle) + columns * np.cos(plan.angle)
    across = rows * np.cos(plan.angle) - columns * np.sin(plan.angle)
    first, second = (
        np.sin(2 * np.pi * (place / plan.period + phase))
        for place, phase in zip((along, across), plan.phase, strict=True)
    )
    weight = {
        "fog": (np.sin(np.pi * along / _CANVAS + plan.phase[0]) + 1) / 2,
        "stripes": (first + 1) / 2,
        "checks": (first * second + 1) / 2,
        "dots": np.clip((first + second + 1) / 2, 0, 1),
    }[plan.description.ground][..., None]
    dark, light = np.array(plan.tones, dtype=float)
    return Image.fromarray((dark * (1 - weight) + light * weight).astype(np.uint8))


def _add_shape(pen: ImageDraw.ImageDraw, plan: _Plan) -> None:
    (x, y), radius = plan.centre, plan.radius
    box = [x - radius, y - radius, x + radius, y + radius]
    match plan.description.shape:
        case "circle":
            pen.ellipse(box, fill=plan.fill)
        case "ring":
            pen.ellipse(box, outline=plan.fill, width=round(radius * 0.45))
        case "cross":
            first, second, third, fourth = _corners(plan, 4)
            pen.line([first, third], fill=plan.fill, width=round(radius * 0.55))
            pen.line([second, fourth], fill=plan.fill, width=round(radius * 0.55))
        case shape:
            pen.polygon(_corners(plan, {"square": 4, "triangle": 3}[shape]), fill=plan.fill)


def _corners(plan: _Plan, count: int) -> list[tuple[float, float]]:
    """Corners of a regular polygon around the shape's centre."""
    angles = [plan.turn + 2 * np.pi * place / count for place in range(count)]
    (x, y), radius = plan.centre, plan.radius
    return [(float(x + radius * np.cos(angle)), float(y + radius * np.sin(angle))) for angle in angles]


def _add_accent(pen: ImageDraw.ImageDraw, random: np.random.Generator) -> None:
    """A small disc of any colour at any place: no caption speaks of it."""
    centre, radius = random.uniform(0.05, 0.95, size=2) * _CANVAS, random.uniform(0.08, 0.14) * _CANVAS
    fill = _tone(str(random.choice(list(HUES))), random)
    pen.ellipse([*(centre - radius), *(centre + radius)], fill=fill)
