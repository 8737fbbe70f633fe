"""`invmm-gate keys`, `waivers`, `audit-log`, `sign` and `verify`: verdicts that hold elsewhere. Never import torch."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from invmm_gate.cli.options import Json, with_options
from invmm_gate.core.errors import PASS
from invmm_gate.core.options import Baseline, Conditions, Released, Reviewers, Signing, Waivers

if TYPE_CHECKING:
    from invmm_gate.attest.statement import Statement

keys = typer.Typer(help="Keys that sign verdicts.", no_args_is_help=True, rich_markup_mode=None)
waivers_app = typer.Typer(help="Exceptions that a reviewer approves.", no_args_is_help=True, rich_markup_mode=None)
audit_log = typer.Typer(help="The log of signed verdicts.", no_args_is_help=True, rich_markup_mode=None)

SIGN_EXAMPLE = "Example: invmm-gate sign reports/first --key gate.key"
VERIFY_EXAMPLE = (
    "Example: invmm-gate verify --model runs/ckpt --attestation attestation.json --policy strict --roots gate.pub"
)

Roots = Annotated[
    Path, typer.Option(envvar="INVMM_GATE_ROOTS", help="Keys to trust: a .pub file, or roots.yaml with several.")
]


@keys.command(epilog="Example: invmm-gate keys new gate")
def new(name: Annotated[Path, typer.Argument(help="Makes NAME.key and NAME.pub.")]) -> int:
    """Make an ed25519 key pair. Keep NAME.key to yourself; NAME.pub is what `verify --roots` takes."""
    from invmm_gate.attest.keys import new_key_pair
    from invmm_gate.cli.show import printable

    pair = new_key_pair(name)
    typer.echo(printable(f"private key: {pair.private} (keep it secret)"))
    typer.echo(printable(f"public key: {pair.public}, id {pair.key_id}"))
    return PASS


@waivers_app.command(epilog="Example: invmm-gate waivers approve waivers.yaml --key reviewer.key")
def approve(
    waivers: Annotated[Path, typer.Argument(help="waivers.yaml, each entry for one probe of one model.")],
    *,
    key: Annotated[Path, typer.Option(help="The reviewer's private key, another one than the gate's.")],
) -> int:
    """Sign the waivers as their reviewer, in waivers.yaml.approval. A policy's findings are waived by these alone."""
    from invmm_gate.cli.show import printable
    from invmm_gate.stages.sign import approve_waivers

    path, number = approve_waivers(waivers, key=key, now=_now())
    typer.echo(printable(f"approved: {number} waivers, {path}"))
    return PASS


@audit_log.command("verify", epilog="Example: invmm-gate audit-log verify verdicts.jsonl --head 12:5f0c...")
def verify_audit_log(
    log: Annotated[Path, typer.Argument(help="The log that `sign --log`, or the registry's gate, wrote.")],
    *,
    head: Annotated[
        str | None, typer.Option(help="NUMBER:DIGEST that the log once had, as this command printed.")
    ] = None,
    json: Json = False,
) -> int:
    """Walk the log: no line changed, added in between or left out. Exit code 0, or 10 if it does not hold together."""
    from invmm_gate.cli.show import as_json, printable
    from invmm_gate.stages.audit_file import verify_log

    entries, last = verify_log(log, head=head)
    if json:
        as_json({"head": str(last), "entries": [entry.model_dump(mode="json") for entry in entries]})
        return PASS
    for entry in entries:
        counted = f"{entry.verdict:<16}  {entry.model}, attempt {entry.attempt}"
        typer.echo(printable(f"{entry.number:>6}  {entry.signed_at:%Y-%m-%d %H:%M}  {counted}"))
    typer.echo(printable(f"verified: {len(entries)} verdicts, head {last}"))
    return PASS


@with_options
def sign(
    run: Annotated[Path, typer.Argument(help="Run folder that was judged.")],
    *,
    signing: Signing,
    waivers: Waivers = None,
    reviewers: Reviewers = None,
    baseline: Baseline = None,
) -> int:
    """Sign a run's verdict, whatever it is, as attestation.json in its folder. Needs no model.

    The records are judged again first: a verdict that they do not give is not signed.
    """
    from invmm_gate.cli.show import printable
    from invmm_gate.stages.audit_file import entry_of
    from invmm_gate.stages.judge import circumstances
    from invmm_gate.stages.sign import report_is_attested, sign_run

    now = _now()
    beside = circumstances(waivers, baseline, today=now.date(), reviewers=reviewers)
    path = sign_run(run, signing, now=now, beside=beside)
    typer.echo(printable(f"signed: {path}"))
    logged = None if signing.log is None else entry_of(signing.log, path.read_bytes())
    if logged is not None:
        typer.echo(printable(f"logged: {signing.log}, attempt {logged[0].attempt} at this model, head {logged[1]}"))
    if not report_is_attested(run):
        typer.echo(
            printable(
                f"note: {run}/public/report.html is not the one that was signed; `invmm-gate report {run}` writes that"
            ),
            err=True,
        )
    return PASS


@with_options
def verify(
    *,
    model: Annotated[Path, typer.Option(help="Checkpoint: exactly what is about to be served.")],
    attestation: Annotated[Path, typer.Option(help="attestation.json of its run.")],
    policy: Annotated[list[str], typer.Option(help="An accepted policy, by name or file; may be repeated.")],
    roots: Roots,
    weights: Released = None,
    lora: Annotated[list[Path] | None, typer.Option(help="LoRA weights served on top; may be repeated.")] = None,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Accept pickled weights; none is read.")] = False,
    conditions: Conditions,
    min_sequence: Annotated[int, typer.Option(help="Lowest accepted sequence number.", min=1)] = 1,
) -> int:
    """Hold an attestation against a checkpoint before it is served. Exit code 0, or 10 if anything does not match."""
    from invmm_gate.attest.demands import demands_named
    from invmm_gate.cli.show import printable
    from invmm_gate.stages.sign import verify_model

    demands = demands_named(conditions, policies=policy, roots=roots, weights=weights, min_sequence=min_sequence)
    statement = verify_model(
        model, attestation, demands, now=_now(), loras=tuple(lora or ()), allow_pickle=allow_pickle
    )
    typer.echo(printable(_line(statement)))
    return PASS


def _line(said: "Statement") -> str:
    from invmm_gate.attest.verification import as_size

    waived = f" ({len(said.waivers)} waived)" if said.waivers else ""
    return (
        f"verified: {said.decision}{waived}, model {said.subject_name} {said.subject_digest[:12]},"
        f" {said.weights} weights, policy {said.policy_name}, {said.probes} probes,"
        f" {as_size(said.tested.image_size)} pixels, sequence {said.sequence},{_attempt(said.attempt)}"
        f" issued {said.issued_at:%Y-%m-%d}, expires {said.expires_at:%Y-%m-%d}"
    )


def _attempt(attempt: int | None) -> str:
    return "" if attempt is None else f" attempt {attempt},"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
