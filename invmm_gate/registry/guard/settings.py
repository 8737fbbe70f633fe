"""What the guard demands, from the environment of the server: without roots and policies it does not start."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from invmm_gate.attest.keys import TrustRoots, load_roots
from invmm_gate.core.errors import ConfigError
from invmm_gate.policy.schema import load_policy
from invmm_gate.registry.client.names import folded
from invmm_gate.registry.promote.conditions import Conditions
from invmm_gate.registry.promote.evidence import Demands

ROOTS: Final = "INVMM_GATE_GUARD_ROOTS"
POLICIES: Final = "INVMM_GATE_GUARD_POLICIES"
ALIASES: Final = "INVMM_GATE_GUARD_ALIASES"
REVOKED: Final = "INVMM_GATE_GUARD_REVOKED"
MAX_AGE: Final = "INVMM_GATE_GUARD_MAX_AGE"
REFUSE_WAIVERS: Final = "INVMM_GATE_GUARD_REFUSE_WAIVERS"
REVIEWERS: Final = "INVMM_GATE_GUARD_REVIEWERS"
MIN_PROBES: Final = "INVMM_GATE_GUARD_MIN_PROBES"
PROBE_SET: Final = "INVMM_GATE_GUARD_PROBE_SET_DIGEST"
IMAGE_SIZE: Final = "INVMM_GATE_GUARD_IMAGE_SIZE"
REFUSE_CHOSEN_SEED: Final = "INVMM_GATE_GUARD_REFUSE_CHOSEN_SEED"
MAX_ATTEMPTS: Final = "INVMM_GATE_GUARD_MAX_ATTEMPTS"
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
        """As of now: revocations are read again. Raises ConfigError."""
        return self.conditions.demands(roots=self.roots, policies=self.policies)

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


def _conditions(environment: Mapping[str, str]) -> Conditions:
    return Conditions(
        revoked=_path(environment, REVOKED),
        max_age=_number(environment, MAX_AGE),
        refuse_waivers=_switch(environment, REFUSE_WAIVERS),
        reviewers=_path(environment, REVIEWERS),
        min_probes=_number(environment, MIN_PROBES) or 1,
        probe_set_digest=environment.get(PROBE_SET, "").strip() or None,
        image_size=environment.get(IMAGE_SIZE, "").strip() or None,
        refuse_chosen_seed=_switch(environment, REFUSE_CHOSEN_SEED),
        max_attempts=_number(environment, MAX_ATTEMPTS),
    )


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    value = environment.get(name, "").strip()
    return Path(value) if value else None


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "").strip()
    if value and not re.fullmatch("[1-9][0-9]{0,4}", value):
        raise ConfigError(f"{name} is {value[:40]!a}", expected="a whole number from 1 to 99999")
    return int(value) if value else None


def _switch(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "").strip().lower()
    if value not in ("", "true", "false"):
        raise ConfigError(f"{name} is {value[:40]!a}", expected="true or false")
    return value == "true"


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
