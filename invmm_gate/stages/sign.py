"""Sign a finished run, approve its waivers, and hold an attestation against what is about to be served. No torch."""

import datetime
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from invmm_gate.attest.demands import Demands
from invmm_gate.attest.envelope import ATTESTATION, MAX_BYTES, sign_envelope
from invmm_gate.attest.field_types import as_text
from invmm_gate.attest.keys import SigningKey, load_roots, load_signing_key
from invmm_gate.attest.statement import SUMMARY, Statement, summary_payload, to_payload
from invmm_gate.attest.verification import Trusted, check_statement, check_subject, open_statement
from invmm_gate.attest.waiver_approval import approval_file, approve
from invmm_gate.core.errors import ConfigError, ModelError, VerificationError
from invmm_gate.core.options import Signing
from invmm_gate.core.records import Weights
from invmm_gate.files.regular import read_small, write_whole
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.policy.waivers import load_waivers
from invmm_gate.runs.copies import Circumstances
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.audit_file import log_verdict
from invmm_gate.stages.run_statement import statement_of


def sign_run(run: Path, signing: Signing, *, now: datetime.datetime, beside: Circumstances | None = None) -> Path:
    """Write RUN/attestation.json for any judged run, a blocked one too, once judging it again gives its verdict.

    `beside` are the waivers and the baseline. Beside a pass without waivers a summary for generic verifiers is written.
    Raises ConfigError for a key or file that cannot be used, RunFolderError for a run whose verdict is not that of its
    records: it stays unsigned.
    """
    signing_key = load_signing_key(signing.key)
    before = _opened_previous(signing, signing_key, now=now)
    folder = RunFolder(run)
    with folder.existing_locked():
        statement = statement_of(
            folder,
            policy=signing.policy,
            beside=beside,
            verifier=signing.verifier,
            now=now,
            expires_in=datetime.timedelta(days=signing.expires_in),
        )
        chained = replace(
            statement,
            subject_name=statement.subject_name if signing.name is None else signing.name,
            sequence=1 if before is None else before.statement.sequence + 1,
            previous=None if before is None else before.digest,
        )
        _write_signed(folder, chained, signing_key, signing.log)
    return run / ATTESTATION


def _write_signed(folder: RunFolder, statement: Statement, key: SigningKey, log: Path | None) -> None:
    """The log first: a line without an attestation shows, an attestation without a line does not."""
    _refuse_own_approval(statement, key)

    def seal(said: Statement) -> bytes:
        return sign_envelope(to_payload(said), key)

    said, envelope = (statement, seal(statement)) if log is None else log_verdict(log, statement, seal=seal)
    folder.forget(SUMMARY)
    folder.write(ATTESTATION, envelope)
    summary = summary_payload(said, attestation=hashlib.sha256(envelope).hexdigest())
    if summary is not None:
        folder.write(SUMMARY, sign_envelope(summary, key))


def _refuse_own_approval(statement: Statement, key: SigningKey) -> None:
    own = next((waiver for waiver in statement.waivers if waiver.approved_by == key.key_id), None)
    if own is not None:
        raise ConfigError(
            f"the waiver of {own.owner} is approved by the key that is to sign the verdict",
            expected="two keys: who gates does not approve",
            do="let a reviewer approve the waivers",
        )


def verify_model(
    model: Path,
    attestation: Path,
    demands: Demands,
    *,
    now: datetime.datetime,
    loras: Sequence[Path] = (),
    allow_pickle: bool = False,
) -> Statement:
    """The statement, if the attestation holds for the model's bytes as they are now, and says what is demanded.

    Raises VerificationError that names the first field that does not match; ConfigError for an attestation file that
    cannot be read; ModelError if there is no model at all.
    """
    trusted = open_statement(read_attestation(attestation), demands.roots, now=now)
    digest = served_digest(model, allow_pickle=allow_pickle, weights=demands.weights, loras=loras)
    check_subject(trusted.statement, digest)
    check_statement(trusted, demands, now)
    return trusted.statement


def read_attestation(path: Path) -> bytes:
    """The file's bytes, unverified. Raises ConfigError if there is no such file."""
    return read_small(path, what="an attestation that `invmm-gate sign` wrote", limit=MAX_BYTES)


def report_is_attested(run: Path) -> bool:
    """Whether public/report.html in a signed run's folder is the one that is signed: there, and not edited."""
    from invmm_gate.stages.public_edition import PUBLIC, PUBLIC_REPORT, public_data, public_report

    folder, path = RunFolder(run), run / PUBLIC / PUBLIC_REPORT
    return path.is_file() and path.read_bytes() == public_report(public_data(folder, folder.data())).encode()


def served_digest(model: Path, *, allow_pickle: bool, weights: Weights | None, loras: Sequence[Path]) -> str:
    """The digest of the bytes on disk. A checkpoint that cannot even be inspected is not the attested one."""
    try:
        return inspect_checkpoint(model, allow_pickle=allow_pickle, weights=weights, loras=loras).digest
    except ModelError as error:
        if not os.path.exists(model):  # false also where it may not be looked at
            raise
        raise VerificationError(f"subject: {error.found}", expected=error.expected, do=error.do) from error


def _opened_previous(signing: Signing, key: SigningKey, *, now: datetime.datetime) -> Trusted | None:
    path = signing.previous
    if path is None:
        return None
    trust = key.as_root() if signing.roots is None else load_roots(signing.roots)
    before = open_statement(read_attestation(path), trust, now=now)
    if now < before.statement.issued_at:
        raise ConfigError(
            f"the clock says {now.isoformat(timespec='seconds')}",
            expected=f"a time after {as_text(before.statement.issued_at)}, when {path} was signed",
            do="set the clock",
        )
    return before


def approve_waivers(waivers: Path, *, key: Path, now: datetime.datetime) -> tuple[Path, int]:
    """Sign a waivers file as its reviewer: the approval beside it, and how many waivers it covers.

    Raises ConfigError, also for a waiver that is not for one probe of one model.
    """
    signing_key = load_signing_key(key)
    found = load_waivers(waivers)
    if not found:
        raise ConfigError(f"{waivers} holds no waivers", expected="at least one to approve")
    try:
        envelope = approve(found, signing_key, now=now)
    except ConfigError as error:
        raise ConfigError(f"{waivers}: {error.found}", expected=error.expected, do=error.do) from error
    path = approval_file(waivers)
    write_whole(path, envelope)
    return path, len(found)
