"""Options from records: a command that takes a record of `core/options.py` is typed with the record's own options."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from invmm_gate.core.asked import Asked, asked

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(help="path=NAME, image=NAME, caption=NAME, label=NAME or date=NAME, for tables; may be repeated."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]


def with_options(command: Callable[..., int]) -> Callable[..., int]:
    """The command with each record among its parameters replaced by the options that make it up.

    An option that two records share, or that the command spells itself, is asked for once and given to all of them.
    """
    hints = get_type_hints(command, include_extras=True)
    records = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    own = inspect.signature(command).parameters
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in own.items():
        plain = (parameter.replace(annotation=_typed(name, hints[name])),)
        for option in _options(records[name]) if name in records else plain:
            if option.name == name or option.name not in own:
                parameters.setdefault(option.name, option)

    @functools.wraps(command)
    def run(**given: Any) -> int:
        built = {name: _built(record, given) for name, record in records.items()}
        return command(**{name: given[name] for name in own if name not in records}, **built)

    run.__signature__ = inspect.Signature(list(parameters.values()), return_annotation=int)  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()} | {"return": int}
    return run


def _options(record: Any) -> Iterator[inspect.Parameter]:
    for field, kind, how in asked(record):
        if how is None:
            yield from _options(kind)
            continue
        default: Any = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None if default == () else default,
            annotation=_typed(field.name, Annotated[_listed(kind, default), how]),
        )


def _listed(kind: Any, default: object) -> Any:
    """Typer repeats an option of a list."""
    if get_origin(kind) is not tuple:
        return kind
    several = list.__class_getitem__(get_args(kind)[0])
    return several | None if default == () else several


def _typed(name: str, hint: Any) -> Any:
    """`Asked` as Typer says it; any other annotation as it is. A switch has no `--no-` form unless its name says so."""
    how = next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Asked)), None)
    if how is None:
        return hint
    kind = hint.__origin__
    names = (how.option(name),) if how.name or kind is bool else ()
    return Annotated[kind, typer.Option(*names, help=how.help, envvar=how.env, min=how.min, max=how.max)]


def _built(record: Any, given: Mapping[str, Any]) -> Any:
    values = {field.name: given[field.name] for field in dataclasses.fields(record) if field.name in given}
    for field, kind, how in asked(record):
        if how is None:
            values[field.name] = _built(kind, given)
        elif get_origin(kind) is tuple:
            values[field.name] = tuple(values[field.name] or ())
    return record(**values)
