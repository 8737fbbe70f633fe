"""Files that `probes build` did not use, so that none of them is passed over in silence."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

_KINDS: Final = 8
"""Suffixes of files that are told apart in a count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An image that was not used, and why."""

    name: str
    reason: str


def of_kinds(left_out: Sequence[LeftOut]) -> str:
    """How many files of which suffix were left out, in brackets; empty for none."""
    counts = Counter(PurePath(left.name).suffix.lower() or "without suffix" for left in left_out)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common(_KINDS))
    rest = sum(count for _, count in counts.most_common()[_KINDS:])
    return f" ({kinds}{f', {rest:,} others' if rest else ''})" if counts else ""
