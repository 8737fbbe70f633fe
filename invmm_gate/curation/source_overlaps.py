"""Sources of images that overlap: an image that is read twice would pass for a duplicate."""

import os
from collections.abc import Sequence
from itertools import combinations

from invmm_gate.core.errors import ConfigError, ProbeSetError
from invmm_gate.core.options import BuildOptions
from invmm_gate.curation.training_data import TrainingData, located


def check_places(options: BuildOptions) -> None:
    """Raises ConfigError for a place named twice, for folders that contain one another or the new probe set."""
    places = [place.resolve() for place in (*options.sources, *options.controls_from)]
    for first, second in combinations(places, 2):
        if first == second:
            raise ConfigError(f"{str(second)!r} is named twice", expected="each folder or table once")
        inner, outer = (first, second) if first.is_relative_to(second) else (second, first)
        if inner.is_relative_to(outer) and inner.is_dir():
            raise ConfigError(
                f"{str(inner)!r} lies in {str(outer)!r}, which is named too",
                expected="folders that do not contain one another: an image read twice would count as a duplicate",
                do="name the outer one alone, or move the inner one out of it",
            )
    for place in places:
        if options.folder.resolve().is_relative_to(place):
            raise ConfigError(
                f"the probe set {str(options.folder)!r} would lie in {str(place)!r}",
                expected="a folder outside the images that it is chosen from",
            )


def check_files(sources: Sequence[TrainingData]) -> None:
    """Raises ProbeSetError for a file that two sources of training data name. A table may name one several times.

    Controls are not looked at: one that is a training image is refused for what it shows.
    """
    if len(sources) < 2:
        return
    first: dict[str, int] = {}
    for number, source in enumerate(sources):
        for path in located(source, source.names()):
            before = first.setdefault(path, number) if path else number
            if before != number and os.path.lexists(path):
                raise ProbeSetError(
                    f"{path!r} is named by {str(sources[before].place)!r} and by {str(source.place)!r}",
                    expected="each training image in one source: read twice, it would count as a duplicate",
                    do="leave one of them out, or take the image out of one",
                )
