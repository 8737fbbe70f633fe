"""The outbox: verdicts that wait to be sent, one file each, in a folder that outlives the process; and their sending.

A delivery logs the MLflow run, tags the version, and promotes one that passed. Each of its steps finds out whether it
was done before, so that a delivery can be repeated from anywhere.
"""

import datetime
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, final

from filelock import FileLock, Timeout

from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.attest.statement import SUMMARY
from invmm_gate.core.errors import GateError, PublishError, RegistryError, RunFolderError
from invmm_gate.core.options import GateChoices
from invmm_gate.files.regular import read_records, remove_leftovers, write_whole
from invmm_gate.files.strict_json import from_json, to_json
from invmm_gate.registry.client import registry_names as names
from invmm_gate.registry.client.artefacts import scratch_in
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.promote.attested_files import Evidence, evidence_for
from invmm_gate.registry.promote.choices import trusted_roots
from invmm_gate.registry.promote.promotion import Promoted, settle
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stage_files import VERDICT
from invmm_gate.stages.public_edition import PUBLIC_REPORT
from invmm_gate.stages.report import publish_run, to_publish
from invmm_gate.tracking.contents import publication_key

_SUFFIX: Final = ".json"
_LOCK: Final = ".lock"
_PARCEL_BYTES: Final = 256_000_000
"""Bytes of a file that this tool wrote: an attestation and its proofs."""


class OutboxBusyError(RegistryError):
    """Another process sends what is in the outbox."""


class VersionGoneError(RegistryError):
    """A version that was deleted while it was gated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """The verdict on a version. It names no key, policy or alias: it is sent under the choices of whoever sends it."""

    name: str
    version: str
    run: str
    """Run folder, by its full path."""
    digest: str
    """sha256 over the version and its signed verdict: one of them is sent once, however often it is asked for."""
    signed: bool
    """Without a signature nothing is promoted."""
    proofs: dict[str, str] = field(default_factory=dict)
    """File -> text of what was signed of the version, as it was then: another version of the same files is judged and
    signed in the same run folder."""
    created_at: str = ""

    @property
    def label(self) -> str:
        """`name/version`."""
        return f"{self.name}/{self.version}"


def parcel_digest(name: str, version: str, verdict: bytes) -> str:
    """The digest of a parcel; `verdict` is the attestation, or verdict.json where there is none."""
    return hashlib.sha256(f"{name}\n{version}\n".encode() + verdict).hexdigest()


@final
@dataclass(frozen=True, slots=True)
class Outbox:
    """A folder of parcels. Every file is there as a whole or not at all."""

    folder: Path

    def supersede(self, parcel: Parcel) -> None:
        """Keep the parcel in place of all others of its version: the last verdict is the one that counts."""
        self.add(parcel)
        for other in self.waiting_for(parcel.name, parcel.version):
            if other.digest != parcel.digest:
                self.remove(other)

    def add(self, parcel: Parcel) -> None:
        """Keep the parcel until it is removed; one with its digest is replaced."""
        write_whole(self._file(parcel), to_json(parcel, indent=2) + "\n")

    def remove(self, parcel: Parcel) -> None:
        """Forget a parcel that was sent."""
        self._file(parcel).unlink(missing_ok=True)

    def parcels(self) -> tuple[Parcel, ...]:
        """All parcels, oldest first. Raises RegistryError for a file that is none."""
        return self._read_all("*")

    def waiting_for(self, name: str, version: str) -> tuple[Parcel, ...]:
        """The parcels of one version; whatever lies there for others is not read."""
        return self._read_all(f"{names.version_label(name, version)}.{'[0-9a-f]' * 64}")

    @contextmanager
    def locked(self, *, wait: float = 0) -> Iterator[None]:
        """Hold the outbox: one sender at a time. Raises RegistryError if another process still does after `wait` s."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with FileLock(self.folder / _LOCK, timeout=wait):
                remove_leftovers(self.folder)
                yield
        except Timeout as error:
            raise OutboxBusyError(f"{self.folder} is being emptied by another process", do="wait for it") from error

    def _read_all(self, stem: str) -> tuple[Parcel, ...]:
        found = map(_read, sorted(self.folder.glob(f"{stem}{_SUFFIX}")))
        return tuple(sorted(found, key=lambda parcel: (parcel.created_at, parcel.digest)))

    def _file(self, parcel: Parcel) -> Path:
        return self.folder / f"{names.version_label(parcel.name, parcel.version)}.{parcel.digest}{_SUFFIX}"


def _read(path: Path) -> Parcel:
    try:
        return from_json(Parcel, read_records(path, limit=_PARCEL_BYTES), where=str(path))
    except (OSError, RunFolderError) as error:
        raise RegistryError(
            f"{path} is no parcel of the outbox",
            expected="a file as the gate wrote it",
            do="remove it and gate the version again",
        ) from error


