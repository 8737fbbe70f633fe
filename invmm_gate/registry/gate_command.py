"""The command line of `invmm-gate registry gate` that a worker starts, from the choices that `serve` was given."""

import sys

from invmm_gate.registry.choices import GateChoices


def gate_command(choices: GateChoices, tracking_uri: str) -> tuple[str, ...]:
    """The command without name and version. The webhook secret is no part of it, and of the key only its path."""
    values = {
        "--tracking-uri": tracking_uri,
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
    }
    given = [f"{option}={value}" for option, value in values.items() if value is not None]
    switches = ("--refuse-waivers",) if choices.conditions.refuse_waivers else ()
    return (sys.executable, "-m", "invmm_gate", "registry", "gate", *given, *switches, "--quiet")
