"""Strict JSON: no key twice; of a checkpoint no key that makes a library run code, of signed bytes integers alone."""

import json
from collections import Counter
from typing import Final, NoReturn

from invmm_gate.core.errors import ModelError, VerificationError

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
            _refuse_keys(item.keys() & CODE_KEYS, name, "asks for code from outside the library")
            _refuse_keys(item.keys() & QUANTIZATION_KEYS, name, "asks for quantised weights, which are not scored")
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _refuse_keys(keys: set[str], name: str, why: str) -> None:
    for key in sorted(keys):
        raise ModelError(f"key {key!r} in {name!r} {why}", expected="plain configurations", do="export without it")


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
