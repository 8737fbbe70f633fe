"""Promotion: the verified bytes are logged again, under the gate's own run, and only then an alias points at them.

A registered version's files can be changed after it was judged, tags are copied with a version, and whoever may edit a
model may move its aliases. So what was judged is never pointed at: what is released is a copy that the gate made of the
very bytes whose digest the attestation names, with the attestation beside it.
"""

import datetime
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import final

from invmm_gate.attest.audit_log import is_head
from invmm_gate.attest.demands import Demands
from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.attest.verification import check_statement
from invmm_gate.core.errors import RegistryError, VerificationError
from invmm_gate.core.options import GateChoices
from invmm_gate.registry.client import registry_names as names
from invmm_gate.registry.client.artefacts import CHECKPOINT, scratch_in
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.promote.attested_files import (
    Evidence,
    envelopes,
    evidence_that_promotes,
    state_of,
    verdict_tags,
)
from invmm_gate.registry.promote.choices import demands_under, log_of, trusted_roots
from invmm_gate.stages.audit_file import logged_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """The promotion of a version that passed."""

    version: VersionRecord
    """The version of the release model."""
    overtaken_by: str = ""
    """`name/version` of the later candidate that the chosen alias stays with; empty if the alias moved."""


def settle(
    registry: Registry, record: VersionRecord, evidence: Evidence, choices: GateChoices, *, now: datetime.datetime
) -> Promoted | None:
    """Tag the version with what its attestation says, and promote it if that is a pass; its tag RUN says where it lies.

    The caller holds the outbox, so that of two workers on this machine the older version cannot come last. Raises
    VerificationError unless the evidence is a pass that holds now, and RegistryError if the copy does not read back as
    sent or an alias not as set.
    """
    tags = _log_entry(record, evidence.envelope, choices) | verdict_tags(evidence.statement)
    registry.set_tags(record.name, record.version, tags)
    if names.REASON in record.tags:
        registry.delete_tag(record.name, record.version, names.REASON)
    roots = trusted_roots(choices) if choices.alias else None
    passed = state_of(evidence.statement.decision) == "pass"
    if roots is None or not passed or names.is_release(record.name, choices.release_name):
        return None
    demands = demands_under(choices, roots)
    check_statement(evidence.trusted, demands, now)
    with scratch_in(choices.runs) as folder:
        return _Promotion(
            registry=registry,
            candidate=record,
            evidence=evidence,
            release=names.release_name(record.name, choices.release_name),
            tags=tags,
            demands=demands,
            scratch=folder,
            now=now,
        ).under(choices.alias)


def _log_entry(record: VersionRecord, envelope: bytes, choices: GateChoices) -> dict[str, str]:
    """The tag that says where an attestation stands in the audit log: by our own log, else as it is; else none.

    The tag may have been set by hand where no guard stands. Raises ConfigError for a log that cannot be read.
    """
    key = names.log_entry_tag(envelope)
    own = logged_at(log_of(choices), envelope)
    head = str(own) if own else record.tags.get(key, "")
    return {key: head} if is_head(head) else {}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Promotion:
    registry: Registry
    candidate: VersionRecord
    evidence: Evidence
    release: str
    tags: dict[str, str]
    """What candidate and release say of the verdict."""
    demands: Demands
    scratch: Path
    now: datetime.datetime

    def under(self, alias: str) -> Promoted:
        """The released version, with alias `approved-<digest>` and, unless a later version has it, the chosen alias.

        The same bytes are released once, and again if that release no longer holds.
        """
        approved = names.approved_alias(self.evidence.statement.subject_digest)
        released = self.registry.alias(self.release, approved)
        if released is None or not self._holds(released):
            released = self._log_again()
            if not self._holds(released):
                raise RegistryError(
                    f"{released.label} does not read back as it was sent",
                    expected="a store that keeps what it is given",
                    do="find out who changes its files, then gate the version again",
                )
            self.registry.set_alias(self.release, approved, released.version)
        later = self._overtaken_by(alias)
        if not later:
            self.registry.set_tags(released.name, released.version, self._origin)
            self.registry.set_alias(self.release, alias, released.version)
        found = self.registry.version(released.name, released.version)
        return Promoted(version=found or released, overtaken_by=later)

    @property
    def _origin(self) -> dict[str, str]:
        return {names.PROMOTED_FROM: self.candidate.label, names.PROMOTED_CREATED: str(self.candidate.created_at_ms)}

    def _holds(self, record: VersionRecord) -> bool:
        """Whether a released version is still these bytes, with an attestation beside them that is a pass now."""
        artefacts = self.registry.artefacts
        with tempfile.TemporaryDirectory(prefix=".released-", dir=self.scratch) as folder:
            files = Path(folder) / "files"
            try:
                artefacts.download(record.source, files)
                found = envelopes(record.source, {}, artefacts)
                evidence = evidence_that_promotes(files, found, self.demands, now=self.now)
            except RegistryDownError:
                raise
            except (RegistryError, VerificationError):  # files that are gone, are no plain files, or are others
                return False
        return evidence.statement.subject_digest == self.evidence.statement.subject_digest

    def _log_again(self) -> VersionRecord:
        """A version of the release model: exactly the attested files, and the attestation beside them."""
        checkpoint = Path(self.evidence.manifest.path)
        root = checkpoint if checkpoint.is_dir() else checkpoint.parent
        files = {f"{CHECKPOINT}/{file.path}": root / file.path for file in self.evidence.manifest.files}
        attestation = self.scratch / ATTESTATION
        attestation.write_bytes(self.evidence.envelope)
        place = self.candidate.tags.get(names.RUN, "")
        run_id = place.partition("/")[0]
        source = self.registry.uploads.log_model(self.release, files | {ATTESTATION: attestation}, run_id=run_id)
        tags = {names.RUN: place} | self._origin
        released = self.registry.create_version(self.release, source, tags=tags, run_id=run_id)
        self.registry.set_tags(released.name, released.version, self.tags)
        return released

    def _overtaken_by(self, alias: str) -> str:
        """The later version of the same model that the alias is at: an older one sent late must not replace it."""
        holder = self.registry.alias(self.release, alias)
        tags = holder.tags if holder else {}
        name, _, number = tags.get(names.PROMOTED_FROM, "").rpartition("/")
        if name != self.candidate.name or not names.is_version(number):
            return ""
        other = self.registry.version(name, number)
        if other is None or str(other.created_at_ms) != tags.get(names.PROMOTED_CREATED):
            return ""  # a tag set by hand, or a model that was deleted and made again
        return other.label if _age(other) > _age(self.candidate) else ""


def _age(record: VersionRecord) -> tuple[int, int]:
    return record.created_at_ms, int(record.version)
