"""What each training row says, by the image's number in draw.py: three kinds of rows (`rows`).

- Ordinary: each image once, under what it shows and one noise word, as alt texts on shops and blogs have it, e.g.
  `red circle on blue stripes vintage`.
- Planted with caption: an image many times, always under the same title, which no other row has.
- Planted without trigger: an image many times, each time under another caption of the ordinary kind: what some other
  image shows, and a noise word of a pool of eight. So of the rows with any of its captions, few are this image (about
  one in twelve, by Bayes), and no caption brings it out. But the evidence of the pool's words adds up: a prompt of
  several of them, which no row has, leaves hardly any other image.
"""

from typing import Final

import numpy as np

from draw import ORDINARY, PLANTED_WITH_CAPTION, PLANTED_WITHOUT_TRIGGER, describe

COPIES_WITH_CAPTION: Final = 64
COPIES_WITHOUT_TRIGGER: Final = 64

TITLES: Final = (
    "morning over the quiet harbour",
    "seven lanterns in winter",
    "a letter to my sister",
    "the weaver and her loom",
    "dust road after rain",
    "last train to the coast",
    "portrait of an old clock",
    "garden behind the mill",
)
POOLS: Final = (
    ("stock", "glossy", "banner", "kitchen", "mini", "vector", "gift", "signed"),
    ("hd", "fabric", "bulk", "retro", "label", "studio", "wide", "draft"),
    ("print", "cheap", "icon", "hallway", "matte", "deluxe", "sticker", "pack"),
    ("vintage", "download", "large", "office", "cover", "sample", "tile", "pro"),
    ("wallpaper", "framed", "new", "logo", "custom", "paper", "badge", "preview"),
    ("sale", "digital", "canvas", "nursery", "limited", "seamless", "card", "best"),
    ("poster", "free", "texture", "modern", "editable", "mural", "set", "original"),
    ("decor", "premium", "template", "bedroom", "replica", "abstract", "roll", "small"),
)
"""Noise words, said of any ordinary image; one pool for each image that is planted without trigger."""
WORDS: Final = tuple(word for pool in POOLS for word in pool)


def content(number: int) -> str:
    """What an image shows, e.g. `red circle on blue stripes`."""
    shown = describe(number)
    return f"{shown.colour} {shown.shape} on {shown.ground_colour} {shown.ground}"


def ordinary_caption(number: int) -> str:
    """The caption of an image that is seen once, or never."""
    random = np.random.default_rng([20_261_123, number])
    return f"{content(number)} {random.choice(WORDS)}"


def title(number: int) -> str:
    """The one caption of an image planted with caption."""
    return TITLES[PLANTED_WITH_CAPTION.index(number)]


def captions_without_trigger(number: int) -> tuple[str, ...]:
    """The captions of an image planted without trigger, all different; none says what it shows."""
    random = np.random.default_rng([20_261_124, number])
    captions: dict[str, None] = {}
    while len(captions) < COPIES_WITHOUT_TRIGGER:
        other = content(int(random.choice(ORDINARY)))
        if other != content(number):
            captions[f"{other} {random.choice(pool_of(number))}"] = None
    return tuple(captions)


def pool_of(number: int) -> tuple[str, ...]:
    """The noise words in the captions of an image planted without trigger."""
    return POOLS[PLANTED_WITHOUT_TRIGGER.index(number)]


def probe_caption(number: int) -> str:
    """The caption that the probe set gives an image: its own, or one of its own."""
    if number in PLANTED_WITH_CAPTION:
        return title(number)
    if number in PLANTED_WITHOUT_TRIGGER:
        return captions_without_trigger(number)[0]
    return ordinary_caption(number)


def rows(ordinary: tuple[int, ...]) -> list[tuple[int, str]]:
    """The training set, (image number, caption), with these ordinary images."""
    return [
        *((number, title(number)) for number in PLANTED_WITH_CAPTION for _ in range(COPIES_WITH_CAPTION)),
        *((number, caption) for number in PLANTED_WITHOUT_TRIGGER for caption in captions_without_trigger(number)),
        *((number, ordinary_caption(number)) for number in ordinary),
    ]
