"""Attested files: an attestation whose signature holds, and whose subject is the bytes as they are now.

Tags, aliases and sources are pointers at most: who can write them could point at anything, and then nothing verifies.
"""

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from invmm_gate.attest.demands import Demands, Revocations
from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.attest.keys import TrustRoots
from invmm_gate.attest.statement import Statement
from invmm_gate.attest.verification import Trusted, check_passed, check_revocation, check_statement, open_statement
from invmm_gate.core.errors import ModelError, RegistryError, VerificationError
from invmm_gate.core.records import ModelManifest, Weights
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.registry.client import registry_names as names
from invmm_gate.registry.client.artefacts import Artefacts, checkpoint_in
from invmm_gate.registry.client.connection import RegistryDownError

Accept = Callable[[bytes, Demands, datetime.datetime], Trusted]
"""What an attestation says, if that was demanded at that time. Raises VerificationError."""
Taken = TypeVar("Taken")
Inspect = Callable[..., ModelManifest]
"""How the files of a checkpoint are hashed: takes and raises what `inspect_checkpoint` does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """An attestation that holds for a checkpoint's bytes, whatever it decides."""

    envelope: bytes
    trusted: Trusted
    manifest: ModelManifest
    """The files that it holds for."""

    @property
    def statement(self) -> Statement:
        """The statement that was signed."""
        return self.trusted.statement


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedFiles:
    """The files that somebody gets who loads a version, hashed once for any number of attestations."""

    manifest: ModelManifest | ModelError
    """The manifest of the checkpoint, or the error for files that are no checkpoint, or not only one."""

    def require(self, said: Statement) -> ModelManifest:
        """The manifest, if these are the attested files and no weights were left out. Raises VerificationError."""
        manifest = _require_subject(self.manifest, said)
        if manifest.left_out:
            raise VerificationError(
                f"{len(manifest.left_out)} files were left out of the verdict, {manifest.left_out[0]!a} among them",
                expected="the attested files alone, as whoever loads the version gets all of them",
                do="promote what `invmm-gate register` released",
            )
        return manifest


def hashed(files: Path, weights: Weights | None) -> HashedFiles:
    """The folder of all that a version's source holds."""
    try:
        return HashedFiles(manifest=inspect_checkpoint(checkpoint_in(files), weights=weights))
    except ModelError as error:
        return HashedFiles(manifest=error.with_traceback(None))


def _require_subject(found: ModelManifest | ModelError, said: Statement) -> ModelManifest:
    if isinstance(found, ModelError):
        raise VerificationError(f"subject: {found.found}", expected=found.expected, do=found.do)
    if found.digest != said.subject_digest:
        raise VerificationError(
            f"subject digest: the files give {found.digest}",
            expected=f"{said.subject_digest}, the attested model",
            do="gate these files",
        )
    return found


def verdict_tags(statement: Statement) -> dict[str, str]:
    """The tags that a statement entitles a version to."""
    return {
        names.VERDICT: statement.decision,
        names.MODEL_DIGEST: statement.subject_digest,
        names.REPORT_DIGEST: statement.report_digest,
        names.POLICY_DIGEST: statement.policy_digest,
        names.PROBE_SET_DIGEST: statement.probe_set_digest,
        names.STATE: state_of(statement.decision),
    }


def state_of(decision: str) -> str:
    """The value of tag STATE for a decision: a pass with waivers is a pass."""
    return "pass" if decision == "pass_with_waiver" else decision


def evidence_for(
    checkpoint: Path,
    envelope: bytes,
    roots: TrustRoots,
    *,
    now: datetime.datetime,
    weights: Weights | Literal["attested"] | None = None,
    inspect: Inspect = inspect_checkpoint,
) -> Evidence:
    """The attestation, if a trusted key signed it for exactly these files. Raises VerificationError.

    `weights` are those that count where there are raw and EMA weights. Without it all files must be attested;
    `attested` lets those lie there that the statement itself says were left out.
    """
    trusted = open_statement(envelope, roots, now=now)
    said = trusted.statement
    if weights == "attested":
        weights = said.weights if said.left_out else None
    found: ModelManifest | ModelError
    try:
        found = inspect(checkpoint, weights=weights)
    except ModelError as error:
        found = error
    return Evidence(envelope=envelope, trusted=trusted, manifest=_require_subject(found, said))


