"""The demands on an attestation before a model is served or promoted: conditions, and revocations."""

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from pydantic import TypeAdapter, model_validator

from invmm_gate.attest.field_types import Hex, Line
from invmm_gate.attest.keys import TrustRoots, load_roots
from invmm_gate.core.errors import ConfigError
from invmm_gate.core.options import Conditions
from invmm_gate.core.records import Weights
from invmm_gate.files.strict_model import StrictModel, parse
from invmm_gate.files.yaml_lines import load_document
from invmm_gate.policy.schema import load_policy


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """The demands of a deployer. A choice that is left out demands nothing; the first two have no default."""

    roots: TrustRoots
    policies: Mapping[str, str]
    """The accepted policies: digest -> name. None accepted = nothing passes."""
    weights: Weights | None = None
    allow_waivers: bool = True
    reviewers: TrustRoots | None = None
    """Who may have approved the waivers that were used; None = whoever the gate that signed accepted."""
    revoked: Revocations = field(default_factory=Revocations)
    probe_set_digest: str | None = None
    """The only accepted probe set; None = any."""
    min_probes: int = 1
    image_size: tuple[int, int] | None = None
    """The only (height, width) at which the model is served; None = any."""
    allow_chosen_seed: bool = True
    max_attempts: int | None = None
    """Most different results of the model in the audit log, up to this one; an attestation without a log has none."""
    environment: str | None = None
    """The only environment that may have measured; None = any."""
    max_age: datetime.timedelta | None = None
    min_sequence: int = 1


def demands_of(
    conditions: Conditions,
    *,
    roots: TrustRoots,
    policies: Mapping[str, str],
    weights: Weights | None = None,
    min_sequence: int = 1,
) -> Demands:
    """The conditions with their files as they are now. Raises ConfigError for what cannot be read."""
    if conditions.probe_set_digest is not None:
        require_digest(conditions.probe_set_digest)
    if conditions.environment is not None:
        require_digest(conditions.environment, "--environment")
    size, days = conditions.image_size, conditions.max_age
    return Demands(
        roots=roots,
        policies=policies,
        weights=weights,
        allow_waivers=not conditions.refuse_waivers,
        image_size=None if size is None else parse_image_size(size),
        reviewers=None if conditions.reviewers is None else load_roots(conditions.reviewers),
        revoked=revocations_of(conditions),
        probe_set_digest=conditions.probe_set_digest,
        min_probes=conditions.min_probes,
        allow_chosen_seed=not conditions.refuse_chosen_seed,
        max_attempts=conditions.max_attempts,
        environment=conditions.environment,
        max_age=None if days is None else datetime.timedelta(days=days),
        min_sequence=min_sequence,
    )


def demands_named(
    conditions: Conditions,
    *,
    policies: Iterable[str],
    roots: Path,
    weights: Weights | None = None,
    min_sequence: int = 1,
) -> Demands:
    """The demands, with policies by name or file, and a file of roots. Raises ConfigError."""
    return demands_of(
        conditions,
        roots=load_roots(roots),
        policies={load_policy(name).digest: name for name in policies},
        weights=weights,
        min_sequence=min_sequence,
    )


def revocations_of(conditions: Conditions) -> Revocations:
    """The verdicts and keys that are revoked now. Raises ConfigError."""
    return Revocations() if conditions.revoked is None else load_revocations(conditions.revoked)


def require_digest(digest: str, option: str = "--probe-set-digest") -> None:
    """Raise ConfigError for what can be no digest."""
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError(f"{option} {digest!r}", expected="64 hexadecimal digits, in lower case")


def parse_image_size(text: str, option: str = "--image-size") -> tuple[int, int]:
    """(height, width) in pixels of `512` or `512x768`. Raises ConfigError for what can be no size."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,5}))?", text)
    if match is None:
        raise ConfigError(f"{option} {text[:40]!a}", expected="HEIGHTxWIDTH in pixels, as 512x768, or one side")
    return int(match[1]), int(match[2] or match[1])
