"""Overrides of the measure's settings in a policy: the fields of InversionSettings, with their types and ranges."""

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_origin, get_type_hints

from pydantic import Strict, create_model

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.settings import InversionSettings
from invmm_gate.files.strict_model import StrictModel
from invmm_gate.policy.numbers import Number, Whole


class _Overrides(StrictModel):
    """What a policy changes in its profile. A field that is not given keeps the profile's value."""

    def given(self) -> dict[str, object]:
        """The fields that the policy names, with their values."""
        return self.model_dump(exclude_unset=True)


_STRICT: Final[dict[object, Any]] = {int: Whole, float: Number, bool: Annotated[bool, Strict()]}


def _strict(hint: Any) -> Any:
    """The type of a setting as a policy file has it: nothing is converted but whole numbers to decimal ones."""
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        return Annotated.__class_getitem__((_strict(inner[0]), *inner[1:]))
    if get_origin(hint) is tuple:
        return tuple.__class_getitem__((_strict(inner[0]), ...))
    return _strict(inner[0]) | None if type(None) in inner else _STRICT.get(hint, hint)


def _fields() -> Any:
    hints = get_type_hints(InversionSettings, include_extras=True)
    for each in fields(InversionSettings):
        yield each.name, (_strict(hints[each.name]), 1 if each.default is MISSING else each.default)


if TYPE_CHECKING:
    SettingsOverrides = _Overrides
else:
    SettingsOverrides = create_model("SettingsOverrides", __base__=_Overrides, **dict(_fields()))


def check(settings: InversionSettings, *, lowest_stop: float | None) -> None:
    """Refuse settings that contradict one another. `lowest_stop`: the bound that the policy's rules need to decide."""
    if settings.steps % settings.test_every:
        raise ConfigError(
            f"measure.settings: steps {settings.steps} is not a multiple of test_every {settings.test_every}",
            do="change steps or test_every, so that the last step is tested",
        )
    stop = settings.stop_above
    if stop is not None and lowest_stop is not None and stop < lowest_stop:
        raise ConfigError(
            f"measure.settings.stop_above {stop:g} cannot decide the rule invmm_below",
            expected=f"at least {lowest_stop!r} (its threshold and the guard band)",
            do="leave stop_above out: it is then set from the rules",
        )
