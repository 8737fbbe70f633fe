"""The direction in which a setting weakens the gate. Each field of a policy and of the measure is marked with it.

A field without a mark fails a test.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Direction:
    """When a value is weaker than another one, and why."""

    weaker: Callable[[Any, Any], bool]
    """(value, the value to compare with) -> whether the first one is weaker."""
    why: str


def _number(value: float | None) -> float:
    """A limit that is not set is infinite: no stop, no bound on a search, no share that suffices."""
    return float("inf") if value is None else value


def ranked(*values: object) -> Direction:
    """Strictest value first."""
    return Direction(lambda ours, theirs: values.index(ours) > values.index(theirs), "weaker")


def apart(reason: str) -> Direction:
    """Never weaker by itself, for this reason."""
    return Direction(lambda _, __: False, reason)


LOWER: Final = Direction(lambda ours, theirs: _number(ours) < _number(theirs), "lower is weaker")
HIGHER: Final = Direction(lambda ours, theirs: _number(ours) > _number(theirs), "higher is weaker")
OTHER: Final = Direction(lambda ours, theirs: ours != theirs, "strict's thresholds hold for its own value only")
MISSING: Final = Direction(lambda ours, theirs: not set(theirs) <= set(ours), "what is missing is not tried")
"""Of a set: all that the other one holds must be in it."""
PART: Final = apart("a part with fields of its own; where it is missing, that is said")
NAME: Final = apart("a name")
SELECTION: Final = apart("compared group by group: whether a rule looks at every probe that strict's looks at")


def direction_of(metadata: Iterable[object]) -> Direction | None:
    """The mark among the metadata of an annotated field; None without one."""
    return next((item for item in metadata if isinstance(item, Direction)), None)
