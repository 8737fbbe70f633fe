"""Captions in files of their own, beside the images of the same name: `0001.txt` or `0001.caption` for `0001.png`."""

from collections.abc import Iterable
from pathlib import PurePath
from typing import Final

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.curation.training_entries import lies_beside

SUFFIXES: Final = (".txt", ".caption")
LIMIT: Final = 1_000_000
"""Bytes of a caption file: more than the manifest takes of one caption, in any script."""


def captions_of(names: Iterable[str], *, place: str) -> dict[str, str]:
    """File that may be an image -> its caption file; a caption file without an image belongs to none.

    Raises ProbeSetError for an image with two of them.
    """
    stems: dict[str, list[str]] = {}
    images = []
    for name in names:
        if PurePath(name).suffix.lower() in SUFFIXES:
            stems.setdefault(_stem(name), []).append(name)
        elif not lies_beside(name):
            images.append(name)
    found = {name: stems[_stem(name)] for name in images if _stem(name) in stems}
    for name, captions in found.items():
        if len(captions) > 1:
            raise ProbeSetError(
                f"{place}: {name!r} has several captions, {' and '.join(map(repr, sorted(captions)))}",
                expected="one caption file for each image",
                do="keep the one that training read",
            )
    return {name: captions[0] for name, captions in found.items()}


def _stem(name: str) -> str:
    return str(PurePath(name).with_suffix(""))


def caption_in(data: bytes, name: str) -> str:
    """The first line of a caption file that is not blank, as kohya's scripts take the first; empty if there is none.

    Raises ProbeSetError, naming the file, for one that is too long or not UTF-8.
    """
    if len(data) > LIMIT:
        raise ProbeSetError(
            f"the caption file {name!r} has more than {LIMIT / 1e6:.0f} MB", expected="the caption of one image"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProbeSetError(
            f"the caption file {name!r} is not UTF-8 (byte {error.start + 1} is 0x{data[error.start]:02x})",
            expected="a caption in UTF-8",
            do="save it as UTF-8",
        ) from error
    return next(filter(None, map(str.strip, text.splitlines())), "")
