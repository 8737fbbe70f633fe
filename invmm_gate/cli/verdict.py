"""`invmm-gate verdict`: the verdict of a judged run as an exit code. Never imports torch."""

import datetime
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def verdict(
    run: Annotated[Path, typer.Argument(help="Run folder that was judged.")],
    *,
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint that is about to be released: refuse the verdict on any other.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Name or file: refuse a verdict under any other. Who can write RUN can judge it anew."),
    ] = None,
    reviewers: Annotated[
        Path | None,
        typer.Option(envvar="INVMM_GATE_REVIEWERS", help="Keys: refuse a verdict whose waivers others approved."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON, in all its fields.")] = False,
) -> int:
    """Print the verdict of a judged run and end with its exit code, the last stage of a pipeline.

    The records are judged again first: a verdict that they do not give is refused.
    """
    from invmm_gate.cli.show import as_json, show_verdict, summary
    from invmm_gate.stages.read_verdict import standing_verdict

    today = datetime.datetime.now(datetime.UTC).date()
    found = standing_verdict(run, today=today, model=model, policy=policy, reviewers=reviewers)
    if json:
        as_json(summary(run, found) | {"verdict": asdict(found)})
    else:
        show_verdict(found, folder=str(run))
    return found.exit_code
