"""The commands that run the gate. Heavy packages are imported by the stages, not here."""

import datetime
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from invmm_gate.cli.gate_choices import Details
from invmm_gate.cli.verdict import verdict
from invmm_gate.cli.version import version
from invmm_gate.core.records import Weights

app = typer.Typer(
    name="invmm-gate",
    help="Release gate for diffusion models: blocks a checkpoint that can be made to reproduce its training images.\n\n"
    "Exit codes: 0 pass, 10 block, 11 inconclusive, 2 bad input, 1 internal error, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[Path, typer.Option(help="Checkpoint: a folder that diffusers saved, or a .safetensors file.")]
AnyModel = Annotated[
    str, typer.Option(help="Checkpoint: a path, models:/NAME/VERSION, models:/NAME@ALIAS, runs:/ID/PATH.")
]
PolicyOption = Annotated[str, typer.Option(help="strict, standard, permissive, or a policy file.")]
Probes = Annotated[Path, typer.Option(help="Folder of the probe set.")]
Out = Annotated[Path | None, typer.Option(help="Run folder. Default: reports/<model>-<run id>.")]
Seed = Annotated[
    int | None, typer.Option(help="Seed of all random streams. Default: what model, probe set and policy give.", min=0)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Rows = Annotated[int | None, typer.Option(help="Rows in one network call; fewer need less memory.", min=1)]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights; the report shows it.")]
WeightsOption = Annotated[
    Weights | None, typer.Option(help="Which weights are released, where the folder holds raw and EMA weights.")
]
Lora = Annotated[list[Path] | None, typer.Option(help="LoRA weights released on top of the model; may be repeated.")]
Sscd = Annotated[Path | None, typer.Option(help="SSCD's TorchScript file. Default: $INVMM_GATE_SSCD.")]
Environment = Annotated[str | None, typer.Option(help="Approved environment. Default: $INVMM_GATE_ENVIRONMENT.")]
Waivers = Annotated[Path | None, typer.Option(help="waivers.yaml: owned, expiring exceptions.")]
Reviewers = Annotated[
    Path | None,
    typer.Option(envvar="INVMM_GATE_REVIEWERS", help="Keys that may approve waivers: a .pub file, or roots.yaml."),
]
Baseline = Annotated[Path | None, typer.Option(help="Approved run, or what `bless` wrote, for rule `regression`.")]
Reveal = Annotated[bool, typer.Option("--reveal", help="Show probe images and copies in the report.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow server. Default: ./mlflow.db.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Replace = Annotated[bool, typer.Option("--replace", help="Where the folder holds records of other inputs, begin anew.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Run = Annotated[Path, typer.Argument(help="Run folder that `check` or `measure` wrote.")]


@app.command(epilog="Example: invmm-gate check --model runs/ckpt --policy strict")
def check(
    *,
    model: AnyModel,
    policy: PolicyOption,
    probes: Probes = Path("probes"),
    out: Out = None,
    seed: Seed = None,
    device: Device = "auto",
    rows: Rows = None,
    allow_pickle: AllowPickle = False,
    weights: WeightsOption = None,
    lora: Lora = None,
    sscd: Sscd = None,
    environment: Environment = None,
    waivers: Waivers = None,
    reviewers: Reviewers = None,
    baseline: Baseline = None,
    reveal: Reveal = False,
    tracking_uri: TrackingUri = None,
    track: Annotated[bool, typer.Option(help="Log the run to MLflow.")] = True,
    details: Details = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Measure, confirm, judge and report: pass or block a checkpoint. The same command goes on where it stopped."""
    from invmm_gate.cli.show import TerminalProgress, as_json, show_verdict, summary
    from invmm_gate.registry.client.source import local_checkpoint
    from invmm_gate.runs.installed import require_environment
    from invmm_gate.stages.check import Finish
    from invmm_gate.stages.check import check as run_check
    from invmm_gate.stages.preflight import Options

    require_environment(environment)  # before a model is downloaded from the registry
    options = Options(
        model=Path(model),
        policy=policy,
        probes=probes,
        out=out,
        seed=seed,
        device=device,
        rows=rows,
        allow_pickle=allow_pickle,
        weights=weights,
        loras=tuple(lora or ()),
        sscd=sscd,
        environment=environment,
        command=_command(),
    )
    finish = Finish(
        waivers=waivers,
        reviewers=reviewers,
        baseline=baseline,
        reveal=reveal,
        track=track,
        tracking_uri=tracking_uri,
        details=details,
    )
    with local_checkpoint(model, tracking_uri) as path, TerminalProgress(quiet=quiet or json) as progress:
        result = run_check(replace(options, model=path), finish, progress, today=_today())
    if json:
        as_json(summary(result.folder, result.verdict) | {"published": result.published})
    else:
        show_verdict(result.verdict, folder=str(result.folder), published=result.published)
    return result.verdict.exit_code


@app.command(epilog="Example: invmm-gate measure --model runs/ckpt --probes probes --out reports/first")
def measure(
    *,
    model: Model,
    probes: Probes = Path("probes"),
    out: Out = None,
    policy: PolicyOption = "strict",
    seed: Seed = None,
    device: Device = "auto",
    rows: Rows = None,
    allow_pickle: AllowPickle = False,
    weights: WeightsOption = None,
    lora: Lora = None,
    sscd: Sscd = None,
    environment: Environment = None,
    replace: Replace = False,
    quiet: Quiet = False,
) -> int:
    """Measure every probe under a policy's settings, without a verdict."""
    from invmm_gate.cli.show import TerminalProgress
    from invmm_gate.stages.check import measure as run_measure
    from invmm_gate.stages.preflight import Options

    options = Options(
        model=model,
        policy=policy,
        probes=probes,
        out=out,
        seed=seed,
        device=device,
        rows=rows,
        allow_pickle=allow_pickle,
        weights=weights,
        loras=tuple(lora or ()),
        sscd=sscd,
        environment=environment,
        command=_command(),
    )
    with TerminalProgress(quiet=quiet) as progress:
        folder = run_measure(options, progress, replacing=replace)
    typer.echo(f"measured: {folder}; next: invmm-gate confirm {folder}")
    return 0


@app.command(epilog="Example: invmm-gate confirm reports/first")
def confirm(
    run: Run,
    *,
    policy: Annotated[str | None, typer.Option(help="Default: the policy that the run was measured under.")] = None,
    sscd: Sscd = None,
    baseline: Baseline = None,
    replace: Replace = False,
    quiet: Quiet = False,
) -> int:
    """Look for inputs that a user could give and that reproduce a probe, in a run that was measured."""
    from invmm_gate.cli.show import TerminalProgress
    from invmm_gate.stages.check import confirm as run_confirm

    with TerminalProgress(quiet=quiet) as progress:
        run_confirm(run, progress, today=_today(), policy=policy, sscd=sscd, baseline=baseline, replacing=replace)
    typer.echo(f"confirmed: {run}; next: invmm-gate judge {run} --policy POLICY")
    return 0


@app.command(epilog="Example: invmm-gate judge reports/first --policy strict")
def judge(
    run: Run,
    *,
    policy: PolicyOption,
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
    from invmm_gate.cli.show import as_json, show_verdict, summary
    from invmm_gate.policy.schema import load_policy
    from invmm_gate.runs.folder import RunFolder
    from invmm_gate.runs.installed import require_environment
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
    if json:
        as_json(summary(run, verdict))
    else:
        show_verdict(verdict, folder=str(run) if render else "")
    return 0 if exit_zero else verdict.exit_code


app.command(epilog="Example: invmm-gate verdict reports/first")(verdict)


@app.command(epilog="Example: invmm-gate report reports/first --reveal")
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
def publish(run: Run, *, tracking_uri: TrackingUri = None, details: Details = False) -> int:
    """Log a finished run to MLflow, also one that could not be sent before: the public edition, without --details."""
    from invmm_gate.runs.folder import RunFolder
    from invmm_gate.stages.publish import publish_run

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
