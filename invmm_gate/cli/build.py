"""`invmm-gate probes build`: choose probes from training data."""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from invmm_gate.cli.options import Columns, Json, Quiet, with_options
from invmm_gate.core.errors import PASS, ConfigError
from invmm_gate.core.options import BuildOptions
from invmm_gate.core.records import GROUPS

if TYPE_CHECKING:  # numpy and torch behind them are not for `--help`
    from invmm_gate.curation.build import Curation
    from invmm_gate.curation.write import Planned

_SHOWN = 5
"""Images of a kind that are named; curation.json names all."""
_PRIVATE = "contact_sheet.html and curation.json show training images and name files: as private as the probes"


@with_options
def build(
    folder: Annotated[Path, typer.Argument(help="Folder of the new probe set; must not exist.")],
    *,
    options: BuildOptions,
    trained_until: Annotated[
        str | None, typer.Option(help="YYYY-MM-DD: rows with a later date are controls, not training data.")
    ] = None,
    column: Columns = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the proposal and write nothing.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Choose probes from training data: near-duplicates, sensitive images, and controls."""
    from invmm_gate.cli.show import TerminalProgress, as_json
    from invmm_gate.curation.build import curate
    from invmm_gate.curation.option_checks import columns_named
    from invmm_gate.curation.write import curation_record, planned_probes, write_curation

    options = replace(options, folder=folder, trained_until=_day(trained_until), columns=columns_named(column or ()))
    today = datetime.datetime.now(datetime.UTC).date()
    with TerminalProgress(quiet=quiet or json) as progress:
        curation = curate(options, progress)
    planned = planned_probes(curation, today=today)
    record = curation_record(curation, planned, today=today)
    if json:
        as_json(record)
    else:
        _show(curation, planned)
    if dry_run:
        typer.echo("dry run: nothing was written", err=json)
        return PASS
    written = write_curation(curation, planned, record)
    if not json:
        typer.echo(f"created {folder}: {len(written.probes)} probes, digest {written.digest}")
        typer.echo(_PRIVATE)
    return PASS


def _day(text: str | None) -> datetime.date | None:
    try:
        return datetime.date.fromisoformat(text) if text is not None else None
    except ValueError as error:
        raise ConfigError(f"--trained-until {text!r}", expected="a date, YYYY-MM-DD") from error


def _show(curation: "Curation", planned: Sequence["Planned"]) -> None:
    from invmm_gate.cli.show import printable

    for line in _lines(curation, planned):
        typer.echo(printable(line))


def _lines(curation: "Curation", planned: Sequence["Planned"]) -> Iterator[str]:
    """The proposal in words."""
    from invmm_gate.curation.option_checks import ENOUGH_CONTROLS
    from invmm_gate.curation.training_entries import of_kinds

    scan, embedder, clusters = curation.scan, curation.embedder, curation.clustering.clusters
    yield (
        f"read {len(scan.items)} training images, {len(curation.training.items)} without exact copies,"
        f" {scan.captioned} with a caption"
    )
    yield f"  compared at {embedder.size} x {embedder.size} pixels; images of another size are resized for that alone"
    if scan.later:
        yield f"  {len(scan.later)} are from after the training: controls are drawn from them"
    if scan.left_out:
        missed = f"{len(scan.left_out)} files{of_kinds(scan.left_out)}"
        yield f"WARNING: {missed} were not looked at, and training may have read them"
        yield from _listed("left out", [f"{left.name} {left.reason}" for left in scan.left_out])
    if scan.beside:
        yield f"beside the images: {len(scan.beside)} other files{of_kinds(scan.beside)}"
    inside = sum(cluster.multiplicity for cluster in clusters)
    yield (
        f"{len(clusters)} clusters of near-duplicates with {inside} images ({embedder.metric.name},"
        f" threshold {embedder.scale.threshold:g}); {curation.clustering.chained} chained ones were split"
    )
    for found in curation.dimensions:
        yield (
            f"intrinsic dimension {found.harmonic:.1f} ({found.unbiased:.1f} unbiased) at k = {found.neighbours},"
            f" from {found.points} images"
        )
    for group in GROUPS:
        yield from _listed(
            group, [f"{item.probe.id} {item.name}: {item.reason}" for item in planned if item.probe.group == group]
        )
    refused = [f"{left.name} {left.reason}" for left in curation.controls.refused]
    yield from _listed("images refused as controls", refused)
    controls = len(curation.controls.chosen)
    if not controls:
        yield "no controls: rules that compare with controls need them; see --controls-from and --trained-until"
    elif controls < ENOUGH_CONTROLS:
        yield f"{controls} controls: policies strict and standard need {ENOUGH_CONTROLS}; see --controls-from"


def _listed(what: str, texts: Sequence[str]) -> Iterator[str]:
    if texts:
        yield f"{len(texts)} {what}:"
    yield from (f"  {text}" for text in texts[:_SHOWN])
    if len(texts) > _SHOWN:
        yield f"  and {len(texts) - _SHOWN} more; curation.json and --json list all"
