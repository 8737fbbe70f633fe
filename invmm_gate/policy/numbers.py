"""Number and text types of the policy files, and the guard band."""

import math
import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, StringConstraints

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
