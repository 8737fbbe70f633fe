"""The limits of MLflow: names of parameters and metrics, lengths of values, sizes of requests."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

NAME_LIMIT: Final = 250
VALUE_LIMIT: Final = 6000
TAG_LIMIT: Final = 5000
METRICS_PER_REQUEST: Final = 1000
PARAMS_PER_REQUEST: Final = 100

_FORBIDDEN: Final = re.compile(r"[^A-Za-z0-9_.\-/ ]")
_Item = TypeVar("_Item")


def safe_name(name: str) -> str:
    """A name that MLflow accepts on every backend and that cannot be read as a path that climbs."""
    cleaned = _FORBIDDEN.sub("_", name)
    parts = [part.strip() for part in cleaned.split("/")]
    kept = [part if set(part) - {"."} else "_" * len(part) for part in parts]
    return "/".join(part for part in kept if part)[:NAME_LIMIT].strip(" /") or "_"


def unique_names(items: Mapping[str, str]) -> dict[str, str]:
    """The items under safe names; names that become the same get a number."""
    named: dict[str, str] = {}
    for name, value in items.items():
        safe, number = safe_name(name), 2
        while safe in named:
            safe, number = f"{safe_name(name)[: NAME_LIMIT - 6]}_{number}", number + 1
        named[safe] = value[:VALUE_LIMIT]
    return named


def finite(metrics: Mapping[str, float | int | None]) -> dict[str, float]:
    """The metrics that are finite numbers: MLflow turns an infinity into 1.8e308."""
    return {
        safe_name(name): float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)
    }


def batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Slices of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def flattened(settings: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    """(dotted name, text) of every setting, in order."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
