"""The base of all policy models: unknown keys refused with the nearest valid one, errors turned into FILE:LINE."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar, cast

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from invmm_gate.core.errors import ConfigError
from invmm_gate.files.yaml_lines import Document

T = TypeVar("T")
_MOST_TOLD: Final = 5
"""Errors after the first."""
_LIST: Final = "Input should be a list"
_MAPPING: Final = "Input should be keys with values, as in `key: value`"
_IN_YAML: Final = {
    "tuple_type": _LIST,
    "list_type": _LIST,
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
}
"""What pydantic says of Python's types, in the words of YAML."""


class StrictModel(BaseModel):
    """Frozen; no unknown keys, no NaN or infinity, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        if isinstance(data, dict):
            for key in data:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key {key}; {hint}",
                        {"key": repr(key), "name": key, "hint": nearest(str(key), cls.model_fields)},
                    )
        return data


def nearest(word: str, valid: Iterable[str]) -> str:
    """`did you mean 'x'?` for the most alike valid word, else the list of valid words."""
    known = list(valid)
    alike = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {alike[0]!r}?" if alike else f"expected one of {', '.join(known)}"


def parse(adapter: TypeAdapter[T], document: Document) -> T:
    """Validate a document. Raises ConfigError with FILE:LINE and key of the first error, and of up to 5 more."""
    try:
        return adapter.validate_python(document.data)
    except ValidationError as error:
        details = _innermost(error.errors(include_url=False))
        first, *others = [_describe(detail, document) for detail in details]
        left = [f"and {len(others) - _MOST_TOLD} more"] if len(others) > _MOST_TOLD else []
        raise ConfigError(first, do="; ".join(others[:_MOST_TOLD] + left)) from error


def _innermost(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Without errors of a whole that only follow from those of its parts, such as a list whose every item is wrong."""
    inner = {detail["loc"][:end] for detail in details for end in range(len(detail["loc"]))}
    return [detail for detail in details if detail["loc"] not in inner]


def _describe(detail: ErrorDetails, document: Document) -> str:
    path = _locate(detail["loc"], document.data)
    if detail["type"] == "unknown_key":
        path.append(str(detail["ctx"]["name"]))
    line = document.line(path)
    if detail["type"] == "missing":
        path.append(detail["loc"][-1])
    key = _dotted(path)
    where = f"{document.file}:{line}: {key}: " if key else f"{document.file}:{line}: "
    return where + _message(detail)


def _message(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "union_tag_invalid":
        valid = str(context["expected_tags"]).replace("'", "").split(", ")
        return f"unknown rule {context['tag']!r}; {nearest(str(context['tag']), valid)}"
    if detail["type"] == "union_tag_not_found":
        return "every rule needs the key 'rule'"
    if detail["type"] == "missing":
        return "this key is missing"
    if detail["type"] == "literal_error":
        valid = re.findall(r"'([^']*)'", str(context["expected"]))
        return f"unknown value {str(detail['input'])[:60]!r}; {nearest(str(detail['input']), valid)}"
    text = _IN_YAML.get(detail["type"], detail["msg"].removeprefix("Value error, "))
    given = detail["input"]
    if isinstance(given, str | int | float | bool | None) and detail["type"] not in ("unknown_key", "value_error"):
        return f"{text}, found {str(given)[:60]!r}"
    return text


def _locate(location: Sequence[str | int], data: object) -> list[str | int]:
    """The part of an error's location that stands in the file.

    Pydantic puts the name of a union's member between the keys; such names are left out.
    """
    path: list[str | int] = []
    for part in location:
        in_mapping = isinstance(data, dict) and part in data
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_mapping or in_list:
            data = cast("Any", data)[part]
            path.append(part)
    return path


def _dotted(path: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
