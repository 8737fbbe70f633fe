"""Promotion: the verified bytes are logged again, under the gate's own run, and only then an alias points at them.

A registered version's files can be changed after it was judged, tags are copied with a version, and whoever may edit a
model may move its aliases. So what was judged is never pointed at: what is released is a copy that the gate made of the
very bytes whose digest the attestation names, with the attestation beside it.
"""

import datetime
import tempfile
from dataclasses import dataclass
from pathlib import Path

from invmm_gate.attest.demands import Demands
from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.core.errors import RegistryError, VerificationError
from invmm_gate.registry.client.checkpoint import CHECKPOINT
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.client.names import (
    PROMOTED_CREATED,
    PROMOTED_FROM,
    RUN,
    STATE,
    approved_alias,
    is_version,
    log_entry_tags,
)
from invmm_gate.registry.promote.evidence import (
    Evidence,
    envelopes,
    evidence_that_promotes,
    state_of,
    verdict_tags,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Where a version that passed goes."""

    release_name: str
    alias: str
    place: str
    """The gate's MLflow run, which the copy is logged under, and the folder of the version's proofs in it."""
    log_entry: str
    """Where the verdict stands in the audit log (`Head`); empty where that is not known."""
    demands: Demands
    scratch: Path
    """A folder with room for a copy of the checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """The promotion of a version that passed."""

    version: VersionRecord
    """The version of the release model."""
    overtaken_by: str = ""
    """`name/version` of the later candidate that the chosen alias stays with; empty if the alias moved."""


def promote(
    registry: Registry, candidate: VersionRecord, evidence: Evidence, terms: Promotion, *, now: datetime.datetime
) -> Promoted:
    """The released version, with alias `approved-<digest>` and, unless a later version has it, the chosen alias.

    The same bytes are released once, and again if that release no longer holds. The caller holds the outbox, so that
    of two workers on this machine the older version cannot come last. Raises VerificationError unless the evidence is a
    pass that holds now, and RegistryError if the copy does not read back as sent or an alias not as set.
    """
    evidence.require_pass(terms.demands, now)
    digest = evidence.statement.subject_digest
    released = registry.alias(terms.release_name, approved_alias(digest))
    if released is None or not _holds(registry, released, digest, terms, now=now):
        released = _log_again(registry, candidate, evidence, terms)
        if not _holds(registry, released, digest, terms, now=now):
            raise RegistryError(
                f"{released.label} does not read back as it was sent",
                expected="a store that keeps what it is given",
                do="find out who changes its files, then gate the version again",
            )
        registry.set_alias(terms.release_name, approved_alias(digest), released.version)
    later = _overtaken_by(registry, candidate, terms)
    if not later:
        registry.set_tags(released.name, released.version, _origin(candidate))
        registry.set_alias(terms.release_name, terms.alias, released.version)
    return Promoted(version=registry.version(released.name, released.version) or released, overtaken_by=later)


def _holds(registry: Registry, record: VersionRecord, digest: str, terms: Promotion, *, now: datetime.datetime) -> bool:
    """Whether a released version is still these bytes, with an attestation beside them that is a pass now."""
    with tempfile.TemporaryDirectory(prefix=".released-", dir=terms.scratch) as folder:
        files = Path(folder) / "files"
        try:
            registry.artefacts.download(record.source, files)
            found = envelopes(record.source, {}, registry.artefacts)
            evidence = evidence_that_promotes(files, found, terms.demands, now=now)
        except RegistryDownError:
            raise
        except (RegistryError, VerificationError):  # files that are gone, are no plain files, or are others
            return False
    return evidence.statement.subject_digest == digest


def _log_again(registry: Registry, candidate: VersionRecord, evidence: Evidence, terms: Promotion) -> VersionRecord:
    """A version of the release model: exactly the attested files, and the attestation beside them."""
    checkpoint = Path(evidence.manifest.path)
    root = checkpoint if checkpoint.is_dir() else checkpoint.parent
    run_id = terms.place.partition("/")[0]
    with tempfile.TemporaryDirectory(prefix=".attestation-", dir=terms.scratch) as folder:
        attestation = Path(folder) / ATTESTATION
        attestation.write_bytes(evidence.envelope)
        files = {f"{CHECKPOINT}/{file.path}": root / file.path for file in evidence.manifest.files}
        source = registry.uploads.log_model(terms.release_name, files | {ATTESTATION: attestation}, run_id=run_id)
    tags = {RUN: terms.place} | _origin(candidate)
    released = registry.create_version(terms.release_name, source, tags=tags, run_id=run_id)
    said = evidence.statement
    logged = log_entry_tags(evidence.envelope, terms.log_entry)
    registry.set_tags(released.name, released.version, logged | verdict_tags(said) | {STATE: state_of(said.decision)})
    return released


def _origin(candidate: VersionRecord) -> dict[str, str]:
    return {PROMOTED_FROM: candidate.label, PROMOTED_CREATED: str(candidate.created_at_ms)}


def _overtaken_by(registry: Registry, candidate: VersionRecord, terms: Promotion) -> str:
    """The later version of the same model that the alias is at: an older one that is sent late must not replace it."""
    holder = registry.alias(terms.release_name, terms.alias)
    tags = holder.tags if holder else {}
    name, _, number = tags.get(PROMOTED_FROM, "").rpartition("/")
    if name != candidate.name or not is_version(number):
        return ""
    other = registry.version(name, number)
    if other is None or str(other.created_at_ms) != tags.get(PROMOTED_CREATED):
        return ""  # a tag set by hand, or a model that was deleted and made again
    return other.label if _age(other) > _age(candidate) else ""


def _age(record: VersionRecord) -> tuple[int, int]:
    return record.created_at_ms, int(record.version)
