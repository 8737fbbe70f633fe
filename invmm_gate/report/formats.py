"""The formats of a report: each with the file that it makes and the function that renders it."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from invmm_gate.core.run_records import RunData
from invmm_gate.report.scores import render_csv, render_parquet
from invmm_gate.report.templates import ReportImages, environment, template
from invmm_gate.report.to_junit import render_junit
from invmm_gate.report.to_markdown import render_summary
from invmm_gate.report.to_sarif import render_sarif
from invmm_gate.report.view import view


def render_html(
    data: RunData, *, images: ReportImages | None = None, reveal: bool = False, limit: float | None = None
) -> str:
    """The report as one HTML file; the same records give the same bytes.

    Without `reveal`, no pixel of a probe or of a copy of it is in the file, and no caption, prompt, path or source.
    `limit` is the policy's InvMM threshold, drawn in the overview; without it, the one that the findings name.
    """
    shown = view(data, images=images or ReportImages(), reveal=reveal, limit=limit)
    css = template("report.css")
    digest = base64.b64encode(hashlib.sha256(css.encode("utf-8")).digest()).decode("ascii")
    page = environment().get_template("report.html.j2")
    # `css` is this package's own file; everything else is escaped.
    return page.render(view=shown, data=data, css=Markup(css), css_digest=digest)  # noqa: S704


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFormat:
    """One rendering of a run. It never changes the verdict."""

    file: str
    """Name in the run folder."""
    render: Callable[[RunData, ReportImages, bool], str | bytes | None]
    """Called with the records, the images and whether to reveal them; None where its package is not installed."""
    needs: str = ""
    """The extra of invmm-gate without which it is left out."""


def _redacted(file: str, render: Callable[[RunData], str | bytes | None], *, needs: str = "") -> ReportFormat:
    """A format that never shows anything private."""
    return ReportFormat(file=file, render=lambda data, _images, _reveal: render(data), needs=needs)


FORMATS: Final[dict[str, ReportFormat]] = {
    "html": ReportFormat(
        file="report.html", render=lambda data, images, reveal: render_html(data, images=images, reveal=reveal)
    ),
    "markdown": _redacted("summary.md", render_summary),
    "sarif": _redacted("results.sarif", render_sarif),
    "junit": _redacted("junit.xml", render_junit),
    "csv": _redacted("scores.csv", render_csv),
    "parquet": _redacted("scores.parquet", render_parquet, needs="parquet"),
}
