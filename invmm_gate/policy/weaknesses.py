"""Every setting in which a policy is weaker than the shipped `strict`, found from the schema itself."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any, Final, get_type_hints

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.marks import HIGHER, LOWER, OTHER, Direction, direction_of
from invmm_gate.core.settings import COPY_METRICS, PROFILES, InversionSettings, copy_metric, told
from invmm_gate.files.strict_model import StrictModel
from invmm_gate.policy.evidence import Selection
from invmm_gate.policy.field_types import SettingsOverrides
from invmm_gate.policy.rules.invmm_below import InvmmBelowConfig
from invmm_gate.policy.rules.known import RuleConfig
from invmm_gate.policy.schema import MetricChoice, Policy, load_policy

_STRICT: Final = "strict"


def weaknesses(policy: Policy) -> tuple[str, ...]:
    """One sentence for each setting: its key as in the policy file, its value, and the value of the shipped `strict`.

    Empty for a policy that is at least as strict in everything. Raises ConfigError if the shipped `strict` is missing.
    """
    strict = _strict()
    found = (
        *measure_weaknesses(policy),
        *_metric_weaknesses(policy, strict),
        *_rule_weaknesses(policy, strict),
        *_weaker(policy, strict, ""),
    )
    return tuple(dict.fromkeys(found))


def measure_weaknesses(policy: Policy) -> tuple[str, ...]:
    """The part about `measure`. Raises ConfigError if the shipped `strict` is missing."""
    strict = _strict()
    return (*_weaker(policy.measure, strict.measure, "measure."), *_settings_weaknesses(policy, strict))


@cache
def directions(model: Any) -> Mapping[str, Direction]:
    """Field -> in which direction it weakens the gate. Raises LookupError for a field without a mark."""
    hints = get_type_hints(model, include_extras=True)
    names = model.model_fields if issubclass(model, StrictModel) else [item.name for item in fields(model)]
    found = {name: direction_of(getattr(hints[name], "__metadata__", ())) for name in names}
    if unmarked := [name for name, mark in found.items() if mark is None]:
        raise LookupError(f"{model.__name__} has fields without a direction: {', '.join(unmarked)}")
    return {name: mark for name, mark in found.items() if mark is not None}


@cache
def _strict() -> Policy:
    return load_policy(_STRICT)


def _weaker(ours: object, theirs: StrictModel, path: str) -> Iterator[str]:
    """Field by field of one model; parts that both have are compared by their own fields."""
    for name, direction in directions(type(theirs)).items():
        mine, other, key = getattr(ours, name), getattr(theirs, name), path + name
        if isinstance(other, StrictModel) and not isinstance(other, SettingsOverrides):
            if mine is None:
                yield f"{key} is missing, and {_STRICT} has it"
            else:
                yield from _weaker(mine, other, f"{key}.")
        elif direction.weaker(mine, other):
            yield _sentence(key, mine, other, direction)


def _sentence(key: str, ours: object, theirs: object, direction: Direction, where: str = "") -> str:
    return f"{key} is {_shown(ours)}, in {_STRICT} {_shown(theirs)}{where}: {direction.why}"


def _shown(value: object) -> str:
    """A value as a policy file has it."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value)


def _settings_weaknesses(policy: Policy, strict: Policy) -> Iterator[str]:
    """Weaknesses of the settings as each model family gets them; families with the same values share a sentence."""
    families: dict[tuple[str, str, str], list[str]] = {}
    compared = _compared_settings(policy, strict)
    for family, (ours, theirs) in compared.items():
        for item in fields(InversionSettings):
            mine, other = getattr(ours, item.name), getattr(theirs, item.name)
            if directions(InversionSettings)[item.name].weaker(mine, other):
                families.setdefault((item.name, _shown(mine), _shown(other)), []).append(family)
    for (name, mine, other), found in families.items():
        where = "" if len(found) == len(compared) else f" (family {', '.join(found)})"
        yield _sentence(f"measure.settings.{name}", mine, other, directions(InversionSettings)[name], where)


