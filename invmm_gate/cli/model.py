"""`invmm-gate model`: look at a checkpoint, and copy what is released of it."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from invmm_gate.cli.options import Json, with_options
from invmm_gate.core.errors import PASS
from invmm_gate.core.options import Released

app = typer.Typer(help="Look at a checkpoint, or copy it clean.", no_args_is_help=True, rich_markup_mode=None)

_MOST_NAMED = 40

Pickle = Annotated[bool, typer.Option("--allow-pickle", help="Let in a network's pickled weights.")]


@app.callback()
def model() -> None:
    """Look at a checkpoint, or copy it clean."""


@app.command(epilog="Example: invmm-gate model inspect runs/ckpt")
@with_options
def inspect(
    path: Annotated[Path, typer.Argument(help="Checkpoint: a folder that diffusers saved, or a .safetensors file.")],
    *,
    weights: Released = None,
    lora: Annotated[list[Path] | None, typer.Option(help="LoRA weights on top; may be repeated.")] = None,
    allow_pickle: Pickle = False,
    json: Json = False,
) -> int:
    """Say what a checkpoint is, what would be loaded and what is left out. Loads nothing."""
    from invmm_gate.cli.show import as_json
    from invmm_gate.models.read.description import describe
    from invmm_gate.models.read.inspect import inspect_checkpoint

    found = describe(inspect_checkpoint(path, allow_pickle=allow_pickle, weights=weights, loras=tuple(lora or ())))
    if json:
        as_json(asdict(found))
        return PASS
    lines = [
        f"{found.pipeline}, {found.width}x{found.height}, {found.weights} weights, predicts {found.prediction_type}"
    ]
    lines += [f"  {part.name:<16} {part.kind}, {part.bytes / 1e6:,.1f} MB" for part in found.parts]
    lines += [f"  {name:<16} read" for name in found.tokenizers]
    lines += [f"  {'scheduler':<16} {found.scheduler}"]
    lines += [f"  {name:<16} not loaded: decides nothing about a drawing" for name in found.not_loaded]
    lines += [f"  {name:<16} LoRA, part of what is scored" for name in found.adapters]
    lines += [f"left out, and not covered: {name}" for name in found.left_out]
    lines += [f"pickle: {name}" for name in found.pickles]
    lines += [f"beside it: {', '.join(found.beside)}"] if found.beside else []
    lines += [f"note: {note}" for note in found.notes]
    for line in (*lines, f"digest {found.digest}"):
        typer.echo(line)
    return PASS


@app.command(epilog="Example: invmm-gate model export downloads/sdxl release/sdxl")
@with_options
def export(
    path: Annotated[Path, typer.Argument(help="Folder of a checkpoint, with whatever else lies in it.")],
    out: Annotated[Path, typer.Argument(help="New folder for the copy.")],
    *,
    weights: Released = None,
    allow_pickle: Pickle = False,
    json: Json = False,
) -> int:
    """Copy the files that diffusers would load, as they are, into a folder to check and release."""
    from invmm_gate.cli.show import as_json
    from invmm_gate.stages.export_model import export_model

    done = export_model(path, out, allow_pickle=allow_pickle, weights=weights)
    if json:
        as_json({"digest": done.manifest.digest, "files": len(done.manifest.files), "left_behind": done.left_behind})
        return PASS
    size = sum(file.size for file in done.manifest.files) / 1e6
    typer.echo(f"copied {len(done.manifest.files)} files, {size:,.1f} MB, to {out}; digest {done.manifest.digest}")
    for name, kind in list(done.left_behind.items())[:_MOST_NAMED]:
        typer.echo(f"  left behind: {name} ({kind})")
    if len(done.left_behind) > _MOST_NAMED:
        typer.echo(f"  and {len(done.left_behind) - _MOST_NAMED} more")
    if done.moved:
        typer.echo(f"  {done.moved}")
    pickles = " --allow-pickle" if done.manifest.pickles else ""
    typer.echo(f"next: invmm-gate check --model {shlex.quote(str(out))} --policy strict{pickles}")
    return PASS
