"""A run's records as flat tables, one row a probe or a confirmation: what the suites of runs/suites.py check.

What is due only under a condition has a column of its own: conditions on rows are another thing in each version of
Great Expectations.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, Final

from invmm_gate.core.records import Confirmation, Interval, Measurement, Probe, RunData
from invmm_gate.probes.expectations import Record, frame_of

MEASUREMENT_COLUMNS: Final = (
    "probe",
    "listed",
    "group",
    "category",
    "outcome",
    "invmm",
    "has_score",
    "score_due",
    "invmm_above",
    "has_bound",
    "bound_due",
    "spread_low",
    "spread_high",
    "hits",
    "trials",
    "low",
    "high",
    "rate_above_low",
    "high_above_rate",
    "steps",
    "evaluations",
    "evaluations_of_result",
)
CONFIRMATION_COLUMNS: Final = (
    "probe",
    "listed",
    "method",
    "status",
    "hits_if_confirmed",
    "hits",
    "trials",
    "low",
    "high",
    "rate_above_low",
    "high_above_rate",
    "confidence",
    "evaluations",
)


def measurements_table(data: RunData) -> Any:
    """The measurements as a `pandas.DataFrame`. Raises ConfigError without pandas.

    A probe of the set without a measurement is a row without an outcome; `listed` is group and category as the probe
    set gives them, and nothing for a probe that it does not list.
    """
    return frame_of(measurement_rows(data), MEASUREMENT_COLUMNS)


def confirmations_table(data: RunData) -> Any:
    """The confirmations as a `pandas.DataFrame`; `listed` as in `measurements_table`. Raises ConfigError."""
    return frame_of(confirmation_rows(data), CONFIRMATION_COLUMNS)


def measurement_rows(data: RunData) -> list[Record]:
    """The rows of `measurements_table`, those that were never measured last."""
    listed = _listed(data.run.probe_set.probes)
    measured = {item.probe for item in data.measurements}
    rows = [_measurement(item, listed.get(item.probe)) for item in data.measurements]
    return rows + [
        dict.fromkeys(MEASUREMENT_COLUMNS) | {"probe": probe, "listed": name}
        for probe, name in listed.items()
        if probe not in measured
    ]


def confirmation_rows(data: RunData) -> list[Record]:
    """The rows of `confirmations_table`."""
    listed = _listed(data.run.probe_set.probes)
    return [_confirmation(item, listed.get(item.probe)) for item in data.confirmations]


def _listed(probes: Iterable[Probe]) -> dict[str, str]:
    return {probe.id: _kind(probe) for probe in probes}


def _kind(item: Probe | Measurement) -> str:
    return f"{item.group}/{item.category}"


def _measurement(item: Measurement, listed: str | None) -> Record:
    spread = item.invmm_spread or (None, None)
    share = item.share
    return dict.fromkeys(MEASUREMENT_COLUMNS) | {
        "probe": item.probe,
        "listed": listed,
        "group": item.group,
        "category": _kind(item),
        "outcome": item.outcome,
        "invmm": item.invmm,
        "invmm_above": item.invmm_above,
        **_due(item),
        "spread_low": spread[0],
        "spread_high": spread[1],
        "steps": item.steps,
        "evaluations": item.evaluations,
        **(dict(_counts(share.hits, share.trials, share.interval)) if share else {}),
    }


def _due(item: Measurement) -> Record:
    """Whether there is a score and a bound, and whether there should be; nothing for a probe that broke."""
    if item.outcome == "error":
        return {}
    return {
        "has_score": _given(item.invmm),
        "score_due": item.outcome == "inverted",
        "has_bound": _given(item.invmm_above),
        "bound_due": item.outcome == "above_threshold",
        "evaluations_of_result": item.evaluations,
    }


def _given(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _confirmation(item: Confirmation, listed: str | None) -> Record:
    return {
        "probe": item.probe,
        "listed": listed,
        "method": item.method,
        "status": item.status,
        "hits_if_confirmed": item.hits if item.status == "confirmed" else None,
        "confidence": item.interval.confidence,
        "evaluations": item.evaluations,
        **dict(_counts(item.hits, item.trials, item.interval)),
    }


def _counts(hits: int, trials: int, interval: Interval) -> Iterator[tuple[str, object]]:
    yield from (("hits", hits), ("trials", trials), ("low", interval.low), ("high", interval.high))
    if trials > 0:
        yield "rate_above_low", hits / trials - interval.low
        yield "high_above_rate", interval.high - hits / trials
