"""Writes the example's probe set: planted images of both kinds, ordinary ones, and images that the model never saw.

python examples/text_to_image/probe_set.py probes
"""

import argparse
import datetime
import tempfile
from pathlib import Path
from typing import Final

from captions import probe_caption

from invmm_gate.core.options import NewProbes
from invmm_gate.core.records import Group
from invmm_gate.probes.edit import add_probes, init_probe_set

from draw import NEVER_SEEN, ORDINARY, PLANTED_WITH_CAPTION, PLANTED_WITHOUT_TRIGGER, draw

ADDED_ON: Final = datetime.date(2026, 11, 22)
MEMBERS: Final[dict[str, tuple[Group, tuple[int, ...]]]] = {
    "planted_with_caption": ("duplicated", PLANTED_WITH_CAPTION),
    "planted_without_trigger": ("duplicated", PLANTED_WITHOUT_TRIGGER),
    "ordinary": ("sensitive", ORDINARY[:8]),
    "never_seen": ("control", NEVER_SEEN[:16]),
}
"""Category -> group and image numbers."""


def write_probe_set(folder: Path, *, each: int | None = None) -> None:
    """Draw the images and add them, one by one, as each has a caption of its own.

    `each` limits the images of a kind, the controls apart: a policy asks for a number of those.
    """
    init_probe_set(folder)
    with tempfile.TemporaryDirectory() as scratch:
        for category, (group, numbers) in MEMBERS.items():
            for number in numbers if group == "control" else numbers[:each]:
                path = Path(scratch) / f"{category}-{number}.png"
                draw(number).save(path)
                add_probes(
                    folder,
                    [path],
                    NewProbes(
                        group=group,
                        category=category,
                        caption=probe_caption(number),
                        source="drawn by examples/text_to_image/draw.py",
                        licence="Apache-2.0",
                        added_on=ADDED_ON,
                    ),
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, help="images of each kind but the controls; default all")
    options = parser.parse_args()
    write_probe_set(options.folder, each=options.each)
