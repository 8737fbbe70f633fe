"""`invmm-gate policy`: look at a policy. Never imports torch."""

from pathlib import Path
from typing import Annotated

import typer

from invmm_gate.core.errors import BAD_INPUT, PASS

app = typer.Typer(help="Look at a policy.", no_args_is_help=True, rich_markup_mode=None)
Named = Annotated[str, typer.Argument(help="strict, standard, permissive, or a policy file.")]


@app.command(epilog="Example: invmm-gate policy show strict")
def show(policy: Named) -> int:
    """Print a policy as it is understood, with its digest."""
    import yaml

    from invmm_gate.policy.schema import load_policy

    parsed = load_policy(policy)
    typer.echo(f"# digest {parsed.digest}")
    typer.echo(yaml.safe_dump(parsed.model_dump(mode="json", exclude_unset=True), sort_keys=False), nl=False)
    return PASS


@app.command(epilog="Example: invmm-gate policy lint strict --probes probes")
def lint(
    policy: Named,
    *,
    probes: Annotated[Path | None, typer.Option(help="Probe set that the policy will judge.")] = None,
) -> int:
    """Say what in a policy cannot work, and every setting in which it is weaker than `strict`.

    With --probes also how many of them must stand out before a rule against the controls fires. Ends with 2 where a
    rule cannot work, or only for many probes at once, or the measure is weaker; else with 0.
    """
    from invmm_gate.policy.schema import load_policy
    from invmm_gate.policy.usable import lint as notes_on
    from invmm_gate.policy.weaknesses import weaknesses

    parsed = load_policy(policy)
    notes: tuple[str, ...] = notes_on(parsed)
    said: tuple[str, ...] = ()
    if probes is not None:
        from invmm_gate.policy.power import blunt_rules, group_power
        from invmm_gate.policy.usable import probe_faults
        from invmm_gate.probes.manifest import read_manifest

        manifest = read_manifest(probes)
        notes = tuple(dict.fromkeys((*probe_faults(parsed, manifest), *notes, *blunt_rules(parsed, manifest))))
        said = tuple(group_power(parsed, manifest))
    weaker = [text for text in weaknesses(parsed) if text not in notes]
    for note in (*notes, *said, *(f"weaker than strict: {text}" for text in weaker)):
        typer.echo(f"{policy}: {note}")
    if not (notes or said or weaker):
        typer.echo(f"{policy}: no remarks")
    return BAD_INPUT if notes else PASS
