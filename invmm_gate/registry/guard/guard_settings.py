"""The guard's settings, from the environment of its server, and `invmm-gate registry guard`, which starts that server.

Without roots and policies it does not start.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, get_args

from invmm_gate.attest.demands import Demands, demands_of
from invmm_gate.attest.keys import TrustRoots, load_roots
from invmm_gate.core.asked import asked
from invmm_gate.core.errors import INTERNAL_ERROR, INTERRUPTED, PASS, ConfigError
from invmm_gate.core.options import ENVIRONMENT, Conditions
from invmm_gate.policy.schema import load_policy
from invmm_gate.registry.client.registry_names import folded

PREFIX: Final = "INVMM_GATE_GUARD_"
ROOTS: Final = f"{PREFIX}ROOTS"
POLICIES: Final = f"{PREFIX}POLICIES"
ALIASES: Final = f"{PREFIX}ALIASES"
DEFAULT_ALIASES: Final = "champion,approved-*,production,*-release@*"
"""All aliases of release models too, whatever `--alias` the gate was given."""

APP: Final = "invmm-gate"
_GRACE: Final = 30
_WORKSPACES: Final = {"--enable-workspaces": "true", "--disable-workspaces": "false"}
_START: Final = "from invmm_gate.registry.guard.guard_app import create_app; create_app()"


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
    named = _split(_required(environment, POLICIES, "strict"))
    if not named:
        raise ConfigError(f"{POLICIES} is empty", expected="a list of policies, such as strict")
    policies = [load_policy(name) for name in named]
    roots = load_roots(Path(_required(environment, ROOTS, "keys/gate.pub")))
    aliases = tuple(folded(pattern) for pattern in _split(environment.get(ALIASES, DEFAULT_ALIASES)))
    if not aliases:
        raise ConfigError(f"{ALIASES} names no alias", expected=f"patterns of aliases, such as {DEFAULT_ALIASES}")
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
    stated = {each.name: getattr(conditions, each.name) for each in fields(conditions)}
    return {
        variable(name): str(value.resolve() if isinstance(value, Path) else value).strip()
        for name, value in stated.items()
        if value != getattr(Conditions(), name)
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


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _required(environment: Mapping[str, str], name: str, example: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise ConfigError(
            f"{name} is not set",
            expected=f"{name}={example} or the like",
            do="set it: without it the guard does not start",
        )
    return value


def run_guarded_server(
    options: Sequence[str],
    *,
    roots: Path,
    policies: Sequence[str],
    aliases: Sequence[str],
    conditions: Conditions = Conditions(),  # noqa: B008  (frozen)
) -> int:
    """Run the server until it ends or is interrupted; its exit code. Raises ConfigError before anything is started."""
    if any(option.split("=")[0] == "--app-name" for option in options):
        raise ConfigError(
            "the server's options name --app-name", expected="no app but the guard", do="leave --app-name out"
        )
    settings = {ROOTS: str(roots.resolve()), POLICIES: ",".join(policies)}
    if aliases:
        settings[ALIASES] = ",".join(aliases)
    settings |= variables(conditions)
    environment = os.environ | settings
    settings_from(environment)
    _require_start(environment | _workspaces(options))
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", APP, *options]
    # The command is this interpreter with the user's own options, and no shell reads it.
    with subprocess.Popen(command, env=environment) as server:  # noqa: S603
        try:
            return PASS if server.wait() == PASS else INTERNAL_ERROR
        except KeyboardInterrupt:
            server.send_signal(signal.SIGTERM)
            server.wait(_GRACE)
            return INTERRUPTED


def _require_start(environment: Mapping[str, str]) -> None:
    """What keeps a worker from starting is found out here: MLflow would start one after the other, without end."""
    served = {**environment, "_MLFLOW_SGI_NAME": "uvicorn"}
    tried = subprocess.run([sys.executable, "-c", _START], env=served, capture_output=True, text=True, check=False)  # noqa: S603
    if tried.returncode != PASS:
        said = tried.stderr.strip().rpartition("\n")[2]
        raise ConfigError(said or f"the guard cannot start: exit code {tried.returncode}")


def _workspaces(options: Sequence[str]) -> dict[str, str]:
    """What MLflow makes of its own options, the last of which counts, before a worker reads it."""
    chosen = [_WORKSPACES[option] for option in options if option in _WORKSPACES]
    return {"MLFLOW_ENABLE_WORKSPACES": chosen[-1]} if chosen else {}
