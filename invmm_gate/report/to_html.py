"""The audit report: one self-contained HTML file without scripts, which opens without this software or a network."""

import base64
import hashlib

from markupsafe import Markup

from invmm_gate.core.run_records import RunData
from invmm_gate.report.report_images import ReportImages
from invmm_gate.report.templates import environment, template
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
