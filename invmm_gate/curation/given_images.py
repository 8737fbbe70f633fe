"""Images that `probes add` is given: files, or all images of a folder, a table, a tar or a saved data set."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.curation.training_data import holds_images, open_training_data
from invmm_gate.curation.training_entries import Columns
from invmm_gate.probes.edit import Original, read_file


def reader(columns: Mapping[str, str]) -> Callable[[Path], Iterator[Original]]:
    """What reads the images at a place, with their captions. `columns`: role -> column of a table."""
    named = Columns(names=columns)

    def read(place: Path) -> Iterator[Original]:
        if not holds_images(place):
            yield from read_file(place)
            return
        data = open_training_data(place, named)
        for entry in data.entries():
            name = str((data.root or place.parent) / entry.name)
            if entry.problem and not entry.beside:
                raise ProbeSetError(
                    f"{name!r} {entry.problem}",
                    expected="images that can all be probes",
                    do="mend it, or take it out; nothing was added",
                )
            if not entry.problem:
                yield Original(name=name, data=entry.data, caption=entry.caption, label=entry.label)

    return read
