"""Format name -> the file it makes and the function that renders it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from invmm_gate.core.run_records import RunData
from invmm_gate.report.report_images import ReportImages
from invmm_gate.report.scores import render_csv, render_parquet
from invmm_gate.report.to_html import render_html
from invmm_gate.report.to_junit import render_junit
from invmm_gate.report.to_markdown import render_summary
from invmm_gate.report.to_sarif import render_sarif


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
