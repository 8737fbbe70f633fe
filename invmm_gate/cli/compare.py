"""`compare` and `bless`: two runs side by side, and the baseline of the rule `regression`. No torch."""

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from invmm_gate.cli.options import Json
from invmm_gate.core.errors import PASS

if TYPE_CHECKING:
    from rich.table import Table

    from invmm_gate.policy.compare.comparison import Comparison

COMPARE_EPILOG: Final = "Example: invmm-gate compare reports/approved reports/candidate --policy strict --fail-on new"
BLESS_EPILOG: Final = 'Example: invmm-gate bless reports/approved --reason "release 1.4, approved in review 214"'

_COLOURS: Final = {
    "new": "bold red",
    "worse": "bold red",
    "unknown": "bold yellow",
    "fixed": "green",
    "better": "green",
}
_MOST_ROWS: Final = 40
_WIDE: Final = 400
"""Columns off a terminal, where nobody has a width and no row may be folded."""


def compare(
    before: Annotated[Path, typer.Argument(help="Run folder, or a baseline file for the run that was blessed last.")],
    after: Annotated[Path, typer.Argument(help="Run folder to hold against it.")],
    *,
    policy: Annotated[
        str | None, typer.Option(help="Judge both afresh by this policy; its rule regression gives the margin.")
    ] = None,
    common_probes: Annotated[
        bool, typer.Option("--common-probes", help="Compare only the probes that both runs have, image for image.")
    ] = False,
    fail_on: Annotated[
        Literal["new", "worse"] | None,
        typer.Option(help="Exit with 10 for a new finding, or also for anything worse; 11 if something is unknown."),
    ] = None,
    json: Json = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the comparison as Markdown to this file.")] = None,
) -> int:
    """Say what is new, fixed, worse or unchanged between two runs. No verdict: exit code 0 without --fail-on."""
    from invmm_gate.cli.show import as_json
    from invmm_gate.files.regular import write_whole
    from invmm_gate.policy.compare.compare import exit_code
    from invmm_gate.report.comparison_markdown import render_comparison
    from invmm_gate.stages.bless import compare_runs

    found = compare_runs(before, after, policy=policy, common_probes=common_probes, today=_now().date())
    if markdown is not None:
        write_whole(markdown, render_comparison(found), option="--markdown")
    if json:
        as_json(asdict(found))
    else:
        _show(found)
    return exit_code(found, fail_on)


def bless(
    run: Annotated[Path, typer.Argument(help="Run folder with a verdict.")],
    *,
    reason: Annotated[str, typer.Option(help="Why this run is the baseline; the report quotes it.")],
    by: Annotated[str | None, typer.Option(help="Who blesses. Default: the login name.")] = None,
    baseline: Annotated[Path, typer.Option(help="Baseline file; earlier blessings in it stay.")] = Path(
        "baseline.yaml"
    ),
    even_if_blocked: Annotated[
        bool, typer.Option("--even-if-blocked", help="Also a run that did not pass; the file says so.")
    ] = False,
) -> int:
    """Make a judged run the baseline of rule `regression`. Used only where --baseline names the file."""
    from invmm_gate.cli.show import printable
    from invmm_gate.stages.bless import bless as bless_run

    entry = bless_run(run, reason=reason, by=by, file=baseline, even_if_blocked=even_if_blocked, now=_now())
    waived = f", {entry.waived} findings waived" if entry.waived else ""
    verdict = f"{entry.decision}{waived}"
    typer.echo(printable(f"blessed: run {entry.run_id} ({verdict}) by {entry.blessed_by}; next: --baseline {baseline}"))
    return PASS


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _show(found: "Comparison") -> None:
    from rich.console import Console

    from invmm_gate.cli.show import printable
    from invmm_gate.report.comparison_markdown import counted

    console = Console(highlight=False, soft_wrap=True)
    before, after = found.before, found.after
    lines = [
        f"COMPARED  {before.model} ({before.run_id}) before, {after.model} ({after.run_id}) now",
        f"  findings: {counted(found.counts['findings']) if found.findings_compared else 'not compared'}",
        f"  probes: {counted(found.counts['probes'])}",
        *(f"  note: {note}" for note in found.notes),
    ]
    if found.left_out.probes:
        left = found.left_out
        lines.append(f"  left out: {len(left.added)} added, {len(left.gone)} gone, {len(left.replaced)} replaced")
    for line in lines:
        console.print(printable(line), markup=False)
    wide = console if console.is_terminal else Console(highlight=False, width=_WIDE)
    for table in (_findings(found), _uncompared(found), _probes(found)):
        if table.row_count:
            wide.print(table)


def _findings(found: "Comparison") -> "Table":
    from invmm_gate.report.comparison_markdown import breach_text
    from invmm_gate.report.texts import subject

    rows = [
        (each.change, each.rule, each.probe or subject(each.group), breach_text(each.before), breach_text(each.after))
        for each in found.findings
    ]
    return _table(("Finding", "Rule", "Probe", "Before", "Now"), rows)


def _uncompared(found: "Comparison") -> "Table":
    from invmm_gate.report.comparison_markdown import uncompared_text
    from invmm_gate.report.texts import subject

    rows = [
        ("unknown", each.rule, each.probe or subject(each.group), uncompared_text(each)) for each in found.uncompared
    ]
    return _table(("Not compared", "Rule", "Probe", "Now"), rows)


def _probes(found: "Comparison") -> "Table":
    from invmm_gate.report.comparison_markdown import score_text, shown_likelihoods, shown_rates

    rows = [
        (
            each.change,
            each.probe,
            each.group,
            *map(score_text, (each.score.before, each.score.after)),
            shown_rates(each),
            shown_likelihoods(each),
        )
        for each in found.probes
    ]
    heads = ("Probe is", "Probe", "Group", "InvMM before", "InvMM now", "Replicating samples", "How often it comes out")
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Sequence[tuple[str, ...]]) -> "Table":
    """The rows that changed, worst first; the change is a word, and its colour only repeats it."""
    from rich.table import Table
    from rich.text import Text

    from invmm_gate.cli.show import printable

    table = Table(box=None, pad_edge=True, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    changed = [row for row in rows if row[0] != "unchanged"]
    for change, *cells in changed[:_MOST_ROWS]:
        table.add_row(Text(change.upper(), style=_COLOURS[change]), *(Text(printable(cell)) for cell in cells))
    if len(changed) > _MOST_ROWS:
        table.add_row(Text(f"and {len(changed) - _MOST_ROWS} more: see --json"))
    return table
