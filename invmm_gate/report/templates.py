"""The page templates and what fills them in: escaped text, and images, embedded or kept out of sight."""

import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Final

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
    texts.subject,
    texts.score,
    texts.spread,
)
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEADER: Final = struct.Struct(">8s4x4sII")
"""Signature, length of the first chunk, its type, width, height."""
EMBED_LIMIT: Final = 16 * 2**20
"""Bytes of PNG that one report embeds at most: larger pages do not open everywhere."""
COPIES_SHOWN: Final = 8
PIXELATED_BELOW: Final = 129
"""Images up to this side are enlarged without smoothing."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportImages:
    """PNG files for a report. A generated copy of a private probe is as private as the probe itself."""

    probes: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    """Probe id -> the probe's image. Shown only in a revealed report."""
    copies: Mapping[str, tuple[bytes, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Probe id -> generated images that replicate it. Shown only in a revealed report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One image as the template sees it; `uri` is None for a placeholder."""

    role: str
    size: str
    uri: str | None
    withheld: str
    pixelated: bool


@dataclass(slots=True)
class PictureBook:
    """Turns PNG bytes into pictures, and counts what was embedded against the limit."""

    images: ReportImages
    reveal: bool
    room: int = EMBED_LIMIT

    def of(self, probe: str) -> tuple[Picture, ...]:
        """The probe's own image and the copies of it; a placeholder for the probe where there is none to show."""
        copies = self.images.copies.get(probe, ())[:COPIES_SHOWN]
        own = self._picture("Probe", self.images.probes.get(probe))
        return (own, *(self._picture(f"Generated copy {n}", png) for n, png in enumerate(copies, 1)))

    def _picture(self, role: str, png: bytes | None) -> Picture:
        size = _size(png) if png is not None else None
        withheld = self._withheld(png, size)
        if png is None or withheld:
            return Picture(role=role, size=_words(size), uri=None, withheld=withheld, pixelated=False)
        self.room -= len(png)
        uri = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
        small = size is not None and max(size) < PIXELATED_BELOW
        return Picture(role=role, size=_words(size), uri=uri, withheld="", pixelated=small)

    def _withheld(self, png: bytes | None, size: tuple[int, int] | None) -> str:
        if not self.reveal:
            return "redacted"
        if png is None:
            return "image not found"
        if size is None:
            return "not a PNG file"
        return "left out: the report would grow too large" if len(png) > self.room else ""


def _size(png: bytes) -> tuple[int, int] | None:
    """(width, height) from the header, or None for bytes that are not a PNG file."""
    if len(png) < _HEADER.size:
        return None
    signature, chunk, width, height = _HEADER.unpack_from(png)
    return (width, height) if signature == _SIGNATURE and chunk == b"IHDR" else None


def _words(size: tuple[int, int] | None) -> str:
    return f"{size[0]} × {size[1]} pixels" if size else ""
