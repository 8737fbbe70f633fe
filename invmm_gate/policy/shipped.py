"""The only place that knows where the shipped policies and the verdict's JSON Schema lie."""

import importlib.resources
import json
from pathlib import Path
from typing import Any, Final

from invmm_gate.core.errors import ConfigError

_SUFFIX: Final = ".yaml"


def policies_folder() -> Path:
    """`_data/policies` in an installed wheel, the repository's `policies` in a source checkout."""
    package = Path(str(importlib.resources.files("invmm_gate")))
    installed = package / "_data" / "policies"
    folder = installed if installed.is_dir() else package.parent / "policies"
    if not folder.is_dir():
        raise ConfigError(f"{folder}: the shipped policies are missing", do="install invmm-gate again")
    return folder


def shipped_policies() -> dict[str, Path]:
    """Name and file of each shipped policy, sorted by name."""
    return {path.stem: path for path in sorted(policies_folder().glob(f"*{_SUFFIX}"))}


def verdict_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of verdict.json."""
    text = importlib.resources.files("invmm_gate.policy").joinpath("verdict.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
