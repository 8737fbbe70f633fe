"""The verdict on a version's files: one that is attested already and holds, or one that is measured and signed now.

The same files are measured once, however many versions have them, and by one gate at a time.
"""

import datetime
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.attest.statement import SUMMARY, Statement
from invmm_gate.attest.verification import check_standing, open_statement
from invmm_gate.core.errors import RegistryError, RunFolderError, VerificationError
from invmm_gate.core.options import Finish, GateChoices, Signing
from invmm_gate.core.progress import Progress
from invmm_gate.core.verdict_records import Verdict
from invmm_gate.core.version import __version__
from invmm_gate.registry.client.client import Registry, VersionRecord
from invmm_gate.registry.client.connection import RegistryDownError
from invmm_gate.registry.client.registry_names import RUN, is_release, release_name
from invmm_gate.registry.promote.attested_files import Evidence, envelopes, evidence_for
from invmm_gate.registry.promote.choices import (
    Clock,
    circumstances_of,
    demands_under,
    log_of,
    roots_file,
    terms_of,
    trusted_roots,
)
from invmm_gate.registry.promote.outbox import Parcel, parcel_digest
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stage_files import VERDICT
from invmm_gate.stages.check import Checked, check
from invmm_gate.stages.preflight import Inputs
from invmm_gate.stages.public_edition import PUBLIC_REPORT, public_data, public_files
from invmm_gate.stages.read_verdict import judged_again
from invmm_gate.stages.sign import sign_run


def verdict_that_holds(
    registry: Registry, record: VersionRecord, inputs: Inputs, choices: GateChoices, *, now: datetime.datetime
) -> Evidence | None:
    """A trusted pass or block on the same bytes, under the same policy, probe set and seed, that still stands."""
    roots = trusted_roots(choices)
    if roots is None:
        return None
    demands = demands_under(choices, roots)
    wanted = (inputs.policy.digest, inputs.probe_set.digest, inputs.seed)
    for envelope in envelopes(record.source, record.tags, registry.artefacts):
        with suppress(VerificationError):
            checkpoint = Path(inputs.model.path)
            evidence = evidence_for(checkpoint, envelope, roots, now=now, weights=choices.weights)
            check_standing(evidence.trusted, demands, now)
            said = evidence.statement
            found = (said.policy_digest, said.probe_set_digest, said.tested.seed)
            if found == wanted and _is_final(registry, record, said, choices):
                return evidence
    return None


def _is_final(registry: Registry, record: VersionRecord, said: Statement, choices: GateChoices) -> bool:
    """Whether judging again could not come out otherwise; waivers and baselines are no part of what is attested.

    What was signed for another version of the same files is signed again: attestation and audit log name this one.
    """
    if is_release(record.name, choices.release_name):
        return True
    if said.subject_name != record.file_label:
        return False
    unchanged = choices.waivers is None and choices.baseline is None and said.verifier_version == __version__
    return said.decision in ("pass", "block") and unchanged and _lies_in_our_run(registry, record, said)


def _lies_in_our_run(registry: Registry, record: VersionRecord, said: Statement) -> bool:
    """Whether the run that the version names, under which it would be released, is the gate's and has its report."""
    place = record.tags.get(RUN, "")
    if not place or not registry.uploads.is_ours(place.partition("/")[0]):
        return False
    report = registry.artefacts.read(f"runs:/{place}", PUBLIC_REPORT)
    return report is not None and sha256(report).hexdigest() == said.report_digest


def attestation_before(
    registry: Registry, name: str, choices: GateChoices, *, folder: Path, now: datetime.datetime
) -> Path | None:
    """The attestation of what the alias points at now, in a file; None if there is none that a trusted key signed."""
    roots = trusted_roots(choices)
    held = registry.alias(release_name(name, choices.release_name), choices.alias) if roots and choices.alias else None
    if roots is None or held is None:
        return None
    try:
        found = tuple(envelopes(held.source, {}, registry.artefacts))
    except RegistryDownError:
        raise
    except RegistryError:  # a release whose files are gone is followed by nothing
        return None
    for envelope in found:
        with suppress(VerificationError):
            open_statement(envelope, roots, now=now)
            path = folder / ATTESTATION
            path.write_bytes(envelope)
            return path
    return None


