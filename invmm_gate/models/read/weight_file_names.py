"""The names that diffusers and transformers give to files of weights: variants, shards, pickles.

A variant is a second set of the same weights, as `fp16`; users load it with `variant="fp16"`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

DIFFUSERS_STEM: Final = "diffusion_pytorch_model"
"""Stem of every weights file that diffusers saves."""
TRANSFORMERS_STEM: Final = "model"
"""Stem of every weights file that transformers saves."""
PICKLE_STEMS: Final = {DIFFUSERS_STEM: DIFFUSERS_STEM, TRANSFORMERS_STEM: "pytorch_model"}
"""Stem of safetensors -> stem of the same weights as a pickle."""
VARIANT: Final = "a variant of weights"
PICKLED_AGAIN: Final = "the same weights again, as a pickle"
_SHARD: Final = r"-\d{5}-of-\d{5}"
_WEIGHTS: Final = re.compile(
    rf"(?:{DIFFUSERS_STEM}|{TRANSFORMERS_STEM}|pytorch_model)"
    rf"(?:(?:\.(?P<new>\w{{1,20}}))?(?:{_SHARD})?|{_SHARD}\.(?P<old>\w{{1,20}}))\.(?P<kind>safetensors|bin|ckpt)"
    rf"|(?:{DIFFUSERS_STEM}|{TRANSFORMERS_STEM})\.safetensors\.index(?:\.(?P<index>\w{{1,20}}))?\.json",
    re.ASCII,
)


def index_name(stem: str, variant: str = "") -> str:
    """The index of a network's shards."""
    return f"{stem}.safetensors.index{f'.{variant}' if variant else ''}.json"


def single_name(stem: str, variant: str = "", suffix: str = ".safetensors") -> str:
    """A network's weights in one file."""
    return f"{stem}{f'.{variant}' if variant else ''}{suffix}"


def weights_pattern(stem: str) -> str:
    """A regular expression for all safetensors files of a network, of any variant, and for the index of its shards."""
    mark = r"(?:\.\w{1,20})?"
    return (
        rf"{stem}{mark}(?:{_SHARD})?\.safetensors|{stem}{_SHARD}{mark}\.safetensors"
        rf"|{stem}\.safetensors\.index{mark}\.json"
    )


def variant_of(name: str) -> str | None:
    """The variant of a weights file or of an index of shards; empty for none, None for another file."""
    found = _WEIGHTS.fullmatch(name)
    return None if found is None else found["new"] or found["old"] or found["index"] or ""


def only_variant(paths: Iterable[str]) -> str:
    """The variant of which every network's weights are, where no network has any others; else empty."""
    found: dict[str, set[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        variant = variant_of(name)
        if variant is not None:
            found.setdefault(folder, set()).add(variant)
    variants = set().union(*found.values())
    return variants.pop() if len(variants) == 1 else ""


def never_loaded(paths: Iterable[str]) -> dict[str, str]:
    """Weights that diffusers passes over -> what they are: variants beside plain ones, pickles beside safetensors."""
    sets: dict[str, list[tuple[str, str, str]]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        variant, found = variant_of(name), _WEIGHTS.fullmatch(name)
        if variant is not None and found is not None:
            sets.setdefault(folder, []).append((path, variant, found["kind"] or "index"))
    return {path: kind for each in sets.values() for path, kind in _passed_over(each)}


def _passed_over(files: list[tuple[str, str, str]]) -> Iterator[tuple[str, str]]:
    """Of the weights in one folder: (path, variant, kind of file)."""
    plain = any(not variant for _, variant, _ in files)
    safe = {variant for _, variant, kind in files if kind == "safetensors"}
    for path, variant, kind in files:
        if plain and variant:
            yield path, VARIANT
        elif variant in safe and kind in ("bin", "ckpt"):
            yield path, PICKLED_AGAIN
