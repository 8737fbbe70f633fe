"""The one way to read a verdict: the records are judged again, and an edited verdict.json is refused."""

import datetime
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path

from invmm_gate.attest.keys import TrustRoots, load_roots
from invmm_gate.core.errors import RunFolderError
from invmm_gate.core.run_records import RunData, RunRecord
from invmm_gate.core.verdict_records import Verdict
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.policy.schema import load_policy, shipped_policies
from invmm_gate.policy.verdict_check import as_of, verdict_faults
from invmm_gate.runs.copies import kept_copies, unedited, verdict_of
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.identity import run_faults
from invmm_gate.runs.stage_files import VERDICT


def judged_again(folder: RunFolder, *, reviewers: TrustRoots | None = None) -> RunData:
    """All records; where there is a verdict, it is the one that they give with what they were judged with.

    The policy, the waivers and the baseline are the copies that `judge` left in the folder, the day is that of the
    verdict; with `reviewers` an approval counts by these keys alone. Writes nothing. Raises GateError for a verdict
    that differs in anything, and where the copies are missing or cannot be read.
    """
    data = folder.data()
    if data.verdict is None:
        return unedited(folder)
    faults = (f"{VERDICT} {fault}" for fault in verdict_faults(data))
    _refuse(folder.path, chain(faults, run_faults(data.run)))
    folder.refuse_edited()
    today = data.verdict.judged_on
    policy, beside = kept_copies(folder, today=today, reviewers=reviewers)
    _refuse(folder.path, _differences(data.verdict, verdict_of(data, policy, beside, today=today)))
    return data


def judged_data(folder: RunFolder, *, reviewers: TrustRoots | None = None) -> tuple[RunData, Verdict]:
    """The records of `judged_again`, with the verdict as it was written. Raises RunFolderError where there is none."""
    data = judged_again(folder, reviewers=reviewers)
    if data.verdict is None:
        raise RunFolderError(
            f"{folder.path} holds no {VERDICT}",
            expected="a run that was judged",
            do=f"invmm-gate judge {folder.path} --policy POLICY",
        )
    return data, data.verdict


def standing_verdict(
    run: Path,
    *,
    today: datetime.date,
    model: Path | None = None,
    policy: str | None = None,
    reviewers: Path | None = None,
) -> Verdict:
    """The verdict without the waivers that have expired since. Raises RunFolderError if the records do not give it.

    With `model`, it must be of that checkpoint's bytes as they are now too, with `policy` under that policy. Without
    one, a shipped policy's name must stand for that policy. With `reviewers` an approval counts by these keys alone.
    Raises ModelError, ConfigError for what cannot be read.
    """
    data, verdict = judged_data(RunFolder(run), reviewers=load_roots(reviewers) if reviewers else None)
    _refuse_other_policy(run, verdict, policy)
    if model is not None:
        _refuse_other_model(run, data.run, model)
    return as_of(verdict, data, today=today)


def _refuse(run: Path, faults: Iterator[str]) -> None:
    found = "; ".join(faults)
    if found:
        raise RunFolderError(
            f"{run}: {found}",
            expected="the verdict that `judge` wrote for these records",
            do=f"invmm-gate judge {run} --policy POLICY",
        )


def _differences(then: Verdict, now: Verdict) -> Iterator[str]:
    different = [field.name for field in fields(Verdict) if getattr(then, field.name) != getattr(now, field.name)]
    if different:
        yield f"judged again, its records give other {', '.join(different)} than {VERDICT}"


def _refuse_other_policy(run: Path, verdict: Verdict, policy: str | None) -> None:
    """Without `policy`, a shipped policy's name must stand for that policy: another one may not pass under it."""
    demanded = policy or (verdict.policy if verdict.policy in shipped_policies() else None)
    digest = verdict.policy_digest if demanded is None else load_policy(demanded).digest
    if digest != verdict.policy_digest:
        raise RunFolderError(
            f"{run} was judged under {verdict.policy!a} with the digest {verdict.policy_digest}",
            expected=f"{demanded} with the digest {digest}",
            do=f"invmm-gate judge {run} --policy {demanded}, or name the policy that you mean with --policy",
        )


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
