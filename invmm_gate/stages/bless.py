"""`bless` and `compare`: a baseline, from a run folder or from what `bless` wrote, and two runs side by side."""

import getpass
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from itertools import chain
from pathlib import Path

from pydantic import ValidationError

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import BaselineRecord
from invmm_gate.policy.compare.compare import compare
from invmm_gate.policy.compare.comparison import Comparison
from invmm_gate.policy.coverage import self_check_findings
from invmm_gate.policy.judge import judge
from invmm_gate.policy.schema import Policy, load_policy
from invmm_gate.policy.soundness import record_findings
from invmm_gate.policy.verdict_check import as_of
from invmm_gate.runs.baseline import Entry, append_entry, read_baseline_file
from invmm_gate.runs.copies import Baseline, unedited
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.identity import fingerprint
from invmm_gate.runs.stage_files import CONFIRMATIONS, LIKELIHOODS, MEASUREMENTS
from invmm_gate.stages.read_verdict import judged_again, judged_data


def bless(run: Path, *, reason: str, by: str | None, file: Path, even_if_blocked: bool, now: datetime) -> Entry:
    """Write down that a judged run is the baseline from now on; nothing else makes one.

    Raises RunFolderError for a run whose records do not give its verdict, ConfigError for one that does not pass
    today (unless `even_if_blocked`), or whose records do not hold; the file is then as it was.
    """
    folder = RunFolder(run)
    with folder.existing_locked():
        data, written = judged_data(folder)
        _refuse_unsound(folder, data)
        verdict = as_of(written, data, today=now.date())
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
                measurements_sha256=data.digests[MEASUREMENTS],
                confirmations_sha256=data.digests[CONFIRMATIONS],
                likelihoods_sha256=data.digests[LIKELIHOODS],
                decision=verdict.decision,
                waived=sum(finding.waiver is not None for finding in verdict.findings),
                even_if_blocked=verdict.decision != "pass",
                blessed_by=_login() if by is None else by,
                blessed_on=now.isoformat(timespec="seconds"),
                reason=reason,
            )
        except ValidationError as error:
            raise _refused(error) from error
        append_entry(file, entry)
    return entry


def load_baseline(path: Path, *, today: date) -> Baseline:
    """The baseline of a run folder, or of a baseline file's newest entry. Raises GateError.

    With a file, ConfigError if anything that was blessed has changed since; a folder must hold a pass that stands.
    """
    if path.is_file():
        return _blessed(path)
    data, verdict = judged_data(RunFolder(path))
    decision = as_of(verdict, data, today=today).decision
    if decision != "pass":
        raise ConfigError(
            f"the baseline {path}: the verdict is {decision}",
            expected="a run that passed",
            do="to use it all the same, bless it with --even-if-blocked and name the baseline file",
        )
    record = BaselineRecord(
        run_id=data.run.run_id,
        fingerprint=data.run.fingerprint,
        model_digest=data.run.model.digest,
        measurements_digest=data.digests[MEASUREMENTS],
    )
    return Baseline(folder=path, data=data, record=record)


def _blessed(path: Path) -> Baseline:
    entry = read_baseline_file(path)[-1]
    folder = RunFolder(path.parent / entry.run)
    data = folder.data()
    changed = ", ".join(_changed(entry, data))
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
    return Baseline(folder=folder.path, data=data, record=record)


def _changed(entry: Entry, data: RunData) -> Iterator[str]:
    run = data.run
    if (run.run_id, run.fingerprint, fingerprint(run.inputs)) != (entry.run_id, entry.fingerprint, entry.fingerprint):
        yield "run.json"
    if run.model.digest != entry.model_digest:
        yield "the model"
    if run.probe_set.digest != entry.probe_set_digest:
        yield "the probe set"
    if data.digests[MEASUREMENTS] != entry.measurements_sha256:
        yield MEASUREMENTS
    if data.digests[CONFIRMATIONS] != entry.confirmations_sha256:
        yield CONFIRMATIONS
    if data.digests[LIKELIHOODS] != entry.likelihoods_sha256:
        yield LIKELIHOODS


def _refuse_unsound(folder: RunFolder, data: RunData) -> None:
    """Raise ConfigError for records that no verdict could rest on, which `--even-if-blocked` does not excuse."""
    fault = next(chain(record_findings(data), self_check_findings(data)), None)
    if fault is not None:
        raise ConfigError(
            f"{folder.path}: {fault.message}",
            expected="records and self-checks that hold",
            do="measure it again",
        )


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
    return ConfigError(
        f"{option} {given!r} cannot be written down", expected="one line of 1 to 1000 printable characters"
    )


def compare_runs(before: Path, after: Path, *, policy: str | None, common_probes: bool, today: date) -> Comparison:
    """Compare two runs; a baseline file stands for the run that was blessed last. Writes nothing. Raises GateError.

    Their verdicts count as they stand today; one that the records beside it do not give is refused. With a policy, both
    records are judged by it here, without waivers; the verdicts on disk stay as they are.
    """
    rules = load_policy(policy) if policy is not None else None
    old, new = (_judged(path, rules, today) for path in (before, after))
    return compare(old, new, policy=rules, common_probes=common_probes)


def _judged(path: Path, policy: Policy | None, today: date) -> RunData:
    folder = RunFolder(load_baseline(path, today=today).folder if path.is_file() else path)
    if policy is not None:
        data = unedited(folder)
        return replace(data, verdict=judge(data, policy, (), today=today))
    data = judged_again(folder)
    return data if data.verdict is None else replace(data, verdict=as_of(data.verdict, data, today=today))
