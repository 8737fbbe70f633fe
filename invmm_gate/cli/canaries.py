"""`invmm-gate probes canaries` and `probes join`: images to plant, and how they get into a probe set."""

import datetime
from pathlib import Path
from typing import Annotated

import typer

from invmm_gate.cli.options import with_options
from invmm_gate.core.errors import PASS
from invmm_gate.core.options import CanaryOptions


@with_options
def canaries(
    folder: Annotated[Path, typer.Argument(help="Folder of the new probe set; must not exist.")],
    *,
    options: CanaryOptions,
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH in pixels, or one side: the size of the training images.")],
    multiplicities: Annotated[
        str, typer.Option(help="How often training is to see the canaries of each step, with commas between.")
    ] = "1,2,4,8,16,32,64",
) -> int:
    """Draw images to plant in training data, so that a run shows from which multiplicity on it finds images.

    The folder is a probe set. Before training, mix each image of its manifest.csv into the training data as often as
    the column multiplicity says, with its caption. After training, `probes join` adds them to the other probes.
    """
    import secrets
    from dataclasses import replace

    from invmm_gate.attest.demands import parse_image_size
    from invmm_gate.curation.canaries import parse_multiplicities, write_canaries

    options = replace(
        options,
        folder=folder,
        size=parse_image_size(size, "--size"),
        multiplicities=parse_multiplicities(multiplicities),
    )
    seed = secrets.randbits(48) if options.seed is None else options.seed
    written = write_canaries(options, seed=seed, today=datetime.datetime.now(datetime.UTC).date())
    images = sum(probe.multiplicity for probe in written.probes)
    typer.echo(
        f"created {folder}: {len(written.probes)} canaries, {options.count} of each multiplicity, seed {seed}, "
        f"digest {written.digest}"
    )
    typer.echo(
        f"next: mix them into the training data, {images:,} images in all, as the column multiplicity of "
        f"{folder}/manifest.csv says; after training: invmm-gate probes join PROBES {folder}"
    )
    return PASS


def join(
    folder: Annotated[Path, typer.Argument(help="Folder of the probe set that grows.")],
    other: Annotated[Path, typer.Argument(help="Probe set whose probes are added; it is not changed.")],
) -> int:
    """Add all probes of another probe set, with all that its manifest says, all or none."""
    from invmm_gate.probes.edit import join_probe_set

    added = join_probe_set(folder, other)
    typer.echo(f"added {len(added)} probes of {other} to {folder}")
    return PASS
