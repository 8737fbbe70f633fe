"""Writes the demo's probe set: the planted images, images that the models saw once, and images that they never saw.

python examples/demo/probe_set.py probes
"""

import argparse
import datetime
import tempfile
from pathlib import Path

from invmm_gate.core.options import NewProbes
from invmm_gate.core.records import Group
from invmm_gate.probes.edit import add_probes, init_probe_set

from draw import NEVER_SEEN, PLANTED_8, PLANTED_32, SINGLE, draw

ADDED_ON = datetime.date(2026, 11, 21)
MEMBERS: tuple[tuple[str, Group, tuple[int, ...]], ...] = (
    ("planted_32", "duplicated", PLANTED_32),
    ("planted_8", "duplicated", PLANTED_8[:4]),
    ("single", "sensitive", SINGLE[:4]),
    ("never_seen", "control", NEVER_SEEN[:16]),
)


def write_probe_set(folder: Path, *, at_most: int = 16) -> None:
    """Draw the images and add them, group by group and so many of each; category names the kind."""
    init_probe_set(folder)
    for kind, group, members in MEMBERS:
        numbers = members[:at_most]
        with tempfile.TemporaryDirectory() as scratch:
            paths = [Path(scratch) / f"{kind}-{number}.png" for number in numbers]
            for path, number in zip(paths, numbers, strict=True):
                draw(number).save(path)
            add_probes(
                folder,
                paths,
                NewProbes(
                    group=group, category=kind, source="examples/demo/draw.py", licence="Apache-2.0", added_on=ADDED_ON
                ),
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write_probe_set(parser.parse_args().folder)
