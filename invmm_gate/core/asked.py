"""How the command line asks for the fields of a record, and a record as the command line that gives it."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints


@dataclass(frozen=True, slots=True)
class Asked:
    """How the command line asks for a field."""

    help: str
    name: str = ""
    """The option; by default the field's name."""
    env: str | None = None
    """Variable that gives the default."""
    min: float | None = None
    max: float | None = None

    def option(self, attribute: str) -> str:
        """The option as it is typed."""
        return self.name or "--" + attribute.replace("_", "-")


def asked(record: type) -> Iterator[tuple[dataclasses.Field[Any], Any, Asked | None]]:
    """The fields of a record that the command line asks for, or that are such a record: field, type, how."""
    hints = get_type_hints(record, include_extras=True)
    for each in dataclasses.fields(record):
        hint = hints[each.name]
        how = next((item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Asked)), None)
        if how is not None:
            yield each, hint.__origin__, how
        elif dataclasses.is_dataclass(hint):
            yield each, hint, None


def arguments(record: Any) -> Iterator[str]:
    """A record as the command line that gives it; what is as by default is left out."""
    for each, _, how in asked(type(record)):
        value = getattr(record, each.name)
        if how is None:
            yield from arguments(value)
        elif value is not None and value != each.default:
            yield from _argument(how.option(each.name), value)


def _argument(option: str, value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield option.partition("/")[0 if value else 2]
    else:
        yield from (f"{option}={item}" for item in (value if isinstance(value, tuple) else (value,)))
