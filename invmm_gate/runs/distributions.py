"""The distributions that decide a score or a verdict, by what their RECORD files say. Imports none of them."""

import csv
import os
import re
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import file_digest, sha256
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

NO_RECORD: Final = "no RECORD"
"""There is none, or it does not name the package: one that was installed as editable."""
_SCORES: Final = (
    "torch", "triton", "diffusers", "transformers", "tokenizers", "sentencepiece", "ftfy", "regex", "huggingface-hub",
    "accelerate", "peft", "xformers", "safetensors", "numpy", "pillow",
)  # fmt: skip
_VERDICTS: Final = (
    "scipy", "pydantic", "pydantic-core", "pyyaml", "great-expectations", "pandas", "pyarrow", "jinja2", "markupsafe",
    "cryptography", "typer",
)  # fmt: skip
_IMPORTED: Final = frozenset((*_SCORES, *_VERDICTS))
_MODULES: Final = {"pillow": "PIL", "pyyaml": "yaml"}
"""What is imported of a distribution whose package is not called as it is."""
_COMPILED: Final = re.compile(r"((?:nvidia|cuda)_\w+)-[^-]+\.dist-info")
"""CUDA's libraries as torch requires them; their names differ with CUDA's version."""
_BY_INSTALLER: Final = re.compile(
    r"\.\./(?:.*/)?(?:bin|Scripts)/[^/]+|[^/,]+\.dist-info/(?:INSTALLER|REQUESTED|direct_url\.json|uv_cache\.json),"
)
_HASHES: Final = ("sha256", "sha384", "sha512")
_VERSION: Final = re.compile(r"^Version: *(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One distribution as it is installed."""

    name: str
    version: str
    record: str
    """sha256 of the lines of RECORD that its wheel brought, or NO_RECORD."""
    files: int
    """Files that those lines name."""
    shadowed_by: str = ""
    """The file that Python would import in place of the one that RECORD names; empty where it is that one."""


def installed_distributions(path: Sequence[str] | None = None) -> tuple[Installed, ...]:
    """Those of the deciding distributions that are there, by name; `path` is by default sys.path."""
    path = sys.path if path is None else path
    return tuple(_installed(name, found, path) for name, found in _deciding(path))


def changed_files(path: Sequence[str] | None = None) -> list[str]:
    """Their files that are missing or are no longer as RECORD says, as `name: file`. Reads them all."""
    found = _deciding(sys.path if path is None else path)
    return [f"{name}: {file}" for name, there in found for file in _changed(there)]


def _deciding(path: Sequence[str]) -> Iterator[tuple[str, Distribution]]:
    for name in sorted({*_IMPORTED, *_compiled(path)}):
        found = next(iter(distributions(name=name, path=list(path))), None)
        if found is not None:
            yield name, found


def _compiled(path: Sequence[str]) -> Iterator[str]:
    for folder in path:
        names = os.listdir(folder or ".") if Path(folder).is_dir() else ()
        yield from (match[1].replace("_", "-") for name in names if (match := _COMPILED.fullmatch(name)))


def _installed(name: str, found: Distribution, path: Sequence[str]) -> Installed:
    # `found.version` parses all of METADATA, the longest part of which is a README.
    version = _VERSION.search(found.read_text("METADATA") or found.read_text("PKG-INFO") or "")
    lines = _of_the_wheel((found.read_text("RECORD") or "").splitlines())
    text = "\n".join(lines)
    module = _MODULES.get(name, name.replace("-", "_")) if name in _IMPORTED else ""
    recorded = f"\n{module}/__init__.py," in f"\n{text}" if module else bool(lines)
    return Installed(
        name=name,
        version=version[1] if version else "unknown",
        record=sha256(text.encode()).hexdigest() if recorded else NO_RECORD,
        files=len(lines),
        shadowed_by=_shadow(module, found, path) if module and recorded else "",
    )


def _shadow(module: str, found: Distribution, path: Sequence[str]) -> str:
    spec = PathFinder.find_spec(module, list(path))
    origin = "" if spec is None else spec.origin or ", ".join(spec.submodule_search_locations or ())
    own = str(found.locate_file(f"{module}/__init__.py"))
    return "" if os.path.realpath(origin) == os.path.realpath(own) else origin or "nothing"


def _of_the_wheel(lines: Iterable[str]) -> list[str]:
    """Equal for equal wheels, whoever installed them and where.

    An installer adds its own notes, and scripts that begin with the path of the environment's Python. A line without a
    hash says nothing: RECORD itself, and .pyc files, which hold the time at which their source was written.
    """
    hashed = (line for line in lines if not line.endswith(",,"))
    return sorted(line for line in hashed if not _BY_INSTALLER.match(line))


def _changed(found: Distribution) -> Iterator[str]:
    lines = _of_the_wheel((found.read_text("RECORD") or "").splitlines())
    if not lines:
        yield NO_RECORD
    for row in csv.reader(lines):
        name, claim = (*row, "")[:2]
        algorithm, _, expected = claim.partition("=")
        file = Path(str(found.locate_file(name)))
        if algorithm not in _HASHES or not file.is_file() or _digest(file, algorithm) != expected:
            yield name


def _digest(file: Path, algorithm: str) -> str:
    """As RECORD writes it: base64 for URLs, without padding."""
    with file.open("rb") as content:
        return urlsafe_b64encode(file_digest(content, algorithm).digest()).rstrip(b"=").decode()
