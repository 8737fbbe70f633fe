"""Which gate is installed: what a run's records are bound to, and what a pipeline waits for."""

from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from invmm_gate import __version__

_LIBRARIES: Final = ("torch", "diffusers", "transformers", "tokenizers", "peft", "safetensors", "numpy", "pillow")


def installed_gate() -> dict[str, object]:
    """The digest of the gate's code, and the versions of the gate and of the libraries that scores depend on."""
    return {
        "code": _code_digest(),
        "versions": {"invmm-gate": __version__} | {name: _version(name) for name in _LIBRARIES},
    }


def _code_digest() -> str:
    """sha256 over the package's own source: records of other code do not mix, whatever its version says."""
    digest = sha256()
    for entry in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(entry.read_bytes())
    return digest.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
