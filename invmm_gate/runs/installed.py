"""The installed gate and its packages: the records of a run are bound to them.

Versions are what the packages' own metadata says. That the files are those of the version is the installer's job:
`pip install --require-hashes`, or an image that is named by its digest (docs/security.md).
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.version import __version__

APPROVED: Final = "INVMM_GATE_ENVIRONMENT"
"""The environment variable with the digest of the approved environment."""
_SCORES: Final = (
    "torch", "triton", "diffusers", "transformers", "tokenizers", "sentencepiece", "ftfy", "regex", "huggingface-hub",
    "accelerate", "peft", "xformers", "safetensors", "numpy", "pillow",
)  # fmt: skip
_VERDICTS: Final = (
    "scipy", "pydantic", "pydantic-core", "pyyaml", "pyarrow", "jinja2", "markupsafe", "cryptography", "typer",
)  # fmt: skip
_COMPILED: Final = re.compile(r"((?:nvidia|cuda)_\w+)-[^-]+\.dist-info")
"""CUDA's libraries as torch requires them; their names differ with CUDA's version."""
_VERSION: Final = re.compile(r"^Version: *(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The gate and the versions of the packages that decide a score or a verdict."""

    digest: str
    """sha256 over sorted lines `name NUL version LF`, and the line `code NUL digest LF`."""
    code: str
    """sha256 over the package's own source: records of other code do not mix, whatever its version says."""
    versions: dict[str, str]
    """By name, sorted; the gate is one of them."""


@cache
def installed_environment() -> Environment:
    """The environment of this process."""
    code, versions = _code_digest(), {"invmm-gate": __version__} | installed_versions()
    versions = dict(sorted(versions.items()))
    text = "".join(f"{name}\0{version}\n" for name, version in versions.items()) + f"code\0{code}\n"
    return Environment(digest=sha256(text.encode()).hexdigest(), code=code, versions=versions)


def installed_versions(path: Sequence[str] | None = None) -> dict[str, str]:
    """The versions of the deciding packages that are there, by name; `path` is by default sys.path."""
    path = sys.path if path is None else path
    names = sorted({*_SCORES, *_VERDICTS, *_compiled(path)})
    return {name: version for name in names if (version := _version(name, path)) is not None}


def _version(name: str, path: Sequence[str]) -> str | None:
    found = next(iter(distributions(name=name, path=list(path))), None)
    if found is None:
        return None
    # `found.version` parses all of METADATA, the longest part of which is a README.
    version = _VERSION.search(found.read_text("METADATA") or found.read_text("PKG-INFO") or "")
    return version[1] if version else "unknown"


def _compiled(path: Sequence[str]) -> Iterator[str]:
    for folder in path:
        names = os.listdir(folder or ".") if Path(folder).is_dir() else ()
        yield from (match[1].replace("_", "-") for name in names if (match := _COMPILED.fullmatch(name)))


def require_environment(approved: str | None = None) -> None:
    """Raise ConfigError unless this environment is the approved one, by default that of INVMM_GATE_ENVIRONMENT.

    Where neither names one, any will do; an empty name is none that was approved.
    """
    approved, here = approved_environment() if approved is None else approved, installed_environment().digest
    if approved is not None and approved != here:
        raise ConfigError(
            f"the installed environment is {here}",
            expected=f"the approved one, {approved!a} (--environment or ${APPROVED})",
            do="`invmm-gate environment` shows what is installed",
        )


def require_measured_in(environment: str) -> None:
    """Raise ConfigError unless a run was measured in the environment that INVMM_GATE_ENVIRONMENT names, if it does."""
    approved = approved_environment()
    if approved is not None and environment != approved:
        raise ConfigError(
            f"the run was measured in the environment {environment}",
            expected=f"the approved one, {approved!a} (${APPROVED})",
            do="measure the model again where that is installed",
        )


def approved_environment() -> str | None:
    """The digest in INVMM_GATE_ENVIRONMENT; None where it is not set."""
    return os.environ.get(APPROVED)


def _code_digest() -> str:
    digest = sha256()
    for entry in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(entry.read_bytes())
    return digest.hexdigest()
