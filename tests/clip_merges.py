"""CLIP's own merges, which this repository does not hold, and captions as people write them."""

import gzip
import os
from pathlib import Path

import pytest

VARIABLE = "CLIP_MERGES"
FILE = "bpe_simple_vocab_16e6.txt.gz"


def merges_of_clip() -> list[tuple[str, str]]:
    """The 48,894 merges of CLIP's vocabulary, from OpenAI's file; skips where no variable names it."""
    path = Path(os.environ.get(VARIABLE, ""))
    if not path.is_file():
        pytest.skip(f"{VARIABLE} names no file; it should name {FILE} of github.com/openai/CLIP")
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    return [(first, second) for first, second in (line.split() for line in lines)]


CAPTIONS = (
    "a photo of a cat",
    "The <b>Old Harbour</b> at Night, 1985",
    'Poster "Gone Fishing", framed (40 x 60 cm)',
    "Women's Size 7.5 Running Shoes - Blue/White",
    "50% OFF!!! Winter jackets & coats...",
    "Crème brûlée à l'orange, façon grand-mère",
    "Blick über München bei Föhn",
    "Кот на окне",
    "夜の東京タワー",
    "غروب على البحر",
    "It's raining; don't forget your umbrella: a children's book",
    "IMG_2041.JPG (copy) #sunset #beach",
    "www.example.org/gallery?id=12&size=large",
    "bed & breakfast — rooms from €79/night",
    "red panda 🐼 eats bamboo",
    "  two   spaces and a tab\tbetween words ",
    "C++ in 21 days, 3rd edition",
    "vase: h. 12½ in., Ø 8 in.",
    "naïve café résumé",
    "[sold] lot 14 - oil on canvas {unsigned}",
)
"""Markup, quotes, signs, other alphabets, emoji and stray spaces."""
