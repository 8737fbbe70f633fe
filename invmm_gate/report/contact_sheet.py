"""The contact sheet of a probe set that was built: one HTML page with the images, and therefore private."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from invmm_gate.report.charts import HEIGHT, WIDTH, Scale, Tick, scale_for
from invmm_gate.report.templates import environment, template

_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 18, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumb:
    """One small picture."""

    label: str
    data: bytes
    kind: str
    """`png` or `jpeg`."""
    pixelated: bool
    """Whether it is so small that it is enlarged without smoothing."""

    @property
    def uri(self) -> str:
        """A data URI."""
        return f"data:image/{self.kind};base64," + base64.b64encode(self.data).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A cluster: its medoid first, then some of its other members."""

    name: str
    multiplicity: int
    distinct: int
    """Images of the cluster without exact copies."""
    farthest: str
    note: str
    thumbs: tuple[Thumb, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveRow:
    """DBSCAN at one threshold."""

    threshold: float
    clusters: int
    images: int
    largest: int
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Groups of pictures, and how many more there are than are shown."""

    thumbs: tuple[Thumb, ...]
    more: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactSheet:
    """The contents of the page."""

    title: str
    facts: tuple[tuple[str, str], ...]
    metric: str
    looser: str
    """Which thresholds are looser: `higher` or `lower`."""
    cards: tuple[Card, ...]
    more_cards: int
    sensitive: Section
    sample: Section
    controls: Section
    curve: tuple[CurveRow, ...]
    dimensions: tuple[tuple[int, float, float, int], ...]
    """Neighbours, harmonic mean, unbiased, points."""
    left_out: tuple[tuple[str, str, str], ...]
    """What, which image, why."""
    more_left_out: int
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One quantity over the thresholds, as coordinates."""

    title: str
    points: str
    dots: tuple[tuple[str, str, str], ...]
    """x, y and what the dot says."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    limit: str
    summary: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def render_contact_sheet(sheet: ContactSheet) -> str:
    """The page; the same sheet gives the same bytes. It shows probe images: it belongs beside them, nowhere else."""
    css = template("report.css") + template("contact_sheet.css")
    digest = base64.b64encode(hashlib.sha256(css.encode("utf-8")).digest()).decode("ascii")
    page = environment().get_template("contact_sheet.html.j2")
    charts = [
        _chart("Clusters", sheet, [row.clusters for row in sheet.curve]),
        _chart("Images in a cluster", sheet, [row.images for row in sheet.curve]),
    ]
    # `css` is this package's own files; everything else is escaped.
    return page.render(sheet=sheet, charts=charts, css=Markup(css), css_digest=digest)  # noqa: S704


def _chart(title: str, sheet: ContactSheet, values: Sequence[int]) -> Chart:
    thresholds = [row.threshold for row in sheet.curve]
    left, right = (_LEFT, WIDTH - _RIGHT) if sheet.looser == "higher" else (WIDTH - _RIGHT, _LEFT)
    across = Scale(min(thresholds), max(thresholds), left, right)
    upwards = scale_for([0, *values, 1], HEIGHT - _BOTTOM, _TOP)
    spots = [
        (f"{across.at(threshold):.1f}", f"{upwards.at(value):.1f}", f"{value:,} at {threshold:.3g}")
        for threshold, value in zip(thresholds, values, strict=True)
    ]
    chosen = next(row.threshold for row in sheet.curve if row.chosen)
    return Chart(
        title=title,
        points=" ".join(f"{x},{y}" for x, y, _ in spots),
        dots=tuple(spots),
        x_ticks=across.ticks(),
        y_ticks=upwards.ticks(),
        limit=f"{across.at(chosen):.1f}",
        summary=f"{title} by threshold: {', '.join(text for _, _, text in spots)}",
    )
