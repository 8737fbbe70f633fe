"""The commands that run the gate, and `verdict`. Heavy packages are imported by the stages, not here."""

import datetime
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from invmm_gate.cli.environment import version
from invmm_gate.cli.options import Json, Quiet, with_options
from invmm_gate.core.options import (
    Baseline,
    Details,
    Finish,
    Options,
    Policy,
    Reveal,
    Reviewers,
    Sscd,
    TrackingUri,
    Waivers,
)


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
    json: Json = False,
) -> int:
    """Print the verdict of a judged run and end with its exit code, the last stage of a pipeline.

    The records are judged again first: a verdict that they do not give is refused.
    """
    from invmm_gate.cli.show import as_json, records_of, show_verdict, summary
    from invmm_gate.stages.read_verdict import standing_verdict

    today = datetime.datetime.now(datetime.UTC).date()
    found = standing_verdict(run, today=today, model=model, policy=policy, reviewers=reviewers)
    data = records_of(run, found)
    if json:
        as_json(summary(run, found, data) | {"verdict": asdict(found)})
    else:
        show_verdict(found, data, folder=str(run))
    return found.exit_code


app = typer.Typer(
    name="invmm-gate",
    help="Release gate for diffusion models: blocks a checkpoint that can be made to reproduce its training images.\n\n"
    "Exit codes: 0 pass, 10 block, 11 inconclusive, 2 bad input, 1 internal error, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AnyModel = Annotated[
    str, typer.Option(help="Checkpoint: a path, models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID/PATH.")
]
Replace = Annotated[bool, typer.Option("--replace", help="Where the folder holds records of other inputs, begin anew.")]
Run = Annotated[Path, typer.Argument(help="Run folder that `check` or `measure` wrote.")]


@app.command(epilog="Example: invmm-gate check --model runs/ckpt --policy strict")
@with_options
def check(*, model: AnyModel, options: Options, finish: Finish, json: Json = False, quiet: Quiet = False) -> int:
    """Measure, confirm, judge and report: pass or block a checkpoint. The same command goes on where it stopped."""
    from invmm_gate.cli.show import TerminalProgress, as_json, records_of, show_verdict, summary
    from invmm_gate.registry.client.registry_uri import local_checkpoint
    from invmm_gate.runs.identity import require_environment
    from invmm_gate.stages.check import check as run_check

    require_environment(options.environment)  # before a model is downloaded from the registry
    with local_checkpoint(model, finish.tracking_uri) as path, TerminalProgress(quiet=quiet or json) as progress:
        result = run_check(replace(options, model=path, command=_command()), finish, progress, today=_today())
    data = records_of(result.folder, result.verdict)
    if json:
        as_json(summary(result.folder, result.verdict, data) | {"published": result.published})
    else:
        show_verdict(result.verdict, data, folder=str(result.folder), published=result.published)
    return result.verdict.exit_code


@app.command(epilog="Example: invmm-gate measure --model runs/ckpt --probes probes --out reports/first")
@with_options
def measure(*, options: Options, policy: Policy = "strict", anew: Replace = False, quiet: Quiet = False) -> int:
    """Measure every probe under a policy's settings, without a verdict."""
    from invmm_gate.cli.show import TerminalProgress
    from invmm_gate.stages.check import measure as run_measure

    options = replace(options, policy=policy, command=_command())
    with TerminalProgress(quiet=quiet) as progress:
        folder = run_measure(options, progress, replacing=anew)
    typer.echo(f"measured: {folder}; next: invmm-gate confirm {folder}")
    return 0


@app.command(epilog="Example: invmm-gate confirm reports/first")
@with_options
def confirm(
    run: Run,
    *,
    policy: Annotated[str | None, typer.Option(help="Default: the policy that the run was measured under.")] = None,
    sscd: Sscd = None,
    baseline: Baseline = None,
    anew: Replace = False,
    quiet: Quiet = False,
) -> int:
    """Look for inputs that a user could give and that reproduce a probe, in a run that was measured."""
    from invmm_gate.cli.show import TerminalProgress
    from invmm_gate.stages.check import confirm as run_confirm
    from invmm_gate.stages.judge import circumstances

    beside = circumstances(None, baseline, today=_today())
    with TerminalProgress(quiet=quiet) as progress:
        run_confirm(run, progress, policy=policy, sscd=sscd, beside=beside, replacing=anew)
    typer.echo(f"confirmed: {run}; next: invmm-gate judge {run} --policy POLICY")
    return 0


@app.command(epilog="Example: invmm-gate judge reports/first --policy strict")
@with_options
def judge(
    run: Run,
    *,
    policy: Policy,
    waivers: Waivers = None,
    reviewers: Reviewers = None,
    baseline: Baseline = None,
    render: Annotated[bool, typer.Option("--report/--no-report", help="Render the report too.")] = True,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="End with 0 whatever the verdict; `verdict` says it later.")
    ] = False,
    json: Json = False,
) -> int:
    """Hold a run's records against a policy. Needs no model and no torch."""
    from invmm_gate.cli.show import as_json, records_of, show_verdict, summary
    from invmm_gate.policy.schema import load_policy
    from invmm_gate.runs.folder import RunFolder
    from invmm_gate.runs.identity import require_environment
    from invmm_gate.stages.judge import circumstances, judge_run
    from invmm_gate.stages.report import REPORTS, write_reports

    require_environment()
    folder = RunFolder(run)
    today = _today()
    rules = load_policy(policy)
    beside = circumstances(waivers, baseline, today=today, reviewers=reviewers)
    with folder.existing_locked():
        verdict = judge_run(folder, rules, beside, today=today)
        if render:
            write_reports(folder, note=_note)
        else:
            folder.forget(*REPORTS)
    data = records_of(run, verdict)
    if json:
        as_json(summary(run, verdict, data))
    else:
        show_verdict(verdict, data, folder=str(run) if render else "")
    return 0 if exit_zero else verdict.exit_code


app.command(epilog="Example: invmm-gate verdict reports/first")(verdict)


@app.command(epilog="Example: invmm-gate report reports/first --reveal")
@with_options
def report(run: Run, *, reveal: Reveal = False) -> int:
    """Render the report again from the records. Needs no model and no torch."""
    from invmm_gate.runs.folder import RunFolder
    from invmm_gate.stages.report import write_reports

    folder = RunFolder(run)
    with folder.existing_locked():
        for path in write_reports(folder, reveal=reveal, note=_note):
            typer.echo(str(path))
    return 0


@app.command(epilog="Example: invmm-gate publish reports/first --tracking-uri http://127.0.0.1:5000")
@with_options
def publish(run: Run, *, tracking_uri: TrackingUri = None, details: Details = False) -> int:
    """Log a finished run to MLflow, also one that could not be sent before: the public edition, without --details."""
    from invmm_gate.runs.folder import RunFolder
    from invmm_gate.stages.report import publish_run

    folder = RunFolder(run)
    with folder.existing_locked():
        typer.echo(f"logged: {publish_run(folder, tracking_uri, details=details)}")
    return 0


app.command(epilog="Example: invmm-gate version")(version)


def _command() -> str:
    return " ".join(["invmm-gate", *sys.argv[1:]])


def _note(text: str) -> None:
    typer.echo(text, err=True)


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()
