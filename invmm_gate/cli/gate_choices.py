"""The options that say how versions are gated: the same ones for every command that gates."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from invmm_gate.core.records import Weights

if TYPE_CHECKING:
    from invmm_gate.registry.promote.choices import GateChoices

Policy = Annotated[str, typer.Option(help="strict, standard, permissive, or a policy file.")]
Probes = Annotated[Path, typer.Option(help="Folder of the probe set.")]
Key = Annotated[
    Path | None, typer.Option(envvar="INVMM_GATE_KEY", help="Key that signs verdicts; without it nothing is promoted.")
]
Roots = Annotated[
    Path | None, typer.Option(envvar="INVMM_GATE_ROOTS", help="Keys to trust. Default: the .pub file beside --key.")
]
Seed = Annotated[
    int | None, typer.Option(help="Seed of all random streams. Default: what model, probe set and policy give.", min=0)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Rows = Annotated[int | None, typer.Option(help="Rows in one network call; fewer need less memory.", min=1)]
Sscd = Annotated[Path | None, typer.Option(help="SSCD's TorchScript file. Default: $INVMM_GATE_SSCD.")]
Waivers = Annotated[Path | None, typer.Option(help="waivers.yaml: owned, expiring exceptions.")]
Reviewers = Annotated[
    Path | None,
    typer.Option(envvar="INVMM_GATE_REVIEWERS", help="Keys that may approve waivers: a .pub file, or roots.yaml."),
]
Baseline = Annotated[Path | None, typer.Option(help="Approved run, or what `bless` wrote, for rule `regression`.")]
WeightsOption = Annotated[
    Weights | None, typer.Option(help="Which weights are released, where the folder holds raw and EMA weights.")
]
Alias = Annotated[str, typer.Option(help="Alias that moves to a version that passes; '' promotes nothing.")]
Release = Annotated[str | None, typer.Option(help="Model that what passes is released as. Default: NAME-release.")]
Revoked = Annotated[Path | None, typer.Option(help="YAML list of revoked verdicts and keys.")]
MaxAge = Annotated[int | None, typer.Option(help="Oldest accepted verdict, in days.", min=1, max=36500)]
Details = Annotated[bool, typer.Option("--details", help="Send MLflow ids and exact scores: they tell membership.")]
RefuseWaivers = Annotated[bool, typer.Option("--refuse-waivers", help="Promote nothing on a waived finding.")]


def _gate_choices(
    *,
    policy: Policy,
    probes: Probes = Path("probes"),
    key: Key = None,
    roots: Roots = None,
    seed: Seed = None,
    device: Device = "auto",
    rows: Rows = None,
    sscd: Sscd = None,
    waivers: Waivers = None,
    reviewers: Reviewers = None,
    baseline: Baseline = None,
    weights: WeightsOption = None,
    alias: Alias = "champion",
    release_name: Release = None,
    revoked: Revoked = None,
    max_age: MaxAge = None,
    refuse_waivers: RefuseWaivers = False,
    details: Details = False,
) -> "GateChoices":
    from invmm_gate.registry.promote.choices import GateChoices
    from invmm_gate.registry.promote.conditions import Conditions

    return GateChoices(
        policy=policy,
        probes=probes,
        key=key,
        roots=roots,
        seed=seed,
        device=device,
        rows=rows,
        sscd=sscd,
        waivers=waivers,
        baseline=baseline,
        weights=weights,
        conditions=Conditions(revoked=revoked, max_age=max_age, refuse_waivers=refuse_waivers, reviewers=reviewers),
        alias=alias,
        release_name=release_name,
        details=details,
    )


_SHARED: Final = inspect.signature(_gate_choices).parameters


def with_gate_choices(command: Callable[..., int]) -> Callable[..., int]:
    """The command, which takes `choices`, as one that takes the options that make them up instead."""

    @functools.wraps(command)
    def run(**given: object) -> int:
        own = {name: value for name, value in given.items() if name not in _SHARED}
        shared = {name: value for name, value in given.items() if name in _SHARED}
        return command(**own, choices=_gate_choices(**shared))  # type: ignore[arg-type]

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        parameters.extend(_SHARED.values() if parameter.name == "choices" else (parameter,))
    run.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": int}
    return run
