"""The command line of `invmm-gate registry gate` that a worker starts, from the choices that `serve` was given."""

import sys
from typing import Final

from invmm_gate.registry.promote.choices import GateChoices

TRACKING_URI: Final = "INVMM_GATE_TRACKING_URI"


def gate_command(choices: GateChoices) -> tuple[str, ...]:
    """The command without name and version.

    Anybody on the machine can read it: the webhook secret is no part of it, of the key only its path, and the tracking
    URI, which may hold a password, is in the environment (TRACKING_URI).
    """
    values = {
        "--policy": choices.policy,
        "--probes": choices.probes,
        "--key": choices.key,
        "--roots": choices.roots,
        "--seed": choices.seed,
        "--device": choices.device,
        "--rows": choices.rows,
        "--sscd": choices.sscd,
        "--waivers": choices.waivers,
        "--baseline": choices.baseline,
        "--weights": choices.weights,
        "--alias": choices.alias,
        "--release-name": choices.release_name,
        "--runs": choices.runs,
        "--revoked": choices.conditions.revoked,
        "--max-age": choices.conditions.max_age,
        "--reviewers": choices.conditions.reviewers,
    }
    given = [f"{option}={value}" for option, value in values.items() if value is not None]
    asked = {"--refuse-waivers": choices.conditions.refuse_waivers, "--details": choices.details}
    switches = [switch for switch, on in asked.items() if on]
    return (sys.executable, "-m", "invmm_gate", "registry", "gate", *given, *switches, "--quiet")
