"""Other ways in which a trainer may have read an image: recoloured, mirrored or turned."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A change of images (row, channel, height, width) in [-1, 1] that loses nothing."""

    name: str
    change: Callable[[Tensor], Tensor]
    moves: bool
    """Whether it moves pixels; else it changes colours, of which a latent has none."""
    square: bool = False
    """Whether it needs images as high as wide."""

    def of_noise(self, eps: Tensor, *, pixels: bool) -> Tensor:
        """The noise seen alike: a network that treats both views alike then gives the very same errors."""
        return self.change(eps) if self.moves or pixels else eps


def _permuted(*order: int) -> Callable[[Tensor], Tensor]:
    return lambda images: images[:, list(order)] if images.shape[1] == len(order) else images


VIEWS: Final = (
    View(name="BGR (red and blue exchanged)", change=_permuted(2, 1, 0), moves=False),
    View(name="GBR (channels rolled by one)", change=_permuted(1, 2, 0), moves=False),
    View(name="BRG (channels rolled by two)", change=_permuted(2, 0, 1), moves=False),
    View(name="GRB (red and green exchanged)", change=_permuted(1, 0, 2), moves=False),
    View(name="RBG (green and blue exchanged)", change=_permuted(0, 2, 1), moves=False),
    View(name="negative", change=lambda images: -images, moves=False),
    View(name="mirrored", change=lambda images: images.flip(3), moves=True),
    View(name="upside down", change=lambda images: images.flip(2), moves=True),
    View(name="turned by 180 degrees", change=lambda images: images.flip(2, 3), moves=True),
    View(name="turned by 90 degrees", change=lambda images: images.rot90(1, (2, 3)), moves=True, square=True),
    View(name="turned by 270 degrees", change=lambda images: images.rot90(3, (2, 3)), moves=True, square=True),
)


def views_of(image_size: tuple[int, int]) -> Iterator[View]:
    """The views that images of this (height, width) have."""
    height, width = image_size
    return (view for view in VIEWS if not view.square or height == width)
