"""Images of the probe set as the model sees them, as they are or recoloured, mirrored and turned."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations, product
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from invmm_gate.core.protocols import Condition, DiffusionModel, NoiseLevel, NoiseSampler
from invmm_gate.diffusion.prediction import Rows, per_row, take_rows
from invmm_gate.diffusion.samplers import streams_of
from invmm_gate.diffusion.sampling import descend
from invmm_gate.diffusion.schedule import expanded

Images = Float[Tensor, "image 3 image_height image_width"]
Descent = Callable[..., Rows]
"""(x_t, levels, condition=) to x_0: the sampler of the measure's grid, from any level on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pictures:
    """Images, their conditions where the model takes any, and how many rows fit at once."""

    model: DiffusionModel
    images: Images
    condition: Condition | None
    rows: int
    descent: Descent

    def encoded(self) -> Rows:
        """x_0 of each image."""
        return torch.cat([self.model.encode(self.images[part].to(self.model.device)) for part in self.parts()])

    def decoded(self, x_0: Rows) -> Images:
        """The image of each x_0."""
        return torch.cat([self.model.decode(x_0[part]) for part in self.parts()])

    def estimates(self, x_t: Rows, level: NoiseLevel) -> Rows:
        """x_0_hat of each row, at a level of one row."""
        return torch.cat(
            [
                self.model.estimate_x_0(x_t[part], expanded(level, len(x_t[part])), condition=self.given(part))
                for part in self.parts()
            ]
        )

    def sampled(self, x_t: Rows, levels: Sequence[NoiseLevel]) -> Rows:
        """x_0 reached on the measure's grid from x_t at the first of the levels."""
        return torch.cat([self.descent(x_t[part], levels, condition=self.given(part)) for part in self.parts()])

    def drawn(self, noise: Rows, seeds: Int[Tensor, " image"], sampler: NoiseSampler, *, steps: int) -> Rows:
        """x_0 of each image's noise under its condition; `seeds`: of what the sampler draws by itself."""
        return torch.cat(
            [
                sampler.x_0(noise[part], streams_of(seeds[part]), steps=steps, condition=self.given(part))
                for part in self.parts()
            ]
        )

    def given(self, part: slice) -> Condition | None:
        """The conditions of some images."""
        if self.condition is None:
            return None
        index = torch.arange(len(self.images), device=self.model.device)[part]
        return take_rows(self.condition, index)

    def parts(self) -> Iterator[slice]:
        """Slices of at most `rows` images."""
        for start in range(0, len(self.images), self.rows):
            yield slice(start, start + self.rows)

    def at(self, places: Sequence[int]) -> "Pictures":
        """Some of the images."""
        index = torch.tensor(places, device=self.model.device)
        condition = None if self.condition is None else take_rows(self.condition, index)
        return replace(self, images=self.images[list(places)], condition=condition)

    def seen_in(self, views: Sequence["View"]) -> "Pictures":
        """All images in the first view, then all in the next one. A view must keep the shape of the images."""
        index = torch.arange(len(self.images), device=self.model.device).repeat(len(views))
        condition = None if self.condition is None else take_rows(self.condition, index)
        return replace(self, images=torch.cat([view.change(self.images) for view in views]), condition=condition)

    def first(self, count: int, model: DiffusionModel) -> "Pictures":
        """The first images, as another model sees them."""
        return replace(self, model=model, images=self.images[:count])


def pictures_of(
    model: DiffusionModel,
    images: Sequence[Float[Tensor, "3 image_height image_width"]],
    captions: Sequence[str] = (),
    *,
    rows: int,
) -> Pictures:
    """Images with their captions, which an unconditional model does not see, and the measure's own sampler."""
    condition = None
    if model.prompts is not None:
        with torch.no_grad():
            condition = model.prompts.encode(list(captions) or [""] * len(images))
    stacked = torch.stack(list(images))
    return Pictures(model=model, images=stacked, condition=condition, rows=rows, descent=partial(descend, model))


