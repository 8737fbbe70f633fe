"""`check`: every stage in order. `measure` and `confirm` are its parts that need the device."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from invmm_gate.attest.envelope import ATTESTATION
from invmm_gate.attest.statement import SUMMARY
from invmm_gate.core.errors import GateError, RunFolderError
from invmm_gate.core.options import Finish, Options
from invmm_gate.core.progress import Progress
from invmm_gate.core.verdict_records import Verdict
from invmm_gate.runs.copies import Circumstances
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stage_files import CONFIRMING, MEASURE, RUN
from invmm_gate.stages.judge import circumstances, judge_run
from invmm_gate.stages.preflight import Inputs, prepare
from invmm_gate.stages.public_edition import require_usable_key, shared_key
from invmm_gate.stages.report import OUTPUTS, publish_run, write_reports

if TYPE_CHECKING:
    from invmm_gate.stages.session import Session  # imports torch

_JUDGED: Final = (*OUTPUTS, ATTESTATION, SUMMARY)
"""A verdict of an earlier state must not outlive what is measured or confirmed now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A finished check."""

    folder: Path
    verdict: Verdict
    published: str
    """Where the run was logged; empty if it was not."""


def check(options: Options, finish: Finish, progress: Progress, *, today: datetime.date) -> Checked:
    """Measure, confirm, judge, report and publish. The same inputs go on where an earlier run stopped."""
    beside = circumstances(finish.waivers, finish.baseline, today=today, reviewers=finish.reviewers)
    shared_key()  # a slip in it must not cost hours
    inputs = _prepared(options, baseline=beside.baseline is not None)
    with _opened(inputs, progress) as (session, folder):
        session = _measured(session, folder, progress)
        _confirmed(session, folder, progress, beside=beside)
        verdict = judge_run(folder, inputs.policy, beside, today=today)
        write_reports(folder, reveal=finish.reveal, note=progress.note)
        published = _publish(folder, finish, progress) if finish.track else ""
    return Checked(folder=folder.path, verdict=verdict, published=published)


def measure(options: Options, progress: Progress, *, replacing: bool = False) -> Path:
    """Self-check and measure, without confirming or judging; the run folder.

    With `replacing`, a run of other inputs in that folder makes way; its verdict at once, as it must not outlive a
    refusal of the new inputs.
    """
    if replacing and options.out is not None and (options.out / RUN).exists():
        with RunFolder(options.out).locked():
            RunFolder(options.out).forget(*_JUDGED)
    with _opened(_prepared(options), progress) as (session, folder):
        _measured(session, folder, progress, replacing=replacing)
    return folder.path


def confirm(
    run: Path,
    progress: Progress,
    *,
    beside: Circumstances,
    policy: str | None = None,
    sscd: Path | None = None,
    replacing: bool = False,
) -> None:
    """Confirm the probes of a measured run. Model and probe set must be as they were measured.

    `policy` is by default the one that the run was measured under; with `replacing`, confirmations under another plan
    make way. `beside` has the baseline of a policy with the rule `regression`, whose findings may ask for
    confirmations.
    """
    folder = RunFolder(run)
    with _opened(_prepared(_options_of(folder, policy, sscd)), progress) as (session, folder):
        _refuse_unmeasured(folder)
        _confirmed(session, folder, progress, beside=beside, replacing=replacing)


def _options_of(folder: RunFolder, policy: str | None, sscd: Path | None) -> Options:
    """The options that a run was begun with."""
    record = folder.run()
    said, decided = record.context, record.inputs
    return Options(
        model=Path(record.model.path),
        policy=policy or said.policy,
        probes=Path(record.probe_set.folder),
        out=folder.path,
        seed=decided.seed,
        device=said.device,
        rows=decided.rows,
        allow_pickle=bool(record.model.pickles),
        weights=record.model.weights if record.model.left_out else None,
        loras=tuple(Path(lora) for lora in record.model.adapters),
        sscd=sscd,
        command=said.command,
    )


def _prepared(options: Options, *, baseline: bool | None = None) -> Inputs:
    """The validated inputs. A folder that is in use is refused first, as all the rest takes seconds."""
    if options.out is not None:
        RunFolder(options.out).refuse_if_in_use()
    return prepare(options, baseline=baseline)


@contextmanager
def _opened(inputs: Inputs, progress: Progress) -> "Iterator[tuple[Session, RunFolder]]":
    """The loaded model and the locked run folder. Torch is imported here, after all inputs were checked."""
    from invmm_gate.stages.on_device import memory_explained
    from invmm_gate.stages.session import open_session

    progress.note(f"loading {inputs.model.pipeline} from {inputs.options.model}")
    if inputs.unused_labels:
        progress.note(f"the model has no classes: it is not told the labels of {inputs.unused_labels} probes")
    with memory_explained():
        session = open_session(inputs)
    folder = RunFolder(inputs.options.out or Path("reports") / f"{inputs.model.name}-{session.record.run_id}")
    with folder.locked(), memory_explained():
        require_usable_key(folder)
        yield session, folder


def _measured(session: "Session", folder: RunFolder, progress: Progress, *, replacing: bool = False) -> "Session":
    """The session that confirming goes on with: it knows how many rows fit."""
    from invmm_gate.stages import measure as measuring
    from invmm_gate.stages import self_checks as self_checking

    folder.begin(session.record, replacing=replacing)
    folder.forget(*_JUDGED)
    _say_what_is_there(folder, progress)
    if self_checking.self_check(session, folder, progress):
        session = measuring.measure(session, folder, progress)
    measuring.model_unchanged(session, folder)
    folder.end(MEASURE)
    return session


def _confirmed(
    session: "Session",
    folder: RunFolder,
    progress: Progress,
    *,
    beside: Circumstances,
    replacing: bool = False,
) -> None:
    from invmm_gate.stages import confirm as confirming
    from invmm_gate.stages.on_device import confirm_record, model_unchanged_in_confirm

    plan = confirm_record(session.inputs.policy)
    folder.begin_confirming(session.record, plan, replacing=replacing)
    folder.forget(*_JUDGED)
    if all(check.passed for check in folder.self_checks()):
        confirming.confirm(session, folder, progress, baseline=beside.approved)
    model_unchanged_in_confirm(session, folder)
    folder.end(CONFIRMING)


def _refuse_unmeasured(folder: RunFolder) -> None:
    """Which probes a policy wants confirmed depends on the scores."""
    if not folder.has_ended(MEASURE):
        left = len(folder.run().probe_set.probes) - len(folder.measurements())
        raise RunFolderError(
            f"{folder.path} holds a run that was not measured to its end, with {left} probes left",
            expected="a run that was measured to its end",
            do="give the same `invmm-gate measure` command again",
        )


def _say_what_is_there(folder: RunFolder, progress: Progress) -> None:
    done, total = len(folder.measurements()), len(folder.run().probe_set.probes)
    if done:
        progress.note(f"resuming {folder.path}: {done} of {total} probes are already measured")


def _publish(folder: RunFolder, finish: Finish, progress: Progress) -> str:
    try:
        return publish_run(folder, finish.tracking_uri, details=finish.details)
    except GateError as error:
        progress.note(f"not published: {error}")
        return ""