def evidence_that_promotes(
    files: Path, found: Iterable[bytes], demands: Demands, *, now: datetime.datetime
) -> Evidence:
    """The first attestation that is a pass as demanded, of files beside which nothing else lies that could be loaded.

    `files` is the folder of all that a version's source holds: it is what a consumer of the version loads. Raises the
    VerificationError of the last attestation; the files are hashed only if one of them could do.
    """
    return evidence_among(accepted(found, passing, demands, now), hashed(files, demands.weights))


def passing(envelope: bytes, demands: Demands, now: datetime.datetime) -> Trusted:
    """A pass as demanded that holds now."""
    trusted = open_statement(envelope, demands.roots, now=now)
    check_statement(trusted, demands, now)
    return trusted


def once_passed(envelope: bytes, demands: Demands, then: datetime.datetime) -> Trusted:
    """A pass by a key that was trusted at that time and is not revoked, whether or not it still counts."""
    trusted = open_statement(envelope, demands.roots, now=then)
    check_passed(trusted.statement)
    check_revocation(trusted, Revocations(keys=demands.revoked.keys))
    return trusted


def passed_then(envelope: bytes, demands: Demands, then: datetime.datetime) -> Trusted:
    """What met all demands when it was signed but that of the policy, which may be an earlier one."""
    trusted = open_statement(envelope, demands.roots, now=then)
    said = trusted.statement
    whatever = replace(demands, max_age=None, policies={said.policy_digest: said.policy_name})
    check_statement(trusted, whatever, said.issued_at)
    return trusted


def accepted(found: Iterable[bytes], accept: Accept, demands: Demands, when: datetime.datetime) -> dict[bytes, Trusted]:
    """The attestations that could do. Raises the VerificationError of the last one if there are none."""
    candidates, wrong = {}, no_evidence()
    for envelope in found:
        try:
            candidates[envelope] = accept(envelope, demands, when)
        except VerificationError as error:
            wrong = error
    if not candidates:
        raise wrong
    return candidates


def evidence_among(candidates: Mapping[bytes, Trusted], files: HashedFiles) -> Evidence:
    """The first attestation of exactly these files. Raises the VerificationError of the last one."""

    def of_these(envelope: bytes) -> Evidence:
        trusted = candidates[envelope]
        return Evidence(envelope=envelope, trusted=trusted, manifest=files.require(trusted.statement))

    return first_that_does(candidates, of_these)


def first_that_does(found: Iterable[bytes], take: Callable[[bytes], Taken]) -> Taken:
    """What `take` makes of the first attestation that it takes. Raises the VerificationError of the last one."""
    wrong = no_evidence()
    for envelope in found:
        try:
            return take(envelope)
        except VerificationError as error:
            wrong = error
    raise wrong


def envelopes(source: str, tags: Mapping[str, str], artefacts: Artefacts) -> Iterator[bytes]:
    """The attestations that may belong to a version: that beside its checkpoint, then that of the gate's run."""
    beside = artefacts.read(source, ATTESTATION)
    if beside is not None:
        yield beside
    named = _read_named(tags[names.RUN], artefacts) if tags.get(names.RUN) else None
    if named is not None:
        yield named


def _read_named(run: str, artefacts: Artefacts) -> bytes | None:
    """Anybody can write the tag: one that leads nowhere is none."""
    try:
        return artefacts.read(f"runs:/{run}", ATTESTATION)
    except RegistryDownError:
        raise
    except RegistryError:
        return None


def no_evidence() -> VerificationError:
    """The error for a version that nothing was ever attested of."""
    return VerificationError(
        "there is no attestation for this version",
        expected="a version that the gate has judged",
        do="gate it: `invmm-gate registry gate NAME VERSION`",
    )
