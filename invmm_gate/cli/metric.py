"""`invmm-gate metric`: look at a copy metric."""

from pathlib import Path
from typing import Annotated

import typer

from invmm_gate.cli.options import Json, with_options
from invmm_gate.core.errors import PASS
from invmm_gate.core.options import Sscd

app = typer.Typer(help="Calibrate a copy metric.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def metric() -> None:
    """Calibrate a copy metric."""


@app.command(epilog="Example: invmm-gate metric calibrate probes --metric pixel_rmse --size 32 --rate 0.001")
@with_options
def calibrate(
    folder: Annotated[Path, typer.Argument(help="Probe set whose controls are not copies of one another.")],
    *,
    metric: Annotated[
        str, typer.Option(help="pixel_rmse, pixel_aligned, or a name that begins with sscd or onnx.")
    ] = "pixel_rmse",
    size: Annotated[int, typer.Option(help="Side of the model's images, in pixels.", min=1)],
    rate: Annotated[float, typer.Option(help="False-match rate: share of pairs taken for copies.")] = 0.001,
    sscd: Sscd = None,
    json: Json = False,
) -> int:
    """Find a metric's threshold at a stated false-match rate, with its interval."""
    from dataclasses import asdict

    from invmm_gate.cli.show import as_json
    from invmm_gate.stages.calibrate_metric import calibrate_on_controls

    result = calibrate_on_controls(folder, metric=metric, size=size, rate=rate, sscd=sscd)
    if json:
        as_json(asdict(result))
    else:
        typer.echo(
            f"{result.metric}: threshold {result.threshold:.4f} (95 % interval {result.low:.4f} to {result.high:.4f})"
            f" at a false-match rate of {rate:g}, from {result.pairs} pairs of {result.images} images"
        )
    return PASS
