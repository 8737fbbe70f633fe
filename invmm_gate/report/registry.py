"""Format name -> the file it makes and the function that renders it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from invmm_gate.records import RunData
from invmm_gate.report.images import ReportImages
from invmm_gate.report.to_html import render_html
from invmm_gate.report.to_markdown import render_summary


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFormat:
    """One rendering of a run. It never changes the verdict."""

    file: str
    """Name in the run folder."""
    render: Callable[[RunData, ReportImages, bool], str]
    """Called with the records, the images and whether to reveal them."""


FORMATS: Final[dict[str, ReportFormat]] = {
    "html": ReportFormat(
        file="report.html", render=lambda data, images, reveal: render_html(data, images=images, reveal=reveal)
    ),
    "markdown": ReportFormat(file="summary.md", render=lambda data, _images, _reveal: render_summary(data)),
}
