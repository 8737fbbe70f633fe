"""Field types of statements, trust roots and revocations. Each value has one spelling."""

import datetime
import re
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, StringConstraints

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DECIMAL: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,17})?")
_INSTANT: Final = "%Y-%m-%dT%H:%M:%SZ"


def as_text(moment: datetime.datetime) -> str:
    """An aware UTC moment as a statement writes it, to the second."""
    return moment.strftime(_INSTANT)


def _as_day(value: object) -> object:
    if type(value) is datetime.date:
        return value
    # fromisoformat also reads 20260131 and 2026-W05-6.
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError(f"found {str(value)[:40]!r}, expected a date YYYY-MM-DD")
    return datetime.date.fromisoformat(value)


def _as_instant(value: object) -> object:
    if isinstance(value, datetime.datetime):
        moment = value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value.astimezone(datetime.UTC)
        return moment.replace(microsecond=0)
    text = str(value)[:40]
    moment = datetime.datetime.strptime(text, _INSTANT).replace(tzinfo=datetime.UTC)
    if as_text(moment) != value:
        raise ValueError(f"found {text!r}, expected a UTC time YYYY-MM-DDTHH:MM:SSZ")
    return moment


def _as_number(value: object) -> object:
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise ValueError(f"found {str(value)[:40]!r}, expected the text of a number from 0, as '7.5'")
    return float(value)


Line = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=1000)]
Hex = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{64}$")]
Day = Annotated[datetime.date, BeforeValidator(_as_day)]
Instant = Annotated[datetime.datetime, BeforeValidator(_as_instant), PlainSerializer(as_text, when_used="json")]
Decimal = Annotated[
    float, BeforeValidator(_as_number), PlainSerializer(lambda number: repr(float(number)), when_used="json")
]
"""A number as `7.5`: signed bytes have no number that is no integer."""
