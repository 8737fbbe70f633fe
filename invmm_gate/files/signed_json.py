"""JSON of signed bytes: one object, no key twice, no number that is not an integer."""

import json
from collections import Counter
from typing import NoReturn

from invmm_gate.core.errors import VerificationError


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


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        duplicate = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {duplicate[:40]!r} occurs twice")
    return value


def _no_integer(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:20]} is no integer")
