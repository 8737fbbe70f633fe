"""Field types of policy files: numbers, texts, the guard band, and overrides of the measure's settings."""

import math
import re
from dataclasses import MISSING, fields
from operator import getitem
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, Field, Strict, StringConstraints, create_model

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.settings import InversionSettings
from invmm_gate.files.strict_model import StrictModel

GUARD_BAND: Final = 1e-4
"""Relative width above a threshold within which a score counts as below it.

About 100 times the drift of a score between row counts, threads and devices after 300 steps
(7.6e-6 on 11.5), so that another machine cannot turn a block into a pass.
"""

_EXPONENT_ONLY: Final = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


def _as_float(value: object) -> object:
    # PyYAML follows YAML 1.1, where 1e-3 without a dot is text.
    if isinstance(value, str) and _EXPONENT_ONLY.fullmatch(value):
        return float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


Number = Annotated[float, BeforeValidator(_as_float), Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True)]
Count = Annotated[Whole, Field(ge=1, le=100_000)]
Samples = Annotated[Whole, Field(ge=1, le=10_000)]
NotNegative = Annotated[Number, Field(ge=0)]
Name = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}$")]
Digest = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{64}$")]


def guarded(threshold: float) -> float:
    """The largest score that counts as at or below the threshold."""
    return threshold * (1 + GUARD_BAND)


def is_number(value: object) -> bool:
    """Whether the value is a finite real number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
        return getitem(Annotated, (_strict(inner[0]), *inner[1:]))
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


def seeks_nearer(settings: InversionSettings) -> bool:
    """Whether the last step decides, or what lies nearer to N(0, I) than a success: no normality before that does."""
    return settings.certify_at == "last_step" or (settings.certified_share is not None and settings.certifications > 1)


def check(settings: InversionSettings, *, lowest_stop: float | None) -> None:
    """Refuse settings that contradict one another. `lowest_stop`: the bound that the policy's rules need to decide."""
    if settings.weight_rule == "growing" and settings.initial_weight == 0:
        raise ConfigError(
            "measure.settings: weight_rule is growing and initial_weight 0",
            expected="an initial_weight above 0, which a factor can raise",
        )
    if settings.steps % settings.test_every:
        raise ConfigError(
            f"measure.settings: steps {settings.steps} is not a multiple of test_every {settings.test_every}",
            do="change steps or test_every, so that the last step is tested",
        )
    if settings.certify_at == "last_step" and settings.certified_share is None:
        raise ConfigError(
            "measure.settings: certify_at is last_step without a certified_share",
            expected="a share to certify: samples are drawn for it alone",
            do="set certified_share, or certify_at to success",
        )
    stop = settings.stop_above
    if stop is not None and seeks_nearer(settings):
        raise ConfigError(
            f"measure.settings.stop_above is {stop:g} with certifications {settings.certifications} "
            f"at {settings.certify_at}",
            expected="certifications 1 at success: otherwise a probe above the bound may still end below it",
            do="leave stop_above out, or set certify_at to success and certifications to 1",
        )
    if stop is not None and lowest_stop is not None and stop < lowest_stop:
        raise ConfigError(
            f"measure.settings.stop_above {stop:g} cannot decide the rule invmm_below",
            expected=f"at least {lowest_stop!r} (its threshold and the guard band)",
            do="leave stop_above out: it is then set from the rules",
        )
