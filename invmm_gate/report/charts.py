"""Geometry of the report's charts: records in, coordinates out. The templates draw; nothing here writes markup."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from invmm_gate.core.records import CurvePoint, Trial
from invmm_gate.report import texts

WIDTH: Final = 260
HEIGHT: Final = 132
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 22
POINTS_DRAWN: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A labelled place on an axis."""

    at: str
    """Coordinate in the chart's own units, ready to be written."""
    label: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values onto coordinates, on a logarithmic axis where `log` is set."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The coordinate of a value; values off the axis lie on its end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self) -> tuple[Tick, ...]:
        """Two to five round values within the axis."""
        values = _decades(self.low, self.high) if self.log else _round_values(self.low, self.high)
        return tuple(Tick(at=_c(self.at(value)), label=f"{value:.4g}") for value in values)


def scale_for(values: Sequence[float], start: float, end: float) -> Scale:
    """An axis that holds all values: logarithmic where they are positive and span a factor of 8 or more."""
    low, high = min(values), max(values)
    if low > 0 and high / low >= 8:
        return Scale(low, high, start, end, log=True)
    low = min(low, 0.0) if low < high / 3 or low < 0 else low - (high - low) * 0.1
    return Scale(low, high if high > low else low + (abs(low) or 1.0), start, end)


def _decades(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    whole = [10.0**power for power in range(first, last + 1)]
    if len(whole) >= 2:
        return whole[:: math.ceil(len(whole) / 5)]
    finer = [digit * 10.0**power for power in range(first - 1, last + 2) for digit in (1, 2, 5)]
    return [value for value in finer if low <= value <= high]


def _round_values(low: float, high: float) -> list[float]:
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * 0.999)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One trial's course; `points` is an SVG point list and `end` the last point."""

    points: str
    end: tuple[str, str]
    order: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One quantity over the optimisation steps."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    limit: Tick | None
    summary: str
    """The course in words, for those who do not see the chart."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM


_Get = Callable[[CurvePoint], float | None]
_QUANTITIES: Final[tuple[tuple[str, _Get], ...]] = (
    ("Denoising error", lambda point: point.denoising_error),
    ("Normality (nats per dimension)", lambda point: point.normality),
    ("Weight of the normality", lambda point: point.weight),
)


def panels(trials: Sequence[Trial], *, metric: str, threshold: float) -> tuple[Panel, ...]:
    """Denoising error, normality, weight, and the closest sample against the copy threshold, over the steps."""
    closest = _panel(f"Closest sample ({metric})", trials, lambda point: point.best_value, limit=threshold)
    drawn = [_panel(title, trials, get, limit=None) for title, get in _QUANTITIES]
    return tuple(panel for panel in (*drawn, closest) if panel is not None)


def _panel(title: str, trials: Sequence[Trial], get: _Get, *, limit: float | None) -> Panel | None:
    courses = [course for course in (_course(trial, get) for trial in trials) if course]
    if not courses:
        return None
    values = [value for course in courses for _, value in course] + ([] if limit is None else [limit])
    steps = [step for course in courses for step, _ in course]
    x_axis = Scale(0, max(*steps, 1), _LEFT, WIDTH - _RIGHT)
    y_axis = scale_for(values, HEIGHT - _BOTTOM, _TOP)
    first, last = courses[0][0], courses[0][-1]
    return Panel(
        title=title,
        lines=tuple(_line(course, x_axis, y_axis, order) for order, course in enumerate(courses)),
        x_ticks=x_axis.ticks(),
        y_ticks=y_axis.ticks(),
        limit=None if limit is None else Tick(at=_c(y_axis.at(limit)), label=texts.score(limit)),
        summary=f"{title}: {texts.score(first[1])} at step {first[0]}, {texts.score(last[1])} at step {last[0]}",
    )


def _course(trial: Trial, get: _Get) -> list[tuple[int, float]]:
    pairs = ((point.step, get(point)) for point in trial.curve)
    course = [(step, value) for step, value in pairs if value is not None and math.isfinite(value)]
    stride = math.ceil(len(course) / POINTS_DRAWN) or 1
    return course if stride == 1 else [*course[:-1:stride], course[-1]]


def _line(course: list[tuple[int, float]], x_axis: Scale, y_axis: Scale, order: int) -> Line:
    spots = [(_c(x_axis.at(step)), _c(y_axis.at(value))) for step, value in course]
    return Line(points=" ".join(f"{x},{y}" for x, y in spots), end=spots[-1], order=min(order, 3))


def _c(value: float) -> str:
    """A coordinate, to a tenth of a unit."""
    return f"{value:.1f}"
