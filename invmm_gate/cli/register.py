"""`invmm-gate register`, `registry gate` and `registry guard`. Never imports torch or MLflow before it is needed."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from invmm_gate.cli.options import Json, Quiet, with_options
from invmm_gate.core.options import Conditions, GateChoices

if TYPE_CHECKING:
    from invmm_gate.registry.promote.register import Registered

REGISTER_EXAMPLE: Final = "Example: invmm-gate register --model runs/ckpt --name birds --policy strict --key gate.key"
GATE_EXAMPLE: Final = "Example: invmm-gate registry gate birds 3 --policy strict --key gate.key"
GUARD_EXAMPLE: Final = (
    "Example: invmm-gate registry guard --roots gate.pub --policy strict -- --backend-store-uri sqlite:///mlflow.db"
)

TrackingUri = Annotated[
    str | None, typer.Option(envvar="INVMM_GATE_TRACKING_URI", help="MLflow server. Default: ./mlflow.db.")
]


@with_options
def register(
    *,
    model: Annotated[Path, typer.Option(help="Checkpoint: a folder that diffusers saved, or a .safetensors file.")],
    name: Annotated[str, typer.Option(help="Registered model that gets a new version.")],
    choices: GateChoices,
    tracking_uri: TrackingUri = None,
    state: Annotated[Path, typer.Option(help="Folder of run folders and outbox.")] = Path(".invmm-gate"),
    gate: Annotated[bool, typer.Option(help="Gate the version now, or leave it to `registry serve`.")] = True,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Register a checkpoint as a version that waits, gate it, and promote a signed copy of it if it passes."""
    from invmm_gate.cli.show import TerminalProgress, as_json, printable
    from invmm_gate.registry.client.client import Registry
    from invmm_gate.registry.promote.register import create_version
    from invmm_gate.registry.promote.register import register as run_register

    choices = replace(choices, runs=state / "runs")
    registry = Registry(tracking_uri)
    with TerminalProgress(quiet=quiet or json) as progress:
        if gate:
            return _ended(run_register(model, name, registry, choices=choices, progress=progress), json=json)
        record = create_version(model, name, registry, choices=choices, progress=progress)
    if json:
        as_json({"name": record.name, "version": record.version, "decision": "pending"})
    else:
        typer.echo(printable(f"registered: {record.label}, pending"))
    return 0


@with_options
def gate(
    name: Annotated[str, typer.Argument(help="Registered model.")],
    version: Annotated[str, typer.Argument(help="Its version, a number.")],
    *,
    choices: GateChoices,
    tracking_uri: TrackingUri = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path(".invmm-gate/runs"),
    outcome: Annotated[Path | None, typer.Option(help="File for the outcome, for `serve` and `sync`.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Gate a version that is registered already; one whose verdict still holds is not measured again."""
    from invmm_gate.cli.show import TerminalProgress
    from invmm_gate.registry.client.client import Registry
    from invmm_gate.registry.promote.outcome import telling
    from invmm_gate.registry.promote.register import gate_version

    choices = replace(choices, runs=runs)
    with TerminalProgress(quiet=quiet or json) as progress:
        done = telling(
            lambda: gate_version(Registry(tracking_uri), name, version, choices=choices, progress=progress), outcome
        )
    return _ended(done, json=json)


@with_options
def guard(
    options: Annotated[list[str] | None, typer.Argument(help="Options of `mlflow server`, behind --.")] = None,
    *,
    roots: Annotated[
        Path, typer.Option(envvar="INVMM_GATE_GUARD_ROOTS", help="Keys to trust: a .pub file, or roots.yaml.")
    ],
    policy: Annotated[list[str], typer.Option(help="Accepted policy; may be repeated.")],
    alias: Annotated[
        list[str] | None,
        typer.Option(help="Protected alias, or MODEL@ALIAS; * stands for anything. May be repeated."),
    ] = None,
    conditions: Conditions,
) -> int:
    """Start an MLflow server that refuses protected aliases and verdict tags without a verified attestation.

    Protected by default: champion, approved-*, production, and all aliases of release models. Everything behind -- is
    handed to `mlflow server`.
    """
    from invmm_gate.registry.guard.command import run_guarded_server

    return run_guarded_server(options or [], roots=roots, policies=policy, aliases=alias or (), conditions=conditions)


def _ended(done: "Registered", *, json: bool) -> int:
    from invmm_gate.cli.show import as_json, printable

    released = f"{done.released.name}/{done.released.version}" if done.released else ""
    if json:
        as_json(
            {
                "name": done.name,
                "version": done.version,
                "decision": done.decision,
                "exit_code": done.exit_code,
                "model_digest": done.model_digest,
                "run": done.run,
                "released": released,
                "delivered": done.delivered,
                "not_promoted": done.blocked,
                "remark": done.remark,
            }
        )
        return done.exit_code
    typer.echo(printable(f"{done.decision.upper()}  {done.name}/{done.version}"))
    if done.run:
        typer.echo(printable(f"  report: {done.run}/report.html"))
    if released:
        typer.echo(printable(f"  released: {released}"))
    if done.remark:
        typer.echo(printable(f"  {done.remark}"))
    if done.blocked:
        typer.echo(printable(f"  not promoted: {done.blocked}"), err=True)
    if not done.delivered:
        typer.echo("  the verdict waits in the outbox: `invmm-gate registry sync` sends it", err=True)
    return done.exit_code
