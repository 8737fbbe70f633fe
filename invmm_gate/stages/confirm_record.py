"""confirm.json: the plan of the confirmations, and what happened while they were made."""

from dataclasses import replace

from invmm_gate.core.errors import RunFolderError
from invmm_gate.core.records import SelfCheck
from invmm_gate.policy.coverage import MODEL_UNCHANGED_IN_CONFIRM
from invmm_gate.policy.rules.confirmed import ConfirmedConfig
from invmm_gate.policy.schema import Policy
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.identity import ConfirmRecord
from invmm_gate.stages.on_device import unchanged
from invmm_gate.stages.session import Session


def confirm_record(policy: Policy) -> ConfirmRecord:
    """The record that a policy's confirmations begin with."""
    return ConfirmRecord(policy=policy.digest, confirm=policy.confirm.plan(), rate_limit=rate_limit(policy))


def rate_limit(policy: Policy) -> float:
    """The smallest limit of the rules `confirmed`: above it the question of plain sampling is answered."""
    return min((rule.rate_limit for rule in policy.rules if isinstance(rule, ConfirmedConfig)), default=0.0)


def note_rows(folder: RunFolder, rows: int) -> None:
    """The row count fell."""
    record = _record(folder)
    folder.note_confirmed(replace(record, reduced_rows=(*record.reduced_rows, rows)))


def model_unchanged(session: Session, folder: RunFolder) -> None:
    """Check, as in measuring, that the files are those that were inspected, after the last use of the model here."""
    _note_end(folder, unchanged(session, MODEL_UNCHANGED_IN_CONFIRM))


def _note_end(folder: RunFolder, check: SelfCheck) -> None:
    record = _record(folder)
    if not check.passed or check.name not in {check.name for check in record.self_checks}:
        folder.note_confirmed(replace(record, self_checks=(*record.self_checks, check)))


def _record(folder: RunFolder) -> ConfirmRecord:
    record = folder.confirmed()
    if record is None:
        raise RunFolderError(f"{folder.path} lost its confirm.json", expected="the file as it was begun")
    return record
