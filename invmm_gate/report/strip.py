"""Geometry of the overview: every probe as one mark on a line from most to least memorized, a row per group."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from invmm_gate.core.records import GROUPS, Measurement
from invmm_gate.report import texts
from invmm_gate.report.charts import Scale, Tick

WIDTH: Final = 900
_SCORES: Final = (104.0, 560.0)
"""Left and right end of the InvMM axis."""
_SHARES: Final = (630.0, 872.0)
"""Left and right end of the axis of probes without a score: 100 % to 0 % of test samples replicate."""
_ZERO: Final = 88.0
"""Where a score of exactly 0 stands, left of the logarithmic axis."""
_ROW: Final = 48
"""Least height of a row; a crowded row is higher."""
_LEVELS: Final = 11
"""Marks that are set above one another at most; the rest are counted."""
_TOP: Final = 44
_PITCH: Final = 10.0
"""Marks nearer than this are set above and below each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A probe's mark, with its coordinates ready to be written."""

    x: str
    y: str
    shape: str
    """`disc` inverted, `triangle` above a bound, `ring` not inverted."""
    flagged: bool
    """An unwaived finding names this probe."""
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The marks of one group of probes."""

    group: str
    total: int
    y: int
    """Middle of the row."""
    bottom: int
    marks: tuple[Mark, ...]
    crowded: tuple[Tick, ...]
    """Where marks are left out, and how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The chart of all scores, one row a group."""

    rows: tuple[Row, ...]
    score_ticks: tuple[Tick, ...]
    share_ticks: tuple[Tick, ...]
    limit: Tick | None
    zero: bool
    """Whether any score is exactly 0, which a logarithmic axis cannot hold."""
    summary: str
    height: int
    width: int = WIDTH
    top: int = _TOP
    zero_at: float = _ZERO
    scores: tuple[float, float] = _SCORES
    shares: tuple[float, float] = _SHARES


def strip(measurements: Sequence[Measurement], *, flagged: frozenset[str], limit: float | None) -> Strip | None:
    """The overview, or None where nothing was measured. Probes that broke have no place on the line."""
    placed = [item for item in measurements if item.outcome != "error"]
    if not placed:
        return None
    axis = _score_axis(placed, limit)
    groups = [group for group in GROUPS if any(item.group == group for item in placed)]
    rows: list[Row] = []
    for group in groups:
        members = [item for item in placed if item.group == group]
        rows.append(_row(members, axis, flagged, top=rows[-1].bottom if rows else _TOP))
    shares = Scale(0.0, 1.0, _SHARES[1], _SHARES[0])
    return Strip(
        rows=tuple(rows),
        score_ticks=axis.ticks(),
        share_ticks=tuple(Tick(at=f"{shares.at(at):.1f}", label=texts.percent(at)) for at in (1.0, 0.5, 0.0)),
        limit=Tick(at=f"{axis.at(limit):.1f}", label=texts.score(limit)) if limit else None,
        zero=any(item.invmm == 0 for item in placed),
        summary=_summary(placed, groups),
        height=rows[-1].bottom + 42,
    )


def _score_axis(placed: Sequence[Measurement], limit: float | None) -> Scale:
    known = [value for item in placed for value in (item.invmm, item.invmm_above)]
    values = [value for value in (*known, limit) if value is not None and math.isfinite(value) and value > 0]
    low, high = (min(values), max(values)) if values else (1e-3, 1e-1)
    return Scale(
        10.0 ** math.floor(math.log10(low) - 0.05), 10.0 ** math.ceil(math.log10(high) + 0.05), *_SCORES, log=True
    )


def _row(items: Sequence[Measurement], axis: Scale, flagged: frozenset[str], *, top: int) -> Row:
    columns: dict[int, list[tuple[float, str, Measurement]]] = {}
    for item in sorted(items, key=lambda item: (item.rank, item.probe)):
        x, shape = _place(item, axis)
        columns.setdefault(round(x / _PITCH), []).append((x, shape, item))
    levels = min(max(len(column) for column in columns.values()), _LEVELS)
    height = max(_ROW, int(levels * _PITCH) + 22)
    marks = [
        _mark(column[0][0], top + height / 2 + _offset(level), shape, item, flagged)
        for column in columns.values()
        for level, (_, shape, item) in enumerate(column[:_LEVELS])
    ]
    crowded = [
        Tick(at=f"{column[0][0]:.1f}", label=f"+{len(column) - _LEVELS}")
        for column in columns.values()
        if len(column) > _LEVELS
    ]
    return Row(
        group=items[0].group,
        total=len(items),
        y=top + height // 2,
        bottom=top + height,
        marks=tuple(marks),
        crowded=tuple(crowded),
    )


def _mark(x: float, y: float, shape: str, item: Measurement, flagged: frozenset[str]) -> Mark:
    label = f"{item.probe}: {texts.measured_score(item)}"
    return Mark(x=f"{x:.1f}", y=f"{y:.1f}", shape=shape, flagged=item.probe in flagged, label=label)


def _place(item: Measurement, axis: Scale) -> tuple[float, str]:
    if item.invmm is not None:
        return (axis.at(item.invmm) if item.invmm > 0 else _ZERO), "disc"
    if item.outcome == "above_threshold" and item.invmm_above:
        return axis.at(item.invmm_above), "triangle"
    return Scale(0.0, 1.0, _SHARES[1], _SHARES[0]).at(-item.rank[2]), "ring"


def _offset(level: int) -> float:
    """0, then one up, one down, two up, two down."""
    return (level + 1) // 2 * _PITCH * (-1 if level % 2 else 1)


def _summary(placed: Sequence[Measurement], groups: Sequence[str]) -> str:
    parts = []
    for group in groups:
        members = [item for item in placed if item.group == group]
        scores = [item.invmm for item in members if item.invmm is not None]
        lowest = f", lowest InvMM {texts.score(min(scores))}" if scores else ""
        parts.append(f"{group}: {len(scores)} of {len(members)} inverted{lowest}")
    return "; ".join(parts)
