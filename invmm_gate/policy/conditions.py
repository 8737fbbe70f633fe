"""What two runs must share for their scores to compare (MEASURES D26)."""

from collections.abc import Mapping
from typing import Final

CONDITIONS: Final = ("family", "profile", "settings", "metric")
"""Those of a run's inputs without which two scores do not compare."""

Inputs = Mapping[str, object]


def different_conditions(before: Inputs, after: Inputs) -> tuple[str, ...]:
    """The conditions in which the inputs of two runs differ."""
    return tuple(name for name in CONDITIONS if before.get(name) != after.get(name))


def described_conditions(before: Inputs, after: Inputs) -> str:
    """The same for a sentence, with the names of the settings that differ."""
    return ", ".join(name + _parts(before.get(name), after.get(name)) for name in different_conditions(before, after))


def _parts(before: object, after: object) -> str:
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return ""
    names = before.keys() | after.keys()
    different = (str(name) for name in names if name not in before or name not in after or before[name] != after[name])
    return f" ({', '.join(sorted(different))})"
