"""`invmm-gate version`: which gate this is. Never imports torch."""

from pathlib import Path
from typing import Annotated

import typer


def version(
    *,
    out: Annotated[
        Path | None, typer.Option(help="Write the code's digest and the libraries' versions there as JSON.")
    ] = None,
) -> int:
    """Print the version."""
    from invmm_gate.core.version import __version__

    if out is not None:
        _write(out)
    typer.echo(f"invmm-gate {__version__}")
    return 0


def _write(path: Path) -> None:
    """Equal bytes for an equal gate: a pipeline that depends on the file runs again only under another one."""
    import json
    from dataclasses import asdict

    from invmm_gate.files.atomic import write_whole
    from invmm_gate.runs.installed import installed_environment

    write_whole(path, json.dumps(asdict(installed_environment()), indent=2) + "\n")
