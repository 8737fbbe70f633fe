"""The command line of `invmm-gate registry gate` that a worker starts, from the choices that `serve` was given."""

import sys
from typing import Final

from invmm_gate.core.options import GateChoices, arguments

TRACKING_URI: Final = "INVMM_GATE_TRACKING_URI"


def gate_command(choices: GateChoices) -> tuple[str, ...]:
    """The command without name and version.

    Anybody on the machine can read it: the webhook secret is no part of it, of the key only its path, and the tracking
    URI, which may hold a password, is in the environment (TRACKING_URI).
    """
    given = (*arguments(choices), f"--runs={choices.runs}")
    return (sys.executable, "-m", "invmm_gate", "registry", "gate", *given, "--quiet")
