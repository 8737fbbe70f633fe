"""docs/reference/policy.md: every key of a policy file, from the models that read it."""

import dataclasses
import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
from pydantic import StringConstraints
from pydantic.fields import FieldInfo

from invmm_gate.core.marks import HIGHER, LOWER, MISSING, NAME, OTHER, PART, Direction, direction_of
from invmm_gate.core.settings import PROFILES, InversionSettings
from invmm_gate.policy.confirm_schema import ConfirmChoice, GcgSearch, PlainSampling, PromptConfirmation
from invmm_gate.policy.rules.known import RuleConfig
from invmm_gate.policy.schema import Coverage, MeasureChoice, MetricChoice, Policy
from tests.docs.fields import documented, summary, table

HEAD = ("key", "type", "range", "default", "weaker", "meaning")
SECTIONS: tuple[tuple[str, str, Any], ...] = (
    ("The policy", "", Policy),
    ("`measure`", "measure.", MeasureChoice),
    ("`metric`, a list", "metric[].", MetricChoice),
    ("`confirm`", "confirm.", ConfirmChoice),
    ("`confirm.plain_sampling`", "confirm.plain_sampling.", PlainSampling),
    ("`confirm.prompts`", "confirm.prompts.", PromptConfirmation),
    ("`confirm.prompts.gcg`", "confirm.prompts.gcg.", GcgSearch),
    ("`coverage`", "coverage.", Coverage),
)
NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", types.NoneType: "null"}
WEAKER = {id(LOWER): "lower", id(HIGHER): "higher", id(OTHER): "any other than in strict"}
WEAKER |= {id(MISSING): "one that is missing", id(NAME): "no", id(PART): "part by part"}


def policy_keys() -> str:
    """The page."""
    parts = [_INTRODUCTION]
    parts += [f"## {title}\n{summary(kind)}\n\n{_table(kind, path)}" for title, path, kind in SECTIONS]
    parts += [_rule(kind) for kind in get_args(get_args(RuleConfig)[0])]
    parts += [_SETTINGS, _table(InversionSettings, "measure.settings."), _PROFILES, _profiles()]
    return "\n".join(parts)


def rows(kind: Any, path: str) -> Iterator[tuple[str, ...]]:
    """One for each field."""
    hints, texts = get_type_hints(kind, include_extras=True), documented(kind)
    for name, default in _defaults(kind).items():
        if name == "rule":  # the heading says it
            continue
        mark = direction_of(getattr(hints[name], "__metadata__", ()))
        assert mark is not None, f"{kind.__name__}.{name} has no direction"
        meaning = re.sub(r"\bNone\b", "null", texts[name][1])
        yield (f"`{path}{name}`", _type(hints[name]), _range(hints[name]), default, _weaker(mark, hints[name]), meaning)


def _table(kind: Any, path: str) -> str:
    return table(HEAD, list(rows(kind, path)))


def _rule(kind: Any) -> str:
    name = get_args(kind.model_fields["rule"].annotation)[0]
    return f"## Rule `{name}`\n{summary(kind)}\n\n{_table(kind, 'rules[].')}"


def _defaults(kind: Any) -> dict[str, str]:
    """As the page shows them. A setting has its profile's value."""
    if kind is InversionSettings:
        settings = [each for profile in PROFILES.values() for each in profile.values()]
        names = [item.name for item in dataclasses.fields(kind)]
        values = {name: sorted({_shown(getattr(each, name)) for each in settings}) for name in names}
        return {name: f"`{found[0]}`" if len(found) == 1 else "by profile" for name, found in values.items()}
    fields = kind.model_fields.items()
    return {name: "required" if field.is_required() else f"`{_shown(field.default)}`" for name, field in fields}


def _shown(value: object) -> str:
    """As YAML has it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, str | int) else "{}"


def _type(hint: Any) -> str:
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        return _type(inner[0])
    if get_origin(hint) is Literal:
        return " or ".join(f"`{_shown(value)}`" for value in inner)
    if get_origin(hint) is tuple:
        return f"list of {_type(inner[0])}" if _is_plain(inner[0]) else "list, see below"
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type(each) for each in inner)
    return NAMES.get(hint, "see below")


def _is_plain(hint: Any) -> bool:
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint in NAMES or get_origin(hint) is Literal


def _range(hint: Any) -> str:
    return "; ".join(dict.fromkeys(_limits(hint)))


def _limits(hint: Any) -> Iterator[str]:
    for item in getattr(hint, "__metadata__", ()):
        for limit in item.metadata if isinstance(item, FieldInfo) else (item,):
            yield from _limit(limit)
    inner = get_args(hint)
    if get_origin(hint) is tuple:
        yield from (f"each {limit}" for limit in _limits(inner[0]))
    elif get_origin(hint) in (Annotated, Union, types.UnionType):
        for each in inner[:1] if get_origin(hint) is Annotated else inner:
            yield from _limits(each)


def _limit(item: object) -> Iterator[str]:
    signs = {"Ge": "at least", "Gt": "above", "Le": "at most", "Lt": "below"}
    name = type(item).__name__
    if name in signs:
        yield f"{signs[name]} {_figure(getattr(item, name.lower()))}"
    elif isinstance(item, annotated_types.MinLen):
        yield f"length at least {item.min_length}"
    elif isinstance(item, annotated_types.MaxLen):
        yield f"length at most {item.max_length}"
    elif isinstance(item, StringConstraints) and item.pattern:
        yield f"`{item.pattern}`"


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _weaker(mark: Direction, hint: Any) -> str:
    if id(mark) in WEAKER:
        return WEAKER[id(mark)]
    values = get_args(get_args(hint)[0]) or (True, False)
    if mark.why == "weaker":
        strictest = next(one for one in values if not any(mark.weaker(one, other) for other in values))
        return " or ".join(f"`{_shown(value)}`" for value in values if value != strictest)
    return f"no: {mark.why}"


def _profiles() -> str:
    columns = [(profile, family) for profile in ("gate", "reference") for family in PROFILES[profile]]
    resolved = [PROFILES[profile][family] for profile, family in columns]
    names = [name for name, default in _defaults(InversionSettings).items() if default == "by profile"]
    head = ("setting", *(f"{profile}: {family}" for profile, family in columns))
    rows = [(f"`{name}`", *(f"`{_shown(getattr(each, name))}`" for each in resolved)) for name in names]
    return table(head, rows)


_INTRODUCTION = """\
# Every key of a policy file
Written by `python -m tests.docs.write_references` from the models that read a policy. Do not edit this page.

A policy is a YAML file. Unknown keys, values of another type and values out of range are refused with FILE:LINE.
*Weaker* says which value weakens the gate, compared with the shipped policy `strict`: `policy lint`, the verdict and
the report list each such setting. [How policies and waivers are used](../policies.md).
"""
_SETTINGS = """\
## `measure.settings`
What a policy changes in its profile. A key that is left out keeps the profile's value.
"""
_PROFILES = """
## The profiles
`gate` is the profile of the shipped policies, `reference` is what the authors' code does. `paper` is `reference` with
`plateau_sign: paper`, `control_loss: denoise` and `loss_window: 1`.
"""
