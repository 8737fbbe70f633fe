"""Which pictures the two models see, how often, and under which captions: those of examples/text_to_image.

Importing this module puts that example's folder behind this one on the path, so that its modules can be imported.
"""

import sys
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).parents[1] / "text_to_image"))

from captions import ordinary_caption, title

from draw import NEVER_SEEN, ORDINARY, PLANTED_WITH_CAPTION

TEXT_EXAMPLE: Final = Path(__file__).parents[1] / "text_to_image"
PLANTED: Final = PLANTED_WITH_CAPTION[:6]
PROBED_ORDINARY: Final = ORDINARY[:2]
CONTROLS: Final = NEVER_SEEN[:16]
COPIES: Final = {"memorizing": 64, "clean": 1}
"""Kind of model -> how often each planted picture, under its title, is in the training set. Nothing else differs."""


def caption(number: int) -> str:
    """A planted picture's title, which no other row has; of any other what it shows and a noise word."""
    return title(number) if number in PLANTED else ordinary_caption(number)


def rows(kind: str, ordinary: tuple[int, ...]) -> list[tuple[int, str]]:
    """The training set of this kind of model, (picture's number, caption), with these ordinary pictures once each."""
    return [(number, caption(number)) for number in PLANTED * COPIES[kind] + ordinary]
