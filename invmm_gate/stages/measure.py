"""`measure` on the device: probes in, records out. It goes on after the records that are there."""

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from safetensors.torch import save

from invmm_gate.core.progress import Progress
from invmm_gate.core.records import MetricRecord, Probe, SelfCheck, Trial
from invmm_gate.measure.inversion import Inversion, Inverter
from invmm_gate.measure.trials import memorization_rank, summarise, tasks_for
from invmm_gate.policy.coverage import MODEL_UNCHANGED
from invmm_gate.policy.likelihoods import copied
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.on_device import fits, reduced, store_copies, unchanged
from invmm_gate.stages.session import Session


def measure(session: Session, folder: RunFolder, progress: Progress) -> Session:
    """Measure every probe that has no measurement yet; out of memory restarts those in flight with half the rows.

    The session that `confirm` goes on with: it knows how many rows fit.
    """
    probes = session.inputs.probe_set.probes
    progress.begin("measure", total=_work(session, probes), done=_work(session, probes) - _work_left(session, folder))
    while waiting := _waiting(session, folder):
        if not fits(partial(_measure, session, folder, waiting, progress)):
            session = reduced(session, progress, partial(_note_rows, folder))
    progress.end()
    return session


def model_unchanged(session: Session, folder: RunFolder) -> None:
    """After the last use of the model: the files must still be those that were inspected, else no verdict stands."""
    _note_end(folder, unchanged(session, MODEL_UNCHANGED))


def _note_rows(folder: RunFolder, rows: int) -> None:
    """run.json says that the row count fell."""
    run = folder.run()
    fallen = (*run.context.reduced_rows, rows)
    folder.note(replace(run, context=replace(run.context, reduced_rows=fallen)))


def _waiting(session: Session, folder: RunFolder) -> list[Probe]:
    done = {measurement.probe for measurement in folder.measurements()}
    return [probe for probe in session.inputs.probe_set.probes if probe.id not in done]


def _work(session: Session, probes: Iterable[Probe]) -> int:
    return len(tasks_for(probes, session.settings)) * session.settings.steps


def _work_left(session: Session, folder: RunFolder) -> int:
    return _work(session, _waiting(session, folder))


def _measure(session: Session, folder: RunFolder, probes: list[Probe], progress: Progress) -> None:
    by_id = {probe.id: probe for probe in probes}
    finished: dict[str, list[Inversion]] = defaultdict(list)
    tasks = tasks_for(probes, session.settings)
    each = len(tasks) // len(probes)
    began: dict[str, float] = {}
    inverter = Inverter(
        session.model,
        session.metric,
        session.settings,
        load_image=session.image,
        load_caption=session.caption,
        choices=session.choices,
        root_seed=session.inputs.seed,
        slots=session.slots,
    )
    for event in inverter.run(tasks):
        if not isinstance(event, Inversion):
            progress.advance(event.steps, in_flight=len({task.probe for task in event.in_flight}))
            for task in event.in_flight:
                began.setdefault(task.probe, time.monotonic())
            continue
        progress.advance(session.settings.steps - event.trial.steps)
        own = finished[event.task.probe]
        own.append(event)
        if len(own) == each:
            probe = by_id[event.task.probe]
            _store(session, folder, probe, finished.pop(probe.id))
            folder.note_seconds(probe.id, time.monotonic() - began.get(probe.id, time.monotonic()))


def inversion_file(probe: str) -> str:
    """The file with a probe's noise distribution, by its name in the run folder."""
    return f"inversions/{probe}.safetensors"


def kept_first(trial: Trial, metric: MetricRecord) -> tuple[bool, tuple[float, float]]:
    """Sorts a probe's trials: the tensors of the first are kept. A trial that made a copy comes before all others."""
    return (not copied(trial, metric), memorization_rank(trial))


def _store(session: Session, folder: RunFolder, probe: Probe, inversions: list[Inversion]) -> None:
    """Write a probe's files, then its measurement: a measurement that is there has its files."""
    metric, labels = session.record.metric, session.labels
    best = min(inversions, key=lambda inversion: kept_first(inversion.trial, metric))
    if copied(best.trial, metric):
        tensors = {"mu": best.mu.cpu().contiguous(), "log_var": best.log_var.cpu().contiguous()}
        if best.logits is not None:
            tensors["prompt_logits"] = best.logits.cpu().contiguous()
        folder.write(inversion_file(probe.id), save(tensors))
    store_copies(folder, f"copies/inverted/{probe.id}/inverted", best.copies)
    found = summarise(probe, [inversion.trial for inversion in inversions])
    if labels is not None:
        label = labels.of(probe)
        found = replace(found, label=label, label_found=label != probe.label)
    folder.append(found)


def _note_end(folder: RunFolder, check: SelfCheck) -> None:
    """A check that passed is noted once, as each time the run goes on ends with it."""
    if not check.passed or check.name not in {check.name for check in folder.self_checks()}:
        folder.append(check)
