"""`invmm-gate environment`: what is installed, as a digest that can be approved. Never imports torch."""

from typing import Annotated, Final

import typer

ENVIRONMENT_EXAMPLE: Final = "Example: invmm-gate environment --files"


def environment(
    *,
    files: Annotated[
        bool, typer.Option("--files", help="Hash every file too: has one changed since it was installed?")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Print the digest of the installed environment, and what it is made of.

    It covers the gate's code and, of the packages that decide a score or a verdict, the hashes that their RECORD files
    claim. Ends with 2 if --files finds a file that is not as its RECORD says.
    """
    from dataclasses import asdict

    from invmm_gate.cli.show import as_json
    from invmm_gate.runs.installed import installed_environment, require_unchanged_files

    found = installed_environment()
    if json:
        as_json(asdict(found))
    else:
        typer.echo(found.digest)
        for item in found.distributions:
            typer.echo(f"  {item.name} {item.version}: {item.record} ({item.files} files)")
    if files:
        require_unchanged_files()
    return 0
