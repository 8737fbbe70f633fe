"""`invmm-gate environment`: what is installed, as a digest that can be approved. Never imports torch."""

from typing import Annotated, Final

import typer

ENVIRONMENT_EXAMPLE: Final = "Example: invmm-gate environment --json"


def environment(*, json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False) -> int:
    """Print the digest of the installed environment, and what it is made of.

    It covers the gate's own code, and the versions of the packages that decide a score or a verdict. Whether their
    files are those of the version is the installer's job (pip install --require-hashes).
    """
    from dataclasses import asdict

    from invmm_gate.cli.show import as_json
    from invmm_gate.runs.installed import installed_environment

    found = installed_environment()
    if json:
        as_json(asdict(found))
        return 0
    typer.echo(found.digest)
    typer.echo(f"  code: {found.code}")
    for name, version in found.versions.items():
        typer.echo(f"  {name} {version}")
    return 0
