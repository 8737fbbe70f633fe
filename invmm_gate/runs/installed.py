"""Which gate is installed, and with what: what a run's records are bound to, and what a pipeline waits for."""

import os
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.version import __version__
from invmm_gate.runs.distributions import Installed, changed_files, installed_distributions

APPROVED: Final = "INVMM_GATE_ENVIRONMENT"
"""The environment variable with the digest of the approved environment."""
_MOST_NAMED: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The gate and the distributions that decide a score or a verdict."""

    digest: str
    """sha256 over sorted lines `name NUL version NUL record LF`; the gate's line has `code` in place of a record."""
    code: str
    """sha256 over the package's own source: records of other code do not mix, whatever its version says."""
    distributions: tuple[Installed, ...]


@cache
def installed_environment() -> Environment:
    """The environment of this process.

    Raises ConfigError if another package would be imported than one whose RECORD is a part of the digest.
    """
    code, found = _code_digest(), installed_distributions()
    _refuse_shadowed(found)
    lines = [("invmm-gate", __version__, code), *((item.name, item.version, item.record) for item in found)]
    digest = sha256("".join("\0".join(line) + "\n" for line in sorted(lines)).encode()).hexdigest()
    return Environment(digest=digest, code=code, distributions=found)


def installed_gate() -> dict[str, object]:
    """The environment as inputs of a run, each distribution with its version and the digest of its RECORD."""
    environment = installed_environment()
    return {
        "code": environment.code,
        "environment": environment.digest,
        "versions": {"invmm-gate": __version__} | {item.name: item.version for item in environment.distributions},
        "distributions": {item.name: item.record for item in environment.distributions},
    }


def require_environment(approved: str | None = None) -> None:
    """Raise ConfigError unless this environment is the approved one, by default that of INVMM_GATE_ENVIRONMENT.

    Where neither names one, any in which no package shadows an installed one will do; an empty name is none that was
    approved.
    """
    approved, here = approved_environment() if approved is None else approved, installed_environment().digest
    if approved is not None and approved != here:
        raise ConfigError(
            f"the installed environment is {here}",
            expected=f"the approved one, {approved!a} (--environment or ${APPROVED})",
            do="`invmm-gate environment` shows what is installed",
        )


def require_measured_in(environment: object) -> None:
    """Raise ConfigError unless a run was measured in the environment that INVMM_GATE_ENVIRONMENT names, if it does."""
    approved = approved_environment()
    if approved is not None and environment != approved:
        raise ConfigError(
            f"the run was measured in the environment {environment!s}",
            expected=f"the approved one, {approved!a} (${APPROVED})",
            do="measure the model again where that is installed",
        )


def approved_environment() -> str | None:
    """What INVMM_GATE_ENVIRONMENT says; None where it is not set."""
    return os.environ.get(APPROVED)


def require_unchanged_files() -> None:
    """Raise ConfigError if a file is not as the RECORD of its distribution says. Takes seconds: it reads them all."""
    if changed := changed_files():
        more = f" and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
        raise ConfigError(
            f"not as its RECORD says: {', '.join(changed[:_MOST_NAMED])}{more}",
            expected="the files that were installed",
            do="install these packages again",
        )


def _refuse_shadowed(found: tuple[Installed, ...]) -> None:
    for item in found:
        if item.shadowed_by:
            raise ConfigError(
                f"{item.name} would be imported from {item.shadowed_by}",
                expected=f"the installed {item.name} {item.version}, whose RECORD the environment's digest stands for",
                do="take what comes before it out of PYTHONPATH, or install that package with pip",
            )


def _code_digest() -> str:
    digest = sha256()
    for entry in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(entry.read_bytes())
    return digest.hexdigest()
