"""`invmm-gate registry guard`: the settings checked, then `mlflow server` with the guard as its app."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from invmm_gate.errors import INTERNAL_ERROR, INTERRUPTED, PASS, ConfigError
from invmm_gate.registry.conditions import Conditions
from invmm_gate.registry.guard_settings import (
    ALIASES,
    MAX_AGE,
    MIN_PROBES,
    POLICIES,
    PROBE_SET,
    REFUSE_WAIVERS,
    REVIEWERS,
    REVOKED,
    ROOTS,
    settings_from,
)

APP: Final = "invmm-gate"
_GRACE: Final = 30


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
        raise ConfigError("--app-name among the server's options", expected="none: the guard is the app")
    settings = {ROOTS: str(roots.resolve()), POLICIES: ",".join(policies)}
    if aliases:
        settings[ALIASES] = ",".join(aliases)
    settings |= _variables(conditions)
    environment = os.environ | settings
    settings_from(environment)
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", APP, *options]
    # The command is this interpreter with the user's own options, and no shell reads it.
    with subprocess.Popen(command, env=environment) as server:  # noqa: S603
        try:
            return PASS if server.wait() == PASS else INTERNAL_ERROR
        except KeyboardInterrupt:
            server.send_signal(signal.SIGTERM)
            server.wait(_GRACE)
            return INTERRUPTED


def _variables(conditions: Conditions) -> dict[str, str]:
    """Those that were chosen: the others may be set in the environment already."""
    chosen = {
        REVOKED: conditions.revoked and conditions.revoked.resolve(),
        MAX_AGE: conditions.max_age,
        REVIEWERS: conditions.reviewers and conditions.reviewers.resolve(),
        REFUSE_WAIVERS: "true" if conditions.refuse_waivers else None,
        MIN_PROBES: conditions.min_probes if conditions.min_probes > 1 else None,
        PROBE_SET: conditions.probe_set_digest,
    }
    return {name: str(value) for name, value in chosen.items() if value is not None}
