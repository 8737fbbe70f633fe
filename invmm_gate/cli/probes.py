"""`invmm-gate probes`: build and check a probe set. Only `build` imports torch, for the copy metric."""

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from invmm_gate.cli.build import build
from invmm_gate.cli.canaries import canaries, join
from invmm_gate.cli.options import Columns, Quiet, with_options
from invmm_gate.core.errors import BAD_INPUT, PASS
from invmm_gate.core.options import NewProbes

if TYPE_CHECKING:
    from invmm_gate.cli.show import TerminalProgress
    from invmm_gate.core.records import ProbeSet
    from invmm_gate.probes.validate import ValidationReport

app = typer.Typer(help="Build and check a probe set.", no_args_is_help=True, rich_markup_mode=None)
Folder = Annotated[Path, typer.Argument(help="Folder of the probe set.")]
app.command(epilog="Example: invmm-gate probes build probes --from data/train --controls-from data/later")(build)
app.command(epilog="Example: invmm-gate probes canaries canaries --size 32")(canaries)
app.command(epilog="Example: invmm-gate probes join probes canaries")(join)


@app.command(epilog="Example: invmm-gate probes init probes")
def init(folder: Folder) -> int:
    """Create an empty probe set."""
    from invmm_gate.probes.edit import init_probe_set

    init_probe_set(folder)
    typer.echo(f"created {folder}; next: invmm-gate probes add {folder} IMAGE... --group GROUP")
    return PASS


@app.command(epilog="Example: invmm-gate probes add probes scans --group sensitive --category medical")
@with_options
def add(
    folder: Folder,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, which are copied; a folder, table, tar or saved data set stands for all images in it."
        ),
    ],
    *,
    new: NewProbes,
    column: Columns = None,
) -> int:
    """Add images to a probe set, all or none; captions beside them come along."""
    from invmm_gate.curation.given_images import reader
    from invmm_gate.curation.option_checks import columns_named
    from invmm_gate.curation.training_data import expanded
    from invmm_gate.probes.edit import add_probes

    read = reader(columns_named(column or ()))
    new = replace(new, added_on=datetime.datetime.now(datetime.UTC).date())
    added = add_probes(folder, expanded(images), new, read=read)
    fitted = f", fitted by {new.fit}" if new.fit else ""
    typer.echo(f"added {len(added)} probes to {folder}{fitted}: {', '.join(probe.id for probe in added)}")
    return PASS


@app.command(epilog="Example: invmm-gate probes validate probes")
def validate(
    folder: Folder,
    *,
    min_controls: Annotated[int, typer.Option(help="Controls that must be there.", min=0)] = 0,
    captions: Annotated[bool, typer.Option("--captions", help="Every probe must have a caption.")] = False,
    policy: Annotated[str | None, typer.Option(help="Policy whose number of controls must be there.")] = None,
    image_size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH in pixels, or one side: what the model makes. Default: a square.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write counts, digest and problems there as JSON.")] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Write Great Expectations' data docs there; they show private fields.")
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Check manifest, files and hashes by Great Expectations; every problem with its line."""
    from functools import partial

    from invmm_gate.attest.demands import parse_image_size
    from invmm_gate.cli.show import TerminalProgress, printable
    from invmm_gate.policy.schema import load_policy
    from invmm_gate.probes.expectations import expected_results
    from invmm_gate.probes.validate import check_probe_set
    from invmm_gate.stages.preflight import controls_needed

    if policy is not None:
        min_controls = max(min_controls, controls_needed(load_policy(policy)))
    size = None if image_size is None else parse_image_size(image_size)
    with TerminalProgress(quiet=quiet) as progress:
        result = check_probe_set(
            folder,
            min_controls=min_controls,
            captions_required=captions,
            image_size=size,
            progress=_bar(progress),
            decide=partial(expected_results, docs=docs),
        )
    if out is not None:
        _write(out, result)
    for line in result.lines():
        typer.echo(printable(line), err=True)
    if result.probe_set is None:
        typer.echo(f"error: {len(result.problems)} problems in {printable(str(folder))}", err=True)
        return BAD_INPUT
    fits = "".join(f", {count} fitted by {fit}" for fit, count in _fits(result.probe_set).items())
    typer.echo(f"{folder}: {len(result.probe_set.probes)} probes{fits}, digest {result.probe_set.digest}")
    return PASS


def _fits(probe_set: "ProbeSet") -> dict[str, int]:
    """Probes by how training fitted them, where somebody said it."""
    from collections import Counter

    return dict(sorted(Counter(probe.fit for probe in probe_set.probes if probe.fit).items()))


def _bar(progress: "TerminalProgress") -> Callable[[int, int], None]:
    def told(done: int, total: int) -> None:
        if done == 1:
            progress.begin("check images", total)
        progress.advance(1)
        if done == total:
            progress.end()

    return told


def _write(path: Path, result: "ValidationReport") -> None:
    """Counts and digest only, or the problems: what a pipeline keeps of a probe set that is validated."""
    import json
    from collections import Counter

    from invmm_gate.files.regular import write_whole

    probes = result.probe_set.probes if result.probe_set else ()
    found = {
        "valid": result.probe_set is not None,
        "probes": len(probes),
        "groups": dict(sorted(Counter(probe.group for probe in probes).items())),
        "fits": _fits(result.probe_set) if result.probe_set else {},
        "digest": result.probe_set.digest if result.probe_set else None,
        "problems": list(result.lines()),
    }
    write_whole(path, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
