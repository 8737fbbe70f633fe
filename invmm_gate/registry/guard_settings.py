"""What the guard demands, from the environment of the server: without roots and policies it does not start."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from invmm_gate.attestation.keys import load_roots
from invmm_gate.errors import ConfigError
from invmm_gate.policy.schema import load_policy
from invmm_gate.registry.evidence import Demands

ROOTS: Final = "INVMM_GATE_GUARD_ROOTS"
POLICIES: Final = "INVMM_GATE_GUARD_POLICIES"
ALIASES: Final = "INVMM_GATE_GUARD_ALIASES"
DEFAULT_ALIASES: Final = "champion,approved-*,production"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """Whose word counts, under which policies, and for which aliases."""

    demands: Demands
    aliases: tuple[str, ...]
    """Patterns as in a shell, `alias` or `model@alias`; upper and lower case are the same."""

    def protects(self, name: str, alias: str) -> bool:
        """Whether the alias of this model is a protected one."""
        whole = f"{name}@{alias}".casefold()
        return any(fnmatchcase(whole if "@" in pattern else alias.casefold(), pattern) for pattern in self.aliases)


def settings_from(environment: Mapping[str, str] = os.environ) -> GuardSettings:
    """The settings. Raises ConfigError for one that is missing or cannot be used."""
    policies = [load_policy(name) for name in _listed(environment, POLICIES, "strict")]
    roots = load_roots(Path(_required(environment, ROOTS, "keys/gate.pub")))
    aliases = tuple(pattern.casefold() for pattern in _split(environment.get(ALIASES, DEFAULT_ALIASES)))
    if not aliases:
        raise ConfigError(f"{ALIASES} names no alias", expected=f"patterns, as {DEFAULT_ALIASES}")
    return GuardSettings(
        demands=Demands(roots=roots, policies={policy.digest: policy.name for policy in policies}), aliases=aliases
    )


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
