"""`invmm-gate registry`: the gate at the model registry. Never imports torch or MLflow before it is needed."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from invmm_gate.cli.options import Json, with_options
from invmm_gate.core.options import GateChoices

app = typer.Typer(help="The gate at the model registry.", no_args_is_help=True, rich_markup_mode=None)

TrackingUri = Annotated[str, typer.Option(envvar="INVMM_GATE_TRACKING_URI", help="MLflow server.")]
State = Annotated[Path, typer.Option(help="Folder of ledger, logs and run folders, on a local disk.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="Model to watch; may be repeated. Default: all.")]
Protect = Annotated[list[str] | None, typer.Option(help="Protected alias beside --alias; may be repeated.")]
Enforce = Annotated[bool, typer.Option("--enforce", help="Remove protected aliases that no pass vouches for.")]
Retries = Annotated[int, typer.Option(help="Fresh starts of a gate that ended without a verdict.", min=0)]
SecretFile = Annotated[
    Path | None,
    typer.Option(help="Webhook secrets, one a line, mode 0600. Default: $INVMM_GATE_WEBHOOK_SECRET."),
]


@app.command(
    epilog="Example: invmm-gate registry serve --tracking-uri http://mlflow:5000 --policy strict --key gate.key"
)
@with_options
def serve(
    *,
    tracking_uri: TrackingUri,
    choices: GateChoices,
    state: State = Path(".invmm-gate"),
    model: Models = None,
    protect: Protect = None,
    enforce: Enforce = False,
    retries: Retries = 3,
    secret_file: SecretFile = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.", min=0, max=65535)] = 8765,
    path: Annotated[str, typer.Option(help="Path of the webhook.")] = "/hook",
    every: Annotated[float, typer.Option(help="Seconds between looks for versions without a verdict.", min=1)] = 60.0,
    workers: Annotated[int, typer.Option(help="Gates that may run side by side.", min=1, max=64)] = 1,
) -> int:
    """Receive webhooks, look for versions without a verdict, and gate them, until stopped by SIGTERM or Ctrl-C."""
    from invmm_gate.registry.client.names import Watched
    from invmm_gate.registry.client.webhook_signature import read_secrets
    from invmm_gate.registry.service.logs import log_to_stderr
    from invmm_gate.registry.service.serve import Listening, door_for
    from invmm_gate.registry.service.serve import serve as run_serve

    choices = replace(choices, runs=state / "runs")
    door = door_for(
        choices,
        tracking_uri=tracking_uri,
        state=state,
        watched=Watched(names=tuple(model or ()), release=choices.release_name),
        protected=protect or (),
        enforce=enforce,
        retries=retries,
    )
    listening = Listening(
        secrets=read_secrets(secret_file), host=host, port=port, path=path, every=every, workers=workers
    )
    log_to_stderr()
    return run_serve(door, listening)


@app.command(
    epilog="Example: invmm-gate registry sync --tracking-uri http://mlflow:5000 --policy strict --key gate.key"
)
@with_options
def sync(
    *,
    tracking_uri: TrackingUri,
    choices: GateChoices,
    state: State = Path(".invmm-gate"),
    model: Models = None,
    protect: Protect = None,
    enforce: Enforce = False,
    retries: Retries = 3,
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
    from invmm_gate.registry.client.names import Watched
    from invmm_gate.registry.service.logs import log_to_stderr
    from invmm_gate.registry.service.serve import door_for
    from invmm_gate.registry.service.sync import sync as run_sync

    choices = replace(choices, runs=state / "runs")
    door = door_for(
        choices,
        tracking_uri=tracking_uri,
        state=state,
        watched=Watched(names=tuple(model or ()), release=choices.release_name),
        protected=protect or (),
        enforce=enforce,
        retries=retries,
    )
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
def doctor(
    *,
    tracking_uri: TrackingUri,
    receiver_url: Annotated[str | None, typer.Option(help="URL that the server should deliver to.")] = None,
    create_webhook: Annotated[
        bool, typer.Option("--create-webhook", help="Create the webhook to --receiver-url if there is none.")
    ] = False,
    secret_file: SecretFile = None,
) -> int:
    """Look for the settings that lose webhooks, and try deliveries. Exits with 11 if a check failed."""
    from invmm_gate.cli.show import printable
    from invmm_gate.core.errors import ConfigError
    from invmm_gate.registry.client.webhook_signature import read_secrets
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
