"""Images that are not of the model's shape, as training may have fitted them instead of as the manifest says."""

from collections.abc import Iterator, Sequence
from typing import Final

from invmm_gate.core.protocols import DiffusionModel
from invmm_gate.core.records import Fit, Probe, ProbeSet
from invmm_gate.measure.looking import from_pixels, pictures_of
from invmm_gate.measure.natural_view import Refitted
from invmm_gate.probes.images import load_refitted

_FITS: Final[tuple[tuple[Fit, str], ...]] = (
    ("crop", "black"), ("squeeze", "black"), ("pad", "black"), ("pad", "white"), ("pad", "grey"),
)  # fmt: skip
"""With the colour of bars: some pad with white, and some after normalising, where zero is grey."""


def other_fits(probe_set: ProbeSet, probes: Sequence[Probe], model: DiffusionModel, *, rows: int) -> Iterator[Refitted]:
    """The probes of another shape than the model's, once for each fit that is not theirs.

    Raises ProbeSetError for a file that changed since validation.
    """
    height, width = model.image_size
    for how, bars in _FITS:
        pixels = [load_refitted(probe_set, probe, height=height, width=width, how=how, bars=bars) for probe in probes]
        found = {place: tuple(map(from_pixels, pair)) for place, pair in enumerate(pixels) if pair is not None}
        if found:
            captions = [probes[place].caption for place in found]
            parts = zip(*found.values(), strict=True)
            whole, middle = (pictures_of(model, part, captions, rows=rows) for part in parts)
            stated = bars == "black"
            name = f"with fit {how}" if stated else f"padded with {bars} bars"
            yield Refitted(name=name, places=list(found), whole=whole, middle=middle, stated=stated)
