"""The verdict of a run folder, where it is that of the records beside it: what every use of a verdict begins with."""

import datetime
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from invmm_gate.errors import RunFolderError
from invmm_gate.models.digest import digest_of
from invmm_gate.models.inspect import inspect_checkpoint
from invmm_gate.policy.standing import as_of, verdict_faults
from invmm_gate.records import RunData, RunRecord, Verdict
from invmm_gate.runs.fingerprint import fingerprint
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stages import RUN, VERDICT


def judged_data(folder: RunFolder) -> tuple[RunData, Verdict]:
    """All records, and their verdict as it was written. Raises RunFolderError unless it is that of these records."""
    data = folder.data()
    if data.verdict is None:
        raise RunFolderError(
            f"{folder.path} holds no {VERDICT}",
            expected="a run that was judged",
            do=f"invmm-gate judge {folder.path} --policy POLICY",
        )
    refuse_misfit(folder.path, data)
    return data, data.verdict


def refuse_misfit(run: Path, data: RunData) -> None:
    """Raise RunFolderError if there is a verdict and it is not that of the records."""
    of_verdict = (f"{VERDICT} {fault}" for fault in verdict_faults(data))
    of_run = (f"{RUN} {fault}" for fault in _run_faults(data.run))
    faults = "; ".join(chain(of_verdict, of_run)) if data.verdict else ""
    if faults:
        raise RunFolderError(
            f"{run}: {faults}",
            expected="the verdict that `judge` wrote for these records",
            do=f"invmm-gate judge {run} --policy POLICY",
        )


def standing_verdict(run: Path, *, today: datetime.date, model: Path | None = None) -> Verdict:
    """The verdict without the waivers that have expired since. Raises RunFolderError if it is not of these records.

    With `model`, it must be of that checkpoint's bytes as they are now too. Raises ModelError if it cannot be read.
    """
    data, verdict = judged_data(RunFolder(run))
    if model is not None:
        _refuse_other_model(run, data.run, model)
    return as_of(verdict, data, today=today)


def _run_faults(run: RunRecord) -> Iterator[str]:
    if fingerprint(run.inputs) != run.fingerprint:
        yield "has another fingerprint than its inputs give"
    if not run.model.digest == run.inputs.get("model") == digest_of(run.model.files):
        yield "has another model digest than its files and its inputs give"
    if run.probe_set.digest != run.inputs.get("probe_set"):
        yield "has another probe-set digest than its inputs give"


def _refuse_other_model(run: Path, record: RunRecord, model: Path) -> None:
    measured = record.model
    found = inspect_checkpoint(
        model,
        allow_pickle=bool(measured.pickles),
        weights=measured.weights if measured.left_out else None,
        loras=tuple(Path(lora) for lora in measured.adapters),
    )
    if found.digest != measured.digest:
        raise RunFolderError(
            f"{run} is no run of {model}, whose files give {found.digest}",
            expected=f"{measured.digest}, the model that was measured",
            do="measure this model",
        )
