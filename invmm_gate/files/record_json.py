"""Records as JSON and back. No NaN, no infinity, no unknown field."""

import dataclasses
import datetime
import json
from collections.abc import Hashable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from invmm_gate.core.errors import RunFolderError

Record = TypeVar("Record")


def to_json(record: object, *, indent: int | None = None) -> str:
    """One record as JSON with its fields in their order. Raises ValueError on NaN or infinity."""
    return json.dumps(
        dataclasses.asdict(record),  # type: ignore[call-overload]
        allow_nan=False,
        ensure_ascii=False,
        indent=indent,
        default=_plain,
    )


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, which is what digests are taken of."""
    return json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":"), default=_plain)


def from_json(kind: type[Record], text: str | bytes, *, where: str) -> Record:
    """A record of this kind. Raises RunFolderError that names `where`."""
    adapter = _adapter(cast("Hashable", kind))
    try:
        record: Record = adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _unreadable(f"{field}: {first['msg']}", kind, where) from error
    unknown = next(_unknown(json.loads(text), adapter.dump_python(record)), None)
    if unknown is not None:
        raise _unreadable(f"{unknown[:80]!r} is no field of it", kind, where)
    return record


def _unreadable(why: str, kind: type, where: str) -> RunFolderError:
    return RunFolderError(
        f"{where} cannot be read: {why}",
        expected=f"a {kind.__name__} as this version writes it",
        do="restore the file, or start again with another --out",
    )


def _unknown(given: object, kept: object) -> Iterator[str]:
    """Keys of what was given that the record has not kept."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key not in kept:
                yield key
            else:
                yield from _unknown(value, kept[key])
    elif isinstance(given, list) and isinstance(kept, list | tuple):
        for one, other in zip(given, kept, strict=True):
            yield from _unknown(one, other)


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    """Made once for each kind: making one takes milliseconds, and a run has a record for every probe."""
    return TypeAdapter(cast("Any", kind))


def _plain(value: object) -> str:
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a record")
