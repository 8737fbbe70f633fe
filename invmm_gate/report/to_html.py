"""The audit report: one self-contained HTML file without scripts, which opens without this software or a network."""

import base64
import hashlib
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from invmm_gate.errors import GateError
from invmm_gate.records import RunData
from invmm_gate.report import texts
from invmm_gate.report.images import ReportImages
from invmm_gate.report.view import view

_FILTERS = (
    texts.count,
    texts.digest,
    texts.duration,
    texts.interval,
    texts.interval_kind,
    texts.measured_score,
    texts.percent,
    texts.score,
    texts.spread,
)


def render_html(
    data: RunData, *, images: ReportImages | None = None, reveal: bool = False, limit: float | None = None
) -> str:
    """The report as one HTML file; the same records give the same bytes.

    Without `reveal`, no pixel of a probe or of a copy of it is in the file, and no caption, prompt, path or source.
    `limit` is the policy's InvMM threshold, drawn in the overview; without it, the one that the findings name.
    """
    shown = view(data, images=images or ReportImages(), reveal=reveal, limit=limit)
    css = _template("report.css")
    digest = base64.b64encode(hashlib.sha256(css.encode("utf-8")).digest()).decode("ascii")
    page = _environment().get_template("report.html.j2")
    # `css` is this package's own file; everything else is escaped.
    return page.render(view=shown, data=data, css=Markup(css), css_digest=digest)  # noqa: S704


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({function.__name__: function for function in _FILTERS})
    environment.globals["hits"] = texts.hits
    return environment


def _finalize(value: object) -> object:
    """Spells out invisible characters in everything a template prints; its own markup passes."""
    return texts.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _template(name: str) -> str:
    source = _templates().joinpath(name)
    if not source.is_file():
        raise GateError(f"report template {name} is missing", expected=f"it at {source}", do="install invmm-gate again")
    return source.read_text(encoding="utf-8").replace("\r\n", "\n")


def _templates() -> Traversable:
    """The wheel's copy of the templates, or reports/templates of the source checkout."""
    packaged = resources.files("invmm_gate").joinpath("_data", "templates")
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "reports" / "templates"
