"""The settings of the guard, from the environment of the server. Without roots and policies it does not start."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, get_args

from invmm_gate.attest.demands import Demands, demands_of
from invmm_gate.attest.keys import TrustRoots, load_roots
from invmm_gate.core.errors import ConfigError
from invmm_gate.core.options import ENVIRONMENT, Conditions, asked
from invmm_gate.policy.schema import load_policy
from invmm_gate.registry.client.names import folded

PREFIX: Final = "INVMM_GATE_GUARD_"
ROOTS: Final = f"{PREFIX}ROOTS"
POLICIES: Final = f"{PREFIX}POLICIES"
ALIASES: Final = f"{PREFIX}ALIASES"
DEFAULT_ALIASES: Final = "champion,approved-*,production,*-release@*"
"""All aliases of release models too, whatever `--alias` the gate was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """Whose word counts, under which policies, and for which aliases."""

    roots: TrustRoots
    policies: Mapping[str, str]
    """Accepted policies: digest -> name."""
    conditions: Conditions
    aliases: tuple[str, ...]
    """Patterns as in a shell, `alias` or `model@alias`, as `folded` spells them."""

    def demands(self) -> Demands:
        """The demands as of now: revocations are read again. Raises ConfigError."""
        return demands_of(self.conditions, roots=self.roots, policies=self.policies)

    def protects(self, name: str, alias: str) -> bool:
        """Whether the alias of this model is a protected one."""
        return is_protected(self.aliases, name, alias)


def is_protected(patterns: Iterable[str], name: str, alias: str) -> bool:
    """Whether one of the patterns, as `folded` spells them, is of the alias of this model, however that is spelled."""
    plain = folded(alias)
    whole = f"{folded(name)}@{plain}"
    return any(fnmatchcase(whole if "@" in pattern else plain, pattern) for pattern in patterns)


def protected_by_default(name: str, alias: str) -> bool:
    """Whether a guard that was not told which aliases to protect protects this one."""
    return is_protected(_split(DEFAULT_ALIASES), name, alias)


def settings_from(environment: Mapping[str, str] = os.environ) -> GuardSettings:
    """The settings. Raises ConfigError for one that is missing or cannot be used."""
    policies = [load_policy(name) for name in _listed(environment, POLICIES, "strict")]
    roots = load_roots(Path(_required(environment, ROOTS, "keys/gate.pub")))
    aliases = tuple(folded(pattern) for pattern in _split(environment.get(ALIASES, DEFAULT_ALIASES)))
    if not aliases:
        raise ConfigError(f"{ALIASES} names no alias", expected=f"patterns, as {DEFAULT_ALIASES}")
    settings = GuardSettings(
        roots=roots,
        policies={policy.digest: policy.name for policy in policies},
        conditions=_conditions(environment),
        aliases=aliases,
    )
    settings.demands()
    return settings


def variable(field: str) -> str:
    """The variable that holds a field of the conditions."""
    return ENVIRONMENT if field == "environment" else PREFIX + field.upper()


def variables(conditions: Conditions) -> dict[str, str]:
    """The environment that says what was chosen; the others may be set already."""
    chosen = {each.name: getattr(conditions, each.name) for each in fields(conditions)}
    stated = {name: value for name, value in chosen.items() if value != getattr(Conditions(), name)}
    return {
        variable(name): str(value.resolve() if isinstance(value, Path) else value).strip()
        for name, value in stated.items()
    }


def _conditions(environment: Mapping[str, str]) -> Conditions:
    """Raises ConfigError for a value of another kind than the field's."""
    read = {}
    for field, kind, _ in asked(Conditions):
        name = variable(field.name)
        text = environment.get(name, "").strip()
        if text or (name == ENVIRONMENT and name in environment):  # an empty name is no environment that was approved
            read[field.name] = _value(name, kind, text)
    return Conditions(**read)


def _value(name: str, kind: Any, text: str) -> Any:
    """A value as its field has it. Raises ConfigError, naming the variable."""
    kinds = get_args(kind) or (kind,)
    if bool in kinds:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{name} is {text[:40]!a}", expected="true or false")
        return text.lower() == "true"
    if int in kinds:
        if not re.fullmatch("[1-9][0-9]{0,4}", text):
            raise ConfigError(f"{name} is {text[:40]!a}", expected="a whole number from 1 to 99999")
        return int(text)
    return Path(text) if Path in kinds else text


def _listed(environment: Mapping[str, str], name: str, example: str) -> tuple[str, ...]:
    found = _split(_required(environment, name, example))
    if not found:
        raise ConfigError(f"{name} is empty", expected=f"a list, as {example}")
    return found


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _required(environment: Mapping[str, str], name: str, example: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise ConfigError(f"{name} is not set", expected=f"as in {name}={example}", do="the guard does not start")
    return value
