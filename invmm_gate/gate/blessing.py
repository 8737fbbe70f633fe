"""`bless`, and what a baseline is read from: a run folder that is named by hand, or the file that `bless` writes."""

import getpass
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from invmm_gate.errors import ConfigError
from invmm_gate.gate.baseline_file import Entry, append_entry, read_baseline_file
from invmm_gate.policy.coverage import self_check_findings
from invmm_gate.policy.soundness import record_findings
from invmm_gate.records import BaselineRecord, Outcome, RunData, RunRecord, Verdict
from invmm_gate.runs.fingerprint import fingerprint
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stages import CONFIRMATIONS, MEASUREMENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A run that others are held against."""

    data: RunData
    record: BaselineRecord


def bless(run: Path, *, reason: str, by: str | None, file: Path, even_if_blocked: bool, now: datetime) -> Entry:
    """Write down that a judged run is the baseline from now on; nothing else makes one.

    Raises ConfigError for a run that is not judged, did not pass (unless `even_if_blocked`), or whose records and
    verdict do not fit one another; the file is then as it was.
    """
    folder = RunFolder(run)
    with folder.existing_locked():
        data = folder.data()
        verdict = _fitting_verdict(folder, data)
        if verdict.decision != "pass" and not even_if_blocked:
            raise ConfigError(
                f"{run}: the verdict is {verdict.decision}",
                expected="a run that passed",
                do="to bless it all the same, give --even-if-blocked; the file will say so",
            )
        try:
            entry = Entry(
                run=os.path.relpath(run.resolve(), file.parent.resolve()),
                run_id=data.run.run_id,
                fingerprint=data.run.fingerprint,
                model_digest=data.run.model.digest,
                probe_set_digest=data.run.probe_set.digest,
                policy=verdict.policy,
                policy_digest=verdict.policy_digest,
                measurements_sha256=_digest(folder, MEASUREMENTS),
                confirmations_sha256=_digest(folder, CONFIRMATIONS),
                decision=verdict.decision,
                even_if_blocked=verdict.decision != "pass",
                blessed_by=_login() if by is None else by,
                blessed_on=now.isoformat(timespec="seconds"),
                reason=reason,
            )
        except ValidationError as error:
            raise _refused(error) from error
        append_entry(file, entry)
    return entry


def load_baseline(path: Path) -> Baseline:
    """The baseline of a run folder, or of a baseline file's newest entry. Raises GateError.

    With a file, ConfigError if anything that was blessed has changed since.
    """
    if path.is_file():
        return _blessed(path)
    folder = RunFolder(path)
    data = folder.data()
    record = BaselineRecord(
        run_id=data.run.run_id,
        fingerprint=data.run.fingerprint,
        model_digest=data.run.model.digest,
        measurements_digest=_digest(folder, MEASUREMENTS),
    )
    return Baseline(data=data, record=record)


def _blessed(path: Path) -> Baseline:
    entry = read_baseline_file(path)[-1]
    folder = RunFolder(path.parent / entry.run)
    data = folder.data()
    changed = ", ".join(_changed(entry, data.run, folder))  # after the reading: what is used is what was checked
    if changed:
        raise ConfigError(
            f"{path}: {changed} of {folder.path} changed since {entry.blessed_by} blessed it on {entry.blessed_on}",
            expected="the baseline as it was blessed",
            do="restore it, or bless a run again",
        )
    record = BaselineRecord(
        run_id=entry.run_id,
        fingerprint=entry.fingerprint,
        model_digest=entry.model_digest,
        measurements_digest=entry.measurements_sha256,
        decision=entry.decision,
        blessed_by=entry.blessed_by,
        blessed_on=entry.blessed_on,
        reason=entry.reason,
    )
    return Baseline(data=data, record=record)


def _changed(entry: Entry, run: RunRecord, folder: RunFolder) -> Iterator[str]:
    if (run.run_id, run.fingerprint, fingerprint(run.inputs)) != (entry.run_id, entry.fingerprint, entry.fingerprint):
        yield "run.json"
    if run.model.digest != entry.model_digest:
        yield "the model"
    if run.probe_set.digest != entry.probe_set_digest:
        yield "the probe set"
    if _digest(folder, MEASUREMENTS) != entry.measurements_sha256:
        yield MEASUREMENTS
    if _digest(folder, CONFIRMATIONS) != entry.confirmations_sha256:
        yield CONFIRMATIONS


def _fitting_verdict(folder: RunFolder, data: RunData) -> Verdict:
    run, verdict = data.run, data.verdict
    if verdict is None:
        raise ConfigError(
            f"{folder.path} was not judged",
            expected="a run with a verdict",
            do=f"judge it first: invmm-gate judge {folder.path} --policy POLICY",
        )
    misfit = next(_misfits(run, data, verdict), "")
    if misfit:
        raise ConfigError(
            f"{folder.path}: {misfit}",
            expected="records, self-checks and a verdict that fit one another",
            do="judge it again, or measure it again",
        )
    return verdict


def _misfits(run: RunRecord, data: RunData, verdict: Verdict) -> Iterator[str]:
    if fingerprint(run.inputs) != run.fingerprint:
        yield "run.json has another fingerprint than its inputs give"
    of_run = (run.fingerprint, run.model.digest, run.probe_set.digest)
    if (verdict.fingerprint, verdict.model_digest, verdict.probe_set_digest) != of_run:
        yield "the verdict was made on other inputs"
    yield from (finding.message for finding in record_findings(data))
    yield from (finding.message for finding in self_check_findings(data.self_checks))
    outcomes = Counter(record.outcome for record in data.measurements)
    if any(verdict.counts.get(name) != outcomes[name] for name in get_args(Outcome)):
        yield f"{MEASUREMENTS} changed since it was judged"
    if verdict.counts.get("confirmations") != len(data.confirmations):
        yield f"{CONFIRMATIONS} changed since it was judged"


def _digest(folder: RunFolder, name: str) -> str:
    path = folder.path / name
    return sha256(path.read_bytes() if path.exists() else b"").hexdigest()


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:  # no login name, as in some containers
        raise ConfigError("nobody is logged in by name", do="say who blesses with --by NAME") from error


def _refused(error: ValidationError) -> ConfigError:
    detail = error.errors(include_url=False)[0]
    field = str(detail["loc"][0]) if detail["loc"] else "the entry"
    option = {"reason": "--reason", "blessed_by": "--by"}.get(field, field)
    given = str(detail["input"])[:60]
    return ConfigError(f"{option} {given!r} cannot be written down", expected="one line of printable text, 1 to 1000")
