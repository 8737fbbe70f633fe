"""`invmm-gate register` and `registry`: the gate at the model registry. Never imports torch or MLflow needlessly."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from invmm_gate.cli.options import Json, Quiet, with_options
from invmm_gate.core.options import (
    Checkpoint,
    Conditions,
    GateChoices,
    Listening,
    SecretFile,
    Server,
    ServerOrFile,
    ServiceChoices,
)

if TYPE_CHECKING:
    from invmm_gate.registry.promote.gate_version import Registered

app = typer.Typer(help="The gate at the model registry.", no_args_is_help=True, rich_markup_mode=None)

REGISTER_EXAMPLE: Final = "Example: invmm-gate register --model runs/ckpt --name birds --policy strict --key gate.key"


@with_options
def register(
    *,
    model: Checkpoint,
    name: Annotated[str, typer.Option(help="Registered model that gets a new version.")],
    choices: GateChoices,
    tracking_uri: ServerOrFile = None,
    state: Annotated[Path, typer.Option(help="Folder of run folders and outbox.")] = Path(".invmm-gate"),
    gate: Annotated[bool, typer.Option(help="Gate the version now, or leave it to `registry serve`.")] = True,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Register a checkpoint as a version that waits, gate it, and promote a signed copy of it if it passes."""
    from invmm_gate.cli.show import TerminalProgress, as_json, printable
    from invmm_gate.registry.client.client import Registry
    from invmm_gate.registry.promote.gate_version import create_version
    from invmm_gate.registry.promote.gate_version import register as run_register

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


@app.command(
    epilog="Example: invmm-gate registry serve --tracking-uri http://mlflow:5000 --policy strict --key gate.key"
)
@with_options
def serve(*, service: ServiceChoices, choices: GateChoices, listening: Listening) -> int:
    """Receive webhooks, look for versions without a verdict, and gate them, until stopped by SIGTERM or Ctrl-C."""
    from invmm_gate.registry.service.serve import door_for, log_to_stderr
    from invmm_gate.registry.service.serve import serve as run_serve

    door = door_for(replace(choices, runs=service.state / "runs"), service)
    log_to_stderr()
    return run_serve(door, listening)


@app.command(
    epilog="Example: invmm-gate registry sync --tracking-uri http://mlflow:5000 --policy strict --key gate.key"
)
@with_options
def sync(
    *,
    service: ServiceChoices,
    choices: GateChoices,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Gate again what failed, was bad input or stayed inconclusive.")
    ] = False,
    gate: Annotated[bool, typer.Option(help="Gate what is found, or only list it.")] = True,
    json: Json = False,
) -> int:
    """Find versions without a verdict and gate them, once: for cron, with or without webhooks.

    Exits with 11 if a version has no verdict or a protected alias is not vouched for; a block is a verdict.
    """
    from invmm_gate.cli.show import as_json, printable
    from invmm_gate.registry.service.serve import door_for, log_to_stderr
    from invmm_gate.registry.service.serve import sync as run_sync

    door = door_for(replace(choices, runs=service.state / "runs"), service)
    log_to_stderr()
    done = run_sync(door, again=retry_failed, gate=gate)
    if json:
        as_json(done.summary())
    else:
        typer.echo(printable(str(done)))
    return done.exit_code


@app.command(
    epilog="Example: invmm-gate registry doctor --tracking-uri http://mlflow:5000 --receiver-url https://gate/hook"
)
@with_options
def doctor(
    *,
    tracking_uri: Server,
    receiver_url: Annotated[str | None, typer.Option(help="URL that the server should deliver to.")] = None,
    create_webhook: Annotated[
        bool, typer.Option("--create-webhook", help="Create the webhook to --receiver-url if there is none.")
    ] = False,
    secret_file: SecretFile = None,
) -> int:
    """Look for the settings that lose webhooks, and try deliveries. Exits with 11 if a check failed."""
    from invmm_gate.cli.show import printable
    from invmm_gate.core.errors import ConfigError
    from invmm_gate.registry.client.webhooks import read_secrets
    from invmm_gate.registry.service.doctor import diagnose, exit_code

    if create_webhook and receiver_url is None:
        raise ConfigError("--create-webhook without a URL", expected="--receiver-url beside it")
    checks = []
    for check in diagnose(
        tracking_uri, receiver=receiver_url, create_for=read_secrets(secret_file) if create_webhook else None
    ):
        typer.echo(printable(str(check)))
        checks.append(check)
    return exit_code(checks)


@app.command(epilog="Example: invmm-gate registry gate birds 3 --policy strict --key gate.key")
@with_options
def gate(
    name: Annotated[str, typer.Argument(help="Registered model.")],
    version: Annotated[str, typer.Argument(help="Its version, a number.")],
    *,
    choices: GateChoices,
    tracking_uri: ServerOrFile = None,
    runs: Annotated[Path, typer.Option(help="Folder of the run folders.")] = Path(".invmm-gate/runs"),
    outcome: Annotated[Path | None, typer.Option(help="File for the outcome, for `serve` and `sync`.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Gate a version that is registered already; one whose verdict still holds is not measured again."""
    from invmm_gate.cli.show import TerminalProgress
    from invmm_gate.registry.client.client import Registry
    from invmm_gate.registry.promote.gate_version import gate_version
    from invmm_gate.registry.service.gate_process import telling

    choices = replace(choices, runs=runs)
    with TerminalProgress(quiet=quiet or json) as progress:
        done = telling(
            lambda: gate_version(Registry(tracking_uri), name, version, choices=choices, progress=progress), outcome
        )
    return _ended(done, json=json)


@app.command(
    epilog="Example: invmm-gate registry guard --roots gate.pub --policy strict -- "
    "--backend-store-uri sqlite:///mlflow.db"
)
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
    from invmm_gate.registry.guard.guard_settings import run_guarded_server

    return run_guarded_server(options or [], roots=roots, policies=policy, aliases=alias or (), conditions=conditions)


def _ended(done: "Registered", *, json: bool) -> int:
    from invmm_gate.cli.show import as_json, printable

    released = done.released.label if done.released else ""
    if json:
        told = ("name", "version", "decision", "exit_code", "model_digest", "run")
        as_json(
            {field: getattr(done, field) for field in told}
            | {
                "released": released,
                "delivered": done.delivered,
                "not_promoted": done.blocked,
                "remark": done.remark,
            }
        )
        return done.exit_code
    typer.echo(printable(f"{done.decision.upper()}  {done.name}/{done.version}"))
    lines = (f"report: {done.run}/report.html" if done.run else "", released and f"released: {released}", done.remark)
    for line in filter(None, lines):
        typer.echo(printable(f"  {line}"))
    if done.blocked:
        typer.echo(printable(f"  not promoted: {done.blocked}"), err=True)
    if not done.delivered:
        typer.echo("  the verdict waits in the outbox: `invmm-gate registry sync` sends it", err=True)
    return done.exit_code
