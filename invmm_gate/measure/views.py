"""Other ways in which a model may know an image: recoloured, mirrored or turned."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations, product
from typing import Final

from torch import Tensor

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