def _compared_settings(policy: Policy, strict: Policy) -> dict[str, tuple[InversionSettings, InversionSettings]]:
    """(the policy's, strict's) by family, without families that the policy cannot be used for."""
    found: dict[str, tuple[InversionSettings, InversionSettings]] = {}
    for family in PROFILES[strict.measure.profile]:
        theirs = strict.resolve_settings(family)
        try:
            ours = policy.resolve_settings(family)
        except ConfigError:
            continue
        if "stop_above" not in policy.measure.settings.given():
            ours = replace(ours, stop_above=None)  # it follows from the rules' threshold, which is compared itself
        if told(ours.prompt) == told(theirs.prompt):  # else no model of the family is measured
            found[family] = (ours, theirs)
    return found


def _metric_weaknesses(policy: Policy, strict: Policy) -> Iterator[str]:
    """For every range of image sizes, as each policy's list gives it; sizes without a metric are not measured."""
    ends = sorted({choice.up_to for choice in (*policy.metric, *strict.metric) if choice.up_to is not None})
    sizes = [(end, f" for images up to {end} pixels") for end in ends]
    for side, where in (*sizes, (max(ends, default=0) + 1, " for all larger images")):
        try:
            ours, theirs = policy.metric_for(side, side), strict.metric_for(side, side)
        except ConfigError:
            continue
        key = f"metric[{policy.metric.index(ours)}]"
        if ours.name != theirs.name:
            yield _sentence(f"{key}.name", ours.name, theirs.name, OTHER, where)
        elif (direction := _threshold_direction(theirs)).weaker(ours.threshold, theirs.threshold):
            yield _sentence(f"{key}.threshold", ours.threshold, theirs.threshold, direction)


def _threshold_direction(choice: MetricChoice) -> Direction:
    return HIGHER if COPY_METRICS[copy_metric(choice.name)] else LOWER


def _rule_weaknesses(policy: Policy, strict: Policy) -> Iterator[str]:
    """Each rule of strict against the policy's rule of that kind that is nearest to it, group by group."""
    for theirs in strict.rules:
        own = [(place, rule) for place, rule in enumerate(policy.rules) if rule.rule == theirs.rule]
        if not own:
            yield f"rules: no {theirs.rule}, and {_STRICT} has it"
            continue
        for group in theirs.groups if isinstance(theirs, Selection) else ("",):
            looking = [tuple(_rule_weaker(rule, theirs, place)) for place, rule in own if _covers(rule, theirs, group)]
            if looking:
                yield from min(looking, key=len)
            else:
                yield f"rules: no {theirs.rule} looks at every probe of group {group}, in {_STRICT} one does"


def _rule_weaker(rule: RuleConfig, theirs: RuleConfig, place: int) -> Iterator[str]:
    path = f"rules[{place}] {rule.rule}."
    if isinstance(rule, InvmmBelowConfig) and isinstance(theirs, InvmmBelowConfig):
        yield from _limit_weaker(rule, theirs, path)
    yield from _weaker(rule, theirs, path)


def _limit_weaker(ours: InvmmBelowConfig, theirs: InvmmBelowConfig, path: str) -> Iterator[str]:
    """Two thresholds in any units. One per dimension and one over all of them cross at some number of dimensions."""
    (name, value), (other, strict) = ours.given, theirs.given
    said = f"{path}{name} is {_shown(value)}, in {_STRICT} {'' if other == name else f'{other} '}{_shown(strict)}"
    mine, whole = ours.total_nats, theirs.total_nats
    if (mine is None) == (whole is None):
        if (value if mine is None else mine) < (strict if whole is None else whole):
            yield f"{said}: {LOWER.why}"
    elif mine is not None:
        if strict > 0:
            yield f"{said}: lower for a latent of more than {mine / strict:,.0f} dimensions"
    elif whole is not None and whole > 0:
        crossing = f"fewer than {whole / value:,.0f}" if value > 0 else "any number of"
        yield f"{said}: lower for a latent of {crossing} dimensions"


def _covers(rule: RuleConfig, theirs: RuleConfig, group: str) -> bool:
    """Whether the rule looks at all probes of a group that strict's rule looks at."""
    if not isinstance(rule, Selection) or not isinstance(theirs, Selection):
        return True
    every = not rule.categories or (bool(theirs.categories) and set(theirs.categories) <= set(rule.categories))
    return group in rule.groups and every
