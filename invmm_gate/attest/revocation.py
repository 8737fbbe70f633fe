"""Verdicts and keys that no longer count, whatever they say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from pydantic import TypeAdapter, model_validator

from invmm_gate.attest.field_types import Hex, Line
from invmm_gate.files.strict_model import StrictModel, parse
from invmm_gate.files.yaml_lines import load_document


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocations:
    """Reasons by digest."""

    verdicts: Mapping[str, str] = field(default_factory=dict)
    """sha256 of an attestation file -> reason."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Key id -> reason."""


class _Entry(StrictModel):
    verdict: Hex | None = None
    key: Hex | None = None
    reason: Line

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.verdict is None) == (self.key is None):
            raise ValueError("an entry names a verdict (sha256 of the attestation file) or a key (its id), not both")
        return self


_ENTRIES: Final = TypeAdapter(tuple[_Entry, ...])


def load_revocations(path: Path) -> Revocations:
    """Read a YAML list of {verdict or key, reason}. Raises ConfigError with FILE:LINE."""
    entries = parse(_ENTRIES, load_document(path))
    return Revocations(
        verdicts={entry.verdict: entry.reason for entry in entries if entry.verdict is not None},
        keys={entry.key: entry.reason for entry in entries if entry.key is not None},
    )
