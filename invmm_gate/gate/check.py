"""`check`: every stage in order. `measure` and `confirm` are its parts that need the device."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from invmm_gate.errors import GateError
from invmm_gate.gate import finishing
from invmm_gate.gate.inputs import Inputs, Options, prepare
from invmm_gate.gate.progress import Progress
from invmm_gate.records import Verdict
from invmm_gate.runs.folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """What `check` does after measuring."""

    waivers: Path | None = None
    baseline: Path | None = None
    reveal: bool = False
    track: bool = True
    tracking_uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A finished check."""

    folder: Path
    verdict: Verdict
    published: str
    """Where the run was logged; empty if it was not."""


def check(options: Options, finish: Finish, progress: Progress, *, today: datetime.date) -> Checked:
    """Measure, confirm, judge, report and publish. The same inputs go on where an earlier run stopped."""
    beside = finishing.circumstances(finish.waivers, finish.baseline)
    inputs = _prepared(options)
    with _measured(inputs, progress, beside) as folder:
        verdict = finishing.judge(folder, inputs.policy, beside, today=today)
        finishing.report(folder, reveal=finish.reveal)
        published = _publish(folder, finish, progress) if finish.track else ""
    return Checked(folder=folder.path, verdict=verdict, published=published)


def measure(options: Options, progress: Progress) -> Path:
    """Self-check and measure, without confirming or judging; the run folder."""
    with _measured(_prepared(options), progress, None) as folder:
        return folder.path


def confirm(run: Path, progress: Progress, *, sscd: Path | None = None) -> None:
    """Confirm the probes of a measured run. Model and probe set must be as they were measured."""
    folder = RunFolder(run)
    with _measured(_prepared(_options_of(folder, sscd)), progress, finishing.Circumstances()):
        return


def _options_of(folder: RunFolder, sscd: Path | None) -> Options:
    """The options that a run was begun with."""
    record = folder.run()
    said, decided = record.context, record.inputs
    return Options(
        model=Path(record.model.path),
        policy=str(said["policy"]),
        probes=Path(record.probe_set.folder),
        out=folder.path,
        seed=int(str(decided["seed"])),
        device=str(said["device"]),
        rows=int(str(decided["rows"])),
        allow_pickle=bool(record.model.pickles),
        weights=record.model.weights if record.model.left_out else None,
        loras=tuple(Path(lora) for lora in record.model.adapters),
        sscd=sscd,
        command=str(said["command"]),
    )


def _prepared(options: Options) -> Inputs:
    """The validated inputs. A folder that is in use is refused first, as all the rest takes seconds."""
    if options.out is not None:
        RunFolder(options.out).refuse_if_in_use()
    return prepare(options)


@contextmanager
def _measured(inputs: Inputs, progress: Progress, beside: finishing.Circumstances | None) -> Iterator[RunFolder]:
    """The locked run folder after the stages on the device; `beside` is None where nothing is to be confirmed.

    Torch is imported here, after all inputs were checked.
    """
    from invmm_gate.gate import confirming, measuring
    from invmm_gate.gate.memory import memory_explained
    from invmm_gate.gate.session import open_session

    progress.note(f"loading {inputs.model.pipeline} from {inputs.options.model}")
    with memory_explained():
        session = open_session(inputs)
    folder = RunFolder(inputs.options.out or Path("reports") / f"{inputs.model.name}-{session.record.run_id}")
    with folder.locked(), memory_explained():
        folder.begin(session.record)
        folder.forget(*finishing.OUTPUTS)  # a verdict of an earlier state must not outlive what is measured now
        _say_what_is_there(folder, progress)
        if measuring.self_check(session, folder, progress):
            session = measuring.measure(session, folder, progress)
            if beside is not None:
                confirming.confirm(session, folder, progress, baseline=beside.baseline)
        measuring.model_unchanged(session, folder)
        yield folder


def _say_what_is_there(folder: RunFolder, progress: Progress) -> None:
    done, total = len(folder.measurements()), len(folder.run().probe_set.probes)
    if done:
        progress.note(f"resuming {folder.path}: {done} of {total} probes are already measured")


def _publish(folder: RunFolder, finish: Finish, progress: Progress) -> str:
    try:
        return finishing.publish(folder, finish.tracking_uri)
    except GateError as error:
        progress.note(f"not published: {error}")
        return ""
