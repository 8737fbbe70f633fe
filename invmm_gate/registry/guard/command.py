"""`invmm-gate registry guard`: the settings checked, then `mlflow server` with the guard as its app."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import INTERNAL_ERROR, INTERRUPTED, PASS, ConfigError
from invmm_gate.core.options import Conditions
from invmm_gate.registry.guard.settings import ALIASES, POLICIES, ROOTS, settings_from, variables

APP: Final = "invmm-gate"
_GRACE: Final = 30
_WORKSPACES: Final = {"--enable-workspaces": "true", "--disable-workspaces": "false"}
_START: Final = "from invmm_gate.registry.guard.app import create_app; create_app()"


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
