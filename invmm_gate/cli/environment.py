"""`invmm-gate version` and `environment`: which gate this is, and on what. Never imports torch."""

from pathlib import Path
from typing import Annotated, Final

import typer

from invmm_gate.cli.options import Json
from invmm_gate.core.version import __version__

ENVIRONMENT_EXAMPLE: Final = "Example: invmm-gate environment --json"


def version(
    *,
    out: Annotated[
        Path | None, typer.Option(help="Write the code's digest and the libraries' versions there as JSON.")
    ] = None,
) -> int:
    """Print the version."""
    if out is not None:
        _write(out)
    typer.echo(f"invmm-gate {__version__}")
    return 0


def environment(*, json: Json = False) -> int:
    """Print the digest of the installed environment, and what it is made of.

    It covers the gate's own code, and the versions of the packages that decide a score or a verdict. Whether their
    files are those of the version is the installer's job (pip install --require-hashes).
    """
    from dataclasses import asdict

    from invmm_gate.cli.show import as_json
    from invmm_gate.runs.identity import installed_environment

    found = installed_environment()
    if json:
        as_json(asdict(found))
        return 0
    typer.echo(found.digest)
    typer.echo(f"  code: {found.code}")
    for name, version in found.versions.items():
        typer.echo(f"  {name} {version}")
    return 0


def _write(path: Path) -> None:
    """Equal bytes for an equal gate: a pipeline that depends on the file runs again only under another one."""
    import json
    from dataclasses import asdict

    from invmm_gate.files.regular import write_whole
    from invmm_gate.runs.identity import installed_environment

    write_whole(path, json.dumps(asdict(installed_environment()), indent=2) + "\n")
