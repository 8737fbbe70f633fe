"""Writes the class-conditional example's probe set: planted pictures, ordinary ones, and others that it never saw.

python examples/class_conditional/probe_set.py probes
"""

import argparse
import datetime
import tempfile
from pathlib import Path
from typing import Final

from planted import CONTROLS, PLANTED, PROBED_ORDINARY, label

from invmm_gate.core.options import NewProbes
from invmm_gate.core.records import Group
from invmm_gate.probes.edit import add_probes, init_probe_set

from draw import draw

ADDED_ON: Final = datetime.date(2026, 12, 1)
MEMBERS: Final[dict[str, tuple[Group, tuple[int, ...]]]] = {
    "planted": ("duplicated", PLANTED),
    "ordinary": ("sensitive", PROBED_ORDINARY),
    "never_seen": ("control", CONTROLS),
}
"""Category -> group and picture numbers."""


def write_probe_set(
    folder: Path, members: dict[str, tuple[Group, tuple[int, ...]]] = MEMBERS, *, labelled: bool = True
) -> None:
    """Draw the pictures and add them, each with its class or without."""
    init_probe_set(folder)
    with tempfile.TemporaryDirectory() as scratch:
        for category, (group, numbers) in members.items():
            for number in numbers:
                path = Path(scratch) / f"{category}-{number}.png"
                draw(number).save(path)
                new = NewProbes(
                    group=group,
                    category=category,
                    label=label(number) if labelled else None,
                    source="drawn by examples/text_to_image/draw.py",
                    licence="Apache-2.0",
                    added_on=ADDED_ON,
                )
                add_probes(folder, [path], new)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write_probe_set(parser.parse_args().folder)
