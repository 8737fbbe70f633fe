"""The page templates and how they are filled in: everything escaped, invisible characters spelled out."""

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from invmm_gate.core.errors import GateError
from invmm_gate.report import texts

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


@cache
def environment() -> Environment:
    """With the filters that all pages use; an unknown name is an error."""
    filled = Environment(
        loader=FunctionLoader(template),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filled.filters.update({function.__name__: function for function in _FILTERS})
    filled.globals["hits"] = texts.hits
    return filled


def _finalize(value: object) -> object:
    """Spells out invisible characters in everything a template prints; its own markup passes."""
    return texts.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def template(name: str) -> str:
    """The text of a template or style sheet. Raises GateError where it is missing."""
    source = _templates().joinpath(name)
    if not source.is_file():
        raise GateError(f"report template {name} is missing", expected=f"it at {source}", do="install invmm-gate again")
    return source.read_text(encoding="utf-8").replace("\r\n", "\n")


def _templates() -> Traversable:
    """The wheel's copy of the templates, or reports/templates of the source checkout."""
    packaged = resources.files("invmm_gate").joinpath("_data", "templates")
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "reports" / "templates"
