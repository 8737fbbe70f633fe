"""Sends a judged run to the registry: the MLflow run, the version's tags, and the promotion of a version that passed.

Every step finds out whether it was done before, so that a delivery can be repeated from anywhere.
"""

import datetime
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from invmm_gate.attest.demands import demands_of
from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.attest.keys import load_roots
from invmm_gate.attest.statement import SUMMARY
from invmm_gate.core.errors import GateError, PublishError, RegistryError
from invmm_gate.core.progress import Progress, Silent
from invmm_gate.policy.schema import load_policy
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.client.names import (
    ERROR,
    REASON,
    RUN,
    STATE,
    VERDICT_TAGS,
    is_release,
    log_entry_tags,
    release_name,
    version_label,
)
from invmm_gate.registry.promote.evidence import Evidence, evidence_for, state_of, verdict_tags
from invmm_gate.registry.promote.outbox import Outbox, Parcel
from invmm_gate.registry.promote.promotion import Promoted, Promotion, promote
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stage_files import VERDICT
from invmm_gate.stages.public_edition import PUBLIC_REPORT
from invmm_gate.stages.report import publish_run, to_publish
from invmm_gate.tracking.contents import publication_key


class VersionGoneError(RegistryError):
    """A version that was deleted while it was gated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The result of sending a parcel."""

    run_id: str
    promoted: Promoted | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """The result of emptying an outbox."""

    sent: tuple[str, ...]
    """`name/version` of what was sent."""
    waiting: int
    errors: tuple[str, ...]
    """One line for each parcel that could not be sent."""


def drain(
    outbox: Outbox,
    registry: Registry,
    *,
    ours: Callable[[Parcel], Parcel],
    now: datetime.datetime,
    progress: Progress | None = None,
) -> Drained:
    """Send all that waits, oldest first; a registry that is down ends it, anything else leaves that parcel waiting.

    `ours` puts a parcel under the keys and the policy of whoever sends it (`measured.as_ours`): those that it names
    were put there by whoever could write the outbox, and may be out of date. A parcel whose version was deleted is
    dropped. Raises RegistryError if another process is at it.
    """
    told = progress or Silent()
    sent: list[str] = []
    errors: list[str] = []
    with outbox.locked():
        for parcel in outbox.parcels():
            try:
                deliver(ours(parcel), registry, now=now, scratch=outbox.folder)
                sent.append(f"{parcel.name}/{parcel.version}")
            except GateError as error:
                errors.append(f"{parcel.name}/{parcel.version}: {error}")
                if not isinstance(error, VersionGoneError):
                    outbox.failed(parcel, str(error))
                    if isinstance(error, RegistryDownError):
                        break
                    continue
            outbox.remove(parcel)
            told.note(f"sent the verdict on {parcel.name}/{parcel.version}")
    return Drained(sent=tuple(sent), waiting=len(outbox.parcels()), errors=tuple(errors))


def deliver(
    parcel: Parcel, registry: Registry, *, now: datetime.datetime, scratch: Path, checkpoint: Path | None = None
) -> Delivered:
    """Publish, tag and promote. `checkpoint` are the version's files where they are still at hand.

    Raises RegistryDownError if it should be tried later, RegistryError or VerificationError if that is no use.
    """
    registry.require_answer()
    record = registry.version(parcel.name, parcel.version)
    if record is None:
        raise VersionGoneError(
            f"version {parcel.version} of {parcel.name} was deleted while it was gated",
            expected="a version that stays until it has a verdict",
            do=f"its report is in {parcel.run}",
        )
    run_id = _published(parcel, registry)
    if parcel.roots is None:
        _tag_unsigned(registry, record, run_id)
        return Delivered(run_id=run_id, promoted=None)
    with tempfile.TemporaryDirectory(prefix=".version-", dir=scratch) as folder:
        files = checkpoint or registry.download(record, Path(folder) / "files")
        envelope = parcel.proofs.get(ATTESTATION, "").encode()
        evidence = evidence_for(files, envelope, load_roots(Path(parcel.roots)), now=now, weights=parcel.weights)
        place = _prove(registry, run_id, parcel, evidence, Path(folder))
        logged = log_entry_tags(envelope, parcel.log_entry)
        registry.set_tags(record.name, record.version, {RUN: place} | logged)
        promoted = settle(registry, record, evidence, promotion_of(parcel, place, Path(folder)), now=now)
    return Delivered(run_id=run_id, promoted=promoted)


def promotion_of(parcel: Parcel, place: str, scratch: Path) -> Promotion | None:
    """Where the parcel's version goes if it passed; None where nothing is to be promoted."""
    if parcel.roots is None or not parcel.alias:
        return None
    return Promotion(
        release_name=release_name(parcel.name, parcel.release_name),
        alias=parcel.alias,
        place=place,
        log_entry=parcel.log_entry,
        demands=demands_of(
            parcel.conditions,
            roots=load_roots(Path(parcel.roots)),
            policies={load_policy(parcel.policy).digest: parcel.policy},
            weights=parcel.weights,
        ),
        scratch=scratch,
    )


def settle(
    registry: Registry, record: VersionRecord, evidence: Evidence, terms: Promotion | None, *, now: datetime.datetime
) -> Promoted | None:
    """Tag the version with what its attestation says, and promote it if that is a pass."""
    said = evidence.statement
    state = state_of(said.decision)
    registry.set_tags(record.name, record.version, verdict_tags(said) | {STATE: state})
    if REASON in record.tags:
        registry.delete_tag(record.name, record.version, REASON)
    if terms is None or state != "pass" or is_release(record.name, terms.release_name):
        return None
    return promote(registry, record, evidence, terms, now=now)


def _tag_unsigned(registry: Registry, record: VersionRecord, run_id: str) -> None:
    """Nothing that only an attestation may say, and nothing that an earlier one said."""
    reason = "the verdict is not signed, so it promotes nothing; give the gate a key"
    registry.set_tags(record.name, record.version, {RUN: run_id, REASON: reason, STATE: ERROR})
    for key in sorted(VERDICT_TAGS & record.tags.keys()):
        try:
            registry.delete_tag(record.name, record.version, key)
        except RegistryDownError:
            raise
        except RegistryError:  # a guard keeps what was attested; REASON tells the reader
            return


def _published(parcel: Parcel, registry: Registry) -> str:
    """The id of the MLflow run that holds report, verdict and attestation."""
    folder = RunFolder(Path(parcel.run))
    sent = to_publish(folder, details=parcel.details)
    try:
        publish_run(folder, registry.uri, details=parcel.details)
    except PublishError as error:
        raise RegistryDownError(error.found, expected=error.expected, do=error.do) from error
    return registry.uploads.run_of(publication_key(sent))


def _prove(registry: Registry, run_id: str, parcel: Parcel, evidence: Evidence, scratch: Path) -> str:
    """The signed files in a folder of the version's own: versions with the same files share the gate's run."""
    folder = version_label(parcel.name, parcel.version)
    report = parcel.proofs.get(PUBLIC_REPORT, "")
    if sha256(report.encode()).hexdigest() != evidence.statement.report_digest:
        raise RegistryError(
            f"what waits for {parcel.name}/{parcel.version} holds another report than the one that was signed",
            expected="the outbox as the gate wrote it",
            do="gate the version again",
        )
    for name in (PUBLIC_REPORT, VERDICT, ATTESTATION, SUMMARY):
        if name in parcel.proofs:
            (scratch / name).write_text(parcel.proofs[name], encoding="utf-8")
            registry.uploads.add_file(run_id, scratch / name, folder)
    return f"{run_id}/{folder}"