def from_pixels(pixels: NDArray[np.uint8]) -> Float[Tensor, "3 image_height image_width"]:
    """An image of bytes (height, width, 3), in [-1, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def mixed(x_0: Rows, eps: Rows, level: NoiseLevel) -> Rows:
    """x_t = alpha * x_0 + sigma * eps at a level of one row."""
    return per_row(level.alpha) * x_0 + per_row(level.sigma) * eps


def noise_like(x_0: Rows, generator: torch.Generator) -> Rows:
    """Standard normal noise, drawn on the CPU, so that it is the same on every device."""
    return torch.randn(x_0.shape, generator=generator).to(x_0.device)


def row_means(values: Tensor) -> Float[Tensor, " row"]:
    """The mean over everything but the row."""
    return values.flatten(1).mean(dim=1)


_RGB: Final = (0, 1, 2)
_POSITIVE: Final = (1, 1, 1)
_COLOURS: Final = ("red", "green", "blue")
_TURNS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "": lambda images: images,
    "turned by 180 degrees": lambda images: images.flip(2, 3),
    "mirrored": lambda images: images.flip(3),
    "upside down": lambda images: images.flip(2),
    "turned by 90 degrees": lambda images: images.rot90(1, (2, 3)),
    "turned by 270 degrees": lambda images: images.rot90(3, (2, 3)),
    "mirrored and turned by 90 degrees": lambda images: images.transpose(2, 3),
    "mirrored and turned by 270 degrees": lambda images: images.transpose(2, 3).flip(2, 3),
}
"""Images to images, (row, channel, height, width); the last four need images as high as wide."""
_OF_SQUARES: Final = tuple(_TURNS)[4:]
_EXACT: Final = tuple(_TURNS)[:2]
"""Turns that weights can be given without training, together with any colouring."""
_READ_BY_TRAINERS: Final = ((_RGB, _POSITIVE), ((2, 1, 0), _POSITIVE), (_RGB, (-1, -1, -1)))
"""Colourings that a trainer's reader may have: none, BGR, negative."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A change of images (row, channel, height, width) in [-1, 1] that loses nothing."""

    turn: str = ""
    channels: tuple[int, ...] = _RGB
    """The channel that each one comes from."""
    signs: tuple[int, ...] = _POSITIVE

    @property
    def name(self) -> str:
        """In words, as after `the model denoises it better`."""
        order = "" if self.channels == _RGB else "".join("RGB"[channel] for channel in self.channels)
        negated = [colour for colour, sign in zip(_COLOURS, self.signs, strict=True) if sign < 0]
        negative = f"negative in {' and '.join(negated)}" if 0 < len(negated) < len(_COLOURS) else "negative"
        parts = (self.turn, f"{order} for RGB" if order else "", negative if negated else "")
        return ", ".join(part for part in parts if part)

    @property
    def single(self) -> bool:
        """Whether it only turns, only exchanges channels, or is the negative."""
        parts = (self.turn != "", self.channels != _RGB, self.signs != _POSITIVE)
        return sum(parts) == 1 and self.signs in (_POSITIVE, (-1, -1, -1)) and " and " not in self.turn

    def change(self, images: Tensor) -> Tensor:
        """The images in this view."""
        recoloured = images[:, list(self.channels)] * images.new_tensor(self.signs).view(1, -1, 1, 1)
        return _TURNS[self.turn](recoloured)

    def of_noise(self, eps: Tensor, *, pixels: bool) -> Tensor:
        """The noise seen alike, in latents turned alike: a network that treats both views alike gives the same errors.

        A colour has no channel in latents.
        """
        return self.change(eps) if pixels else _TURNS[self.turn](eps)


def views_of(image_size: tuple[int, int]) -> Iterator[View]:
    """The views that images of this (height, width) have: exact changes of weights, and what trainers may read."""
    height, width = image_size
    for turn in _TURNS:
        if height == width or turn not in _OF_SQUARES:
            for channels, signs in product(permutations(_RGB), product((1, -1), repeat=3)):
                exact, read = turn in _EXACT, (channels, signs) in _READ_BY_TRAINERS
                if (exact or read) and (turn, channels, signs) != ("", _RGB, _POSITIVE):
                    yield View(turn=turn, channels=channels, signs=signs)
