"""Promotion: the verified bytes are logged again, under the gate's own run, and only then an alias points at them.

A registered version's files can be changed after it was judged, tags are copied with a version, and whoever may edit a
model may move its aliases. So what was judged is never pointed at: what is released is a copy that the gate made of the
very bytes whose digest the attestation names, with the attestation beside it.
"""

import datetime
import tempfile
from dataclasses import dataclass
from pathlib import Path

from invmm_gate.attestation.dsse import ATTESTATION
from invmm_gate.errors import VerificationError
from invmm_gate.registry.artefacts import CHECKPOINT
from invmm_gate.registry.client import Registry, VersionRecord
from invmm_gate.registry.evidence import Demands, Evidence, envelopes, evidence_that_promotes, state_of, verdict_tags
from invmm_gate.registry.names import PROMOTED_FROM, RUN, STATE, approved_alias


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """Where a version that passed goes."""

    release_name: str
    alias: str
    place: str
    """The gate's MLflow run, which the copy is logged under, and the folder of the version's proofs in it."""
    demands: Demands
    scratch: Path
    """A folder with room for a copy of the checkpoint."""


def promote(
    registry: Registry, candidate: VersionRecord, evidence: Evidence, terms: Promotion, *, now: datetime.datetime
) -> VersionRecord:
    """The released version, with alias `approved-<digest>` and, unless a later version has it, the chosen alias.

    The same bytes are released once. Raises VerificationError unless the evidence is a pass that holds now, and
    RegistryError if an alias does not point where it was set to.
    """
    evidence.require_pass(terms.demands, now)
    approved = approved_alias(evidence.statement.subject_digest)
    released = _released(registry, approved, terms, now=now)
    if released is None:
        released = _log_again(registry, candidate, evidence, terms)
        registry.set_alias(terms.release_name, approved, released.version)
    if not _is_overtaken(registry, candidate, terms):
        registry.set_alias(terms.release_name, terms.alias, released.version)
    return registry.version(released.name, released.version) or released


def _released(registry: Registry, approved: str, terms: Promotion, *, now: datetime.datetime) -> VersionRecord | None:
    """The version that these bytes were released as, if its files and its attestation still hold."""
    record = registry.alias(terms.release_name, approved)
    if record is None:
        return None
    with tempfile.TemporaryDirectory(prefix=".released-", dir=terms.scratch) as folder:
        files = registry.artefacts.download(record.source, Path(folder) / "files")
        try:
            found = envelopes(record.source, {}, registry.artefacts)
            evidence = evidence_that_promotes(files, found, terms.demands, now=now)
        except VerificationError:
            return None
    return record if approved == approved_alias(evidence.statement.subject_digest) else None


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
    tags = {RUN: terms.place, PROMOTED_FROM: candidate.label}
    released = registry.create_version(terms.release_name, source, tags=tags, run_id=run_id)
    said = evidence.statement
    registry.set_tags(released.name, released.version, verdict_tags(said) | {STATE: state_of(said.decision)})
    return released


def _is_overtaken(registry: Registry, candidate: VersionRecord, terms: Promotion) -> bool:
    """Whether the alias is at a later version of the same model: an older one that is sent late must not replace it."""
    holder = registry.alias(terms.release_name, terms.alias)
    name, _, number = holder.tags.get(PROMOTED_FROM, "").rpartition("/") if holder else ("", "", "")
    return name == candidate.name and number.isdecimal() and int(number) > int(candidate.version)
