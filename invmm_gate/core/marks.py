"""Marks at the fields of records and settings: what anybody may see, and which direction weakens the gate.

A field of a record without a mark is not public. A setting without a direction fails a test.
"""

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

PUBLIC: Final = "public"
"""The field is public; of records in it those fields that are marked."""
WHOLE: Final = "public as a whole"
"""The field is public with all that is in it."""

Record = TypeVar("Record")
_BLANKS: Final[Mapping[Any, object]] = {str: "", int: 0, float: 0.0, bool: False, tuple: (), dict: {}}


def only_public(record: Record) -> Record:
    """The record without the fields that are not marked as public: these are empty, zero or None."""
    kind: Any = type(record)
    shown = {name: blank for name, (mark, blank) in _fields(kind).items() if not mark}
    for name, (mark, _) in _fields(kind).items():
        if mark:
            shown[name] = getattr(record, name) if mark == WHOLE else _inside(getattr(record, name))
    return type(record)(**shown)


def _inside(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return only_public(value)
    return tuple(map(_inside, value)) if isinstance(value, tuple) else value


@cache
def _fields(kind: Any) -> dict[str, tuple[str, object]]:
    """Field -> its mark and what stands in its place without one. Raises TypeError where nothing can stand there."""
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for each in dataclasses.fields(kind):
        marks = [mark for mark in getattr(hints[each.name], "__metadata__", ()) if mark in (PUBLIC, WHOLE)]
        found[each.name] = (marks[0], None) if marks else ("", _blank(hints[each.name], each.name))
    return found


def _blank(hint: Any, name: str) -> object:
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(plain) in (Union, types.UnionType) and type(None) in get_args(plain):
        return None
    if get_origin(plain) is Literal and "" in get_args(plain):
        return ""
    kind = get_origin(plain) or plain
    if kind not in _BLANKS:
        raise TypeError(f"nothing can stand in the place of {name}: mark it as public, or give it another type")
    return _BLANKS[kind]


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
HIGHER_THAN_NONE: Final = Direction(lambda ours, theirs: (ours or 0) > (theirs or 0), HIGHER.why)
"""As HIGHER, where None asks for nothing."""
OTHER: Final = Direction(lambda ours, theirs: ours != theirs, "strict's thresholds hold for its own value only")
MISSING: Final = Direction(lambda ours, theirs: not set(theirs) <= set(ours), "what is missing is not tried")
"""Of a set: all that the other one holds must be in it."""
PART: Final = apart("a part with fields of its own; where it is missing, that is said")
NAME: Final = apart("a name")
SELECTION: Final = apart("compared group by group: whether a rule looks at every probe that strict's looks at")


def direction_of(metadata: Iterable[object]) -> Direction | None:
    """The mark among the metadata of an annotated field; None without one."""
    return next((item for item in metadata if isinstance(item, Direction)), None)