def outbox_of(choices: GateChoices) -> Outbox:
    """The outbox: verdicts that could not be sent yet."""
    return Outbox(choices.runs.parent / "outbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """The result of emptying an outbox."""

    sent: tuple[str, ...]
    """`name/version` of what was sent."""
    waiting: int
    errors: tuple[str, ...]
    """One line for each parcel that could not be sent."""


def drain(choices: GateChoices, registry: Registry, *, now: datetime.datetime) -> Drained:
    """Send all that waits, oldest first; a registry that is down ends it, anything else leaves that parcel waiting.

    A parcel whose version was deleted is dropped. Raises RegistryError if another process is at it.
    """
    outbox = outbox_of(choices)
    sent: list[str] = []
    errors: list[str] = []
    with outbox.locked():
        for parcel in outbox.parcels():
            try:
                deliver(parcel, registry, choices, now=now)
                sent.append(parcel.label)
            except GateError as error:
                errors.append(f"{parcel.label}: {error}")
                if isinstance(error, RegistryDownError):
                    break
                if not isinstance(error, VersionGoneError):
                    continue
            outbox.remove(parcel)
    return Drained(sent=tuple(sent), waiting=len(outbox.parcels()), errors=tuple(errors))


def deliver(
    parcel: Parcel, registry: Registry, choices: GateChoices, *, now: datetime.datetime, checkpoint: Path | None = None
) -> Promoted | None:
    """Publish, tag and promote. `checkpoint` are the version's files where they are still at hand.

    Raises RegistryDownError if it should be tried later, RegistryError or VerificationError if that is no use.
    """
    roots = trusted_roots(choices) if parcel.signed else None
    if parcel.signed and roots is None:
        raise RegistryError(
            f"the verdict on {names.version_label(parcel.name, parcel.version)} is signed, and no key is trusted here",
            expected="the trust roots that signatures are verified against",
            do="give --key or --roots",
        )
    registry.require_answer()
    record = registry.version(parcel.name, parcel.version)
    if record is None:
        raise VersionGoneError(
            f"version {parcel.version} of {parcel.name} was deleted while it was gated",
            expected="a version that stays until it has a verdict",
            do=f"its report is in {parcel.run}",
        )
    run_id = _published(parcel, registry, details=choices.details)
    if roots is None:
        _tag_unsigned(registry, record, run_id)
        return None
    with scratch_in(choices.runs) as folder:
        files = checkpoint or registry.fetch(record.source, folder / "files")
        envelope = parcel.proofs.get(ATTESTATION, "").encode()
        evidence = evidence_for(files, envelope, roots, now=now, weights=choices.weights)
        place = _prove(registry, run_id, parcel, evidence, folder)
        registry.set_tags(record.name, record.version, {names.RUN: place})
        placed = replace(record, tags={**record.tags, names.RUN: place})
        return settle(registry, placed, evidence, choices, now=now)


def _published(parcel: Parcel, registry: Registry, *, details: bool) -> str:
    """The id of the MLflow run that holds report, verdict and attestation."""
    folder = RunFolder(Path(parcel.run))
    sent = to_publish(folder, details=details)
    try:
        publish_run(folder, registry.uri, details=details)
    except PublishError as error:
        raise RegistryDownError(error.found, expected=error.expected, do=error.do) from error
    return registry.uploads.run_of(publication_key(sent))


def _tag_unsigned(registry: Registry, record: VersionRecord, run_id: str) -> None:
    """Nothing that only an attestation may say, and nothing that an earlier one said."""
    reason = "the verdict is not signed, so it promotes nothing; give the gate a key"
    registry.set_tags(record.name, record.version, {names.RUN: run_id, names.REASON: reason, names.STATE: names.ERROR})
    for key in sorted(names.VERDICT_TAGS & record.tags.keys()):
        try:
            registry.delete_tag(record.name, record.version, key)
        except RegistryDownError:
            raise
        except RegistryError:  # a guard keeps what was attested; REASON tells the reader
            return


def _prove(registry: Registry, run_id: str, parcel: Parcel, evidence: Evidence, scratch: Path) -> str:
    """The signed files in a folder of the version's own: versions with the same files share the gate's run."""
    folder = names.version_label(parcel.name, parcel.version)
    report = parcel.proofs.get(PUBLIC_REPORT, "")
    if hashlib.sha256(report.encode()).hexdigest() != evidence.statement.report_digest:
        raise RegistryError(
            f"what waits for {parcel.label} holds another report than the one that was signed",
            expected="the outbox as the gate wrote it",
            do="gate the version again",
        )
    for name in (PUBLIC_REPORT, VERDICT, ATTESTATION, SUMMARY):
        if name in parcel.proofs:
            (scratch / name).write_text(parcel.proofs[name], encoding="utf-8")
            registry.uploads.add_file(run_id, scratch / name, folder)
    return f"{run_id}/{folder}"
