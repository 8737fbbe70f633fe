"""From a version's files to a judged, signed run folder, ready to be sent."""

import datetime
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.attest.statement import SUMMARY
from invmm_gate.core.errors import RegistryError, RunFolderError
from invmm_gate.core.options import Conditions, GateChoices, Signing
from invmm_gate.core.progress import Progress
from invmm_gate.core.verdict_records import Verdict
from invmm_gate.policy.schema import shipped_policies
from invmm_gate.registry.client.client import VersionRecord
from invmm_gate.registry.client.names import version_label
from invmm_gate.registry.promote.choices import Clock, circumstances_of, finish_of, log_of, roots_file, terms_of
from invmm_gate.registry.promote.outbox import Parcel, parcel_digest
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stage_files import VERDICT
from invmm_gate.stages.audit_file import logged_at
from invmm_gate.stages.check import Checked, check
from invmm_gate.stages.preflight import Inputs
from invmm_gate.stages.public_edition import PUBLIC_REPORT, public_data, public_files
from invmm_gate.stages.read_verdict import judged_again
from invmm_gate.stages.sign import sign_run


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
            name=version_label(record.name, record.version),
        )
        sign_run(checked.folder, signing, now=signed, beside=circumstances_of(choices, today=signed.date()))
    else:
        RunFolder(checked.folder).forget(ATTESTATION, SUMMARY)  # of an earlier verdict
    proof = (checked.folder / (ATTESTATION if choices.key else VERDICT)).read_bytes()
    logged = logged_at(log_of(choices), proof) if choices.key is not None else None
    parcel = parcel_for(
        record, choices, run=str(checked.folder.resolve()), proof=proof, now=signed, log_entry=str(logged or "")
    )
    proofs = _proofs(RunFolder(checked.folder), details=choices.details) if choices.key is not None else {}
    return replace(parcel, proofs=proofs), checked.verdict


def _proofs(run: RunFolder, *, details: bool) -> dict[str, str]:
    files = public_files(public_data(run, judged_again(run)))
    signed = (run.path / name for name in (ATTESTATION, SUMMARY, *((VERDICT,) if details else ())))
    proofs = {name: files[name] for name in (PUBLIC_REPORT, VERDICT)}
    return proofs | {path.name: path.read_text(encoding="utf-8") for path in signed if path.exists()}


def parcel_for(
    record: VersionRecord, choices: GateChoices, *, run: str, proof: bytes, now: datetime.datetime, log_entry: str = ""
) -> Parcel:
    """The parcel of a run that belongs to a version: what the registry is sent."""
    terms = _terms(choices, signed=choices.key is not None)
    return Parcel(
        name=record.name,
        version=record.version,
        run=run,
        digest=parcel_digest(record.name, record.version, proof),
        log_entry=log_entry,
        created_at=now.isoformat(),
        **terms,
    )


def as_ours(parcel: Parcel, choices: GateChoices) -> Parcel:
    """The parcel under what this gate trusts and asks for now: what lies in the outbox names neither keys nor policy.

    Raises RegistryError for a signed verdict where no key is trusted, ConfigError for a key without its .pub file.
    """
    terms = _terms(choices, signed=parcel.roots is not None)
    if parcel.roots is not None and terms["roots"] is None:
        raise RegistryError(
            f"the verdict on {version_label(parcel.name, parcel.version)} is signed, and no key is trusted here",
            expected="the trust roots that signatures are verified against",
            do="give --key or --roots",
        )
    return replace(parcel, **terms)


def _terms(choices: GateChoices, *, signed: bool) -> dict[str, Any]:
    """What a parcel says of trust, of where a pass goes, and of what MLflow is told; with full paths."""
    return {
        "policy": choices.policy if choices.policy in shipped_policies() else str(Path(choices.policy).resolve()),
        "roots": str(roots.resolve()) if signed and (roots := roots_file(choices)) else None,
        "alias": choices.alias,
        "release_name": choices.release_name,
        "weights": choices.weights,
        "conditions": _with_full_paths(choices.conditions),
        "details": choices.details,
    }


def _with_full_paths(conditions: Conditions) -> Conditions:
    """The parcel may be sent from another working folder."""
    revoked, reviewers = (path and path.resolve() for path in (conditions.revoked, conditions.reviewers))
    return replace(conditions, revoked=revoked, reviewers=reviewers)


def _checked(inputs: Inputs, choices: GateChoices, progress: Progress, *, today: datetime.date) -> Checked:
    """The check in the folder of these bytes: the first one that holds no run, or one that goes on from there."""
    for folder in _folders(inputs, choices):
        RunFolder(folder).refuse_if_in_use()
        begun = (folder / "run.json").exists()
        try:
            return check(replace(inputs.options, out=folder), finish_of(choices), progress, today=today)
        except RunFolderError as error:
            if not begun:
                raise
            progress.note(f"beginning anew: {error}")  # another device or thread count
    raise RunFolderError("there is no folder for the run", expected="one that can be made below --runs")


def _folders(inputs: Inputs, choices: GateChoices) -> Iterator[Path]:
    """Versions with the same files share a run, and so are measured once."""
    name = runs_of(inputs, choices)
    for number in itertools.count(1):
        yield choices.runs / f"{name}{'' if number == 1 else f'-{number}'}"


def runs_of(inputs: Inputs, choices: GateChoices) -> str:
    """The name of the run folders of these files under these terms."""
    return f"{inputs.model.digest[:12]}-{terms_for(inputs, choices)[:12]}"


def terms_for(inputs: Inputs, choices: GateChoices) -> str:
    """The terms that a version is judged under, by the files as they were read for it."""
    return terms_of(
        policy=inputs.policy.digest, probe_set=inputs.probe_set.digest, seed=choices.seed, weights=choices.weights
    )