def measure_and_sign(
    record: VersionRecord,
    inputs: Inputs,
    choices: GateChoices,
    progress: Progress,
    *,
    previous: Path | None,
    now: Clock,
) -> tuple[Parcel, Verdict]:
    """The verdict on the files of a version, on disk and, with a key, signed. Raises GateError.

    `previous` is the attestation of what is released now: the new one gets the next number.
    """
    checked = _checked(inputs, choices, progress, today=now().date())
    signed = now()
    if choices.key is not None:
        signing = Signing(
            key=choices.key,
            policy=choices.policy,
            previous=previous,
            roots=roots_file(choices),
            log=log_of(choices),
            name=record.file_label,
        )
        sign_run(checked.folder, signing, now=signed, beside=circumstances_of(choices, today=signed.date()))
    else:
        RunFolder(checked.folder).forget(ATTESTATION, SUMMARY)  # of an earlier verdict
    proof = (checked.folder / (ATTESTATION if choices.key else VERDICT)).read_bytes()
    parcel = Parcel(
        name=record.name,
        version=record.version,
        run=str(checked.folder.resolve()),
        digest=parcel_digest(record.name, record.version, proof),
        signed=choices.key is not None,
        proofs=_proofs(RunFolder(checked.folder), details=choices.details) if choices.key is not None else {},
        created_at=signed.isoformat(),
    )
    return parcel, checked.verdict


def _proofs(run: RunFolder, *, details: bool) -> dict[str, str]:
    files = public_files(public_data(run, judged_again(run)))
    signed = (run.path / name for name in (ATTESTATION, SUMMARY, *((VERDICT,) if details else ())))
    proofs = {name: files[name] for name in (PUBLIC_REPORT, VERDICT)}
    return proofs | {path.name: path.read_text(encoding="utf-8") for path in signed if path.exists()}


def _checked(inputs: Inputs, choices: GateChoices, progress: Progress, *, today: datetime.date) -> Checked:
    """The check in the folder of these bytes: the first one that holds no run, or one that goes on from there.

    Versions with the same files share a run, and so are measured once. MLflow is told later, by the outbox.
    """
    finish = Finish(
        waivers=choices.waivers, reviewers=choices.conditions.reviewers, baseline=choices.baseline, track=False
    )
    name, number = runs_of(inputs, choices), 1
    while True:
        folder = choices.runs / (name if number == 1 else f"{name}-{number}")
        RunFolder(folder).refuse_if_in_use()
        begun = (folder / "run.json").exists()
        try:
            return check(replace(inputs.options, out=folder), finish, progress, today=today)
        except RunFolderError as error:
            if not begun:
                raise
            progress.note(f"beginning anew: {error}")  # another device or thread count
            number += 1


def runs_of(inputs: Inputs, choices: GateChoices) -> str:
    """The name of the run folders of these files under these terms."""
    return f"{inputs.model.digest[:12]}-{terms_for(inputs, choices)[:12]}"


def terms_for(inputs: Inputs, choices: GateChoices) -> str:
    """The terms that a version is judged under, by the files as they were read for it."""
    return terms_of(choices, policy=inputs.policy.digest, probe_set=inputs.probe_set.digest)


class SameFilesError(RegistryError):
    """Another process of this machine gates the same files."""


@contextmanager
def machine_lock(path: Path) -> Iterator[int | None]:
    """The lock's file descriptor, None if it is taken.

    A child that is given the descriptor keeps the lock for as long as it lives, also when this process is killed: a
    receiver that is started afterwards then waits for the child that was left behind.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def alone(runs: Path, name: str) -> Iterator[None]:
    """Hold the run folders of this name, from before the measurement until the verdict is sent.

    A run folder's own lock is let go between its stages, and a second gate would then take the attestation away that
    the first one is about to send. Raises SameFilesError at once if another process holds them.
    """
    with machine_lock(runs / f".{name}.lock") as lock:
        if lock is None:
            raise SameFilesError(
                "another process gates a version with the same files, under the same terms",
                expected="one at a time, as they are measured once",
                do="gate this version again when that one has its verdict",
            )
        yield
