"""JSON that is strict both ways: of checkpoints, of signed bytes, and of records, with no NaN and no unknown key."""

import dataclasses
import datetime
import json
from collections import Counter
from collections.abc import Hashable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from invmm_gate.core.errors import ModelError, RunFolderError, VerificationError

CODE_KEYS: Final = frozenset({"auto_map", "custom_pipeline", "custom_pipelines", "trust_remote_code"})
QUANTIZATION_KEYS: Final = frozenset({"quantization_config"})


def parse_object(data: bytes | str, name: str) -> dict[str, object]:
    """The object that `data` holds. Raises ModelError, naming the file, for anything else."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise ModelError(f"{name!r} is nested too deep", expected="a plain JSON object") from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, a number of too many digits, a duplicate
        raise ModelError(f"{name!r} is not valid JSON: {error}", expected="a JSON object") from error
    if not isinstance(value, dict):
        raise ModelError(f"{name!r} holds a JSON {type(value).__name__}", expected="a JSON object")
    refuse_code_keys(value, name)
    return value


def refuse_code_keys(value: object, name: str) -> None:
    """Refuse, at any depth, the keys by which a configuration asks for code or for a quantisation library."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            _refuse_keys(item, name)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _refuse_keys(item: dict[str, object], name: str) -> None:
    for key in sorted(item.keys() & CODE_KEYS):
        if key != "trust_remote_code" or not (item[key] is False or item[key] is None):
            raise ModelError(
                f"key {key!r} in {name!r} asks for code from outside the library",
                expected="plain configurations",
                do="export without it",
            )
    for key in sorted(item.keys() & QUANTIZATION_KEYS):
        raise ModelError(
            f"key {key!r} in {name!r} asks for quantised weights, which are not scored",
            expected="weights in float16, bfloat16 or float32",
            do="check the checkpoint before it is quantised, or save it dequantised",
        )


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        duplicate = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {duplicate[:40]!r} occurs twice")
    return value


def parse_plain(payload: bytes) -> dict[str, object]:
    """The object that `payload` holds. Raises VerificationError for anything else."""
    try:
        value = json.loads(
            payload.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_float=_no_integer,
            parse_constant=_no_integer,
        )
    except RecursionError as error:
        raise VerificationError("statement: it is nested too deep", expected="a statement") from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, a number of too many digits, a duplicate
        raise VerificationError(f"statement: {error}", expected="plain JSON") from error
    if not isinstance(value, dict):
        raise VerificationError(f"statement: it is a JSON {type(value).__name__}", expected="a JSON object")
    return value


def _no_integer(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:20]} is no integer")


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
