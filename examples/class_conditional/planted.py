"""Which pictures the model sees, how often, and under which class: the shape that a picture shows.

Importing this module puts examples/text_to_image behind this folder on the path, so that its modules can be imported.
"""

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).parents[1] / "text_to_image"))

from draw import NEVER_SEEN, ORDINARY, SHAPES, describe

TEXT_EXAMPLE: Final = Path(__file__).parents[1] / "text_to_image"
PLANTED: Final = (0, 1, 2)
COPIES: Final = 128
TRAINED_ON: Final = ORDINARY[:1_200]
PROBED_ORDINARY: Final = ORDINARY[:5]
CONTROLS: Final = NEVER_SEEN[:16]


def label(number: int) -> int:
    """The class of a picture: the place of its shape in `SHAPES`."""
    return SHAPES.index(describe(number).shape)
