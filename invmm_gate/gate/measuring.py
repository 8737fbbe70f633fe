"""The stages on the device: self-check, measure, confirm. Each resumes after the records that are there."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import chain
from typing import Final

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from invmm_gate.confirm.plain_sampling import Confirmed, Sampled, SamplingPlan, confirm_by_sampling
from invmm_gate.errors import MeasurementError
from invmm_gate.gate.progress import Progress
from invmm_gate.gate.session import Session, halved, is_out_of_memory
from invmm_gate.measure.aggregate import memorization_rank, summarise, tasks_for
from invmm_gate.measure.inversion import Inversion, Inverter
from invmm_gate.measure.self_check import positive_control, utility_floor
from invmm_gate.measure.streams import stream
from invmm_gate.models.inspect import changed_files
from invmm_gate.policy.schema import ConfirmedConfig
from invmm_gate.policy.verdict import probes_to_confirm
from invmm_gate.records import Measurement, Probe, SelfCheck
from invmm_gate.runs.folder import RunFolder

MODEL_UNCHANGED: Final = "model_unchanged"
_UTILITY_CONTROLS: Final = 16


def self_check(session: Session, folder: RunFolder, progress: Progress) -> bool:
    """Check the gate and the model before the probes; whether both passed."""
    done = {check.name for check in folder.self_checks()}
    checks = {"positive_control": _positive_control, "utility_floor": _utility_floor}
    progress.begin("self-check", total=len(checks), done=len(done & set(checks)))
    for name, check in checks.items():
        if name not in done:
            folder.append(check(session))
            progress.advance(1)
    progress.end()
    for result in folder.self_checks():
        if not result.passed:
            progress.note(f"self-check failed: {result.detail}")
    return all(result.passed for result in folder.self_checks())


def model_unchanged(session: Session, folder: RunFolder) -> None:
    """After the last use of the model: the files must still be those that were inspected, else no verdict stands."""
    changed = changed_files(session.inputs.model)
    if not changed and MODEL_UNCHANGED in {check.name for check in folder.self_checks()}:
        return
    detail = f"changed during the run: {', '.join(changed[:10])}" if changed else "the files are as they were inspected"
    folder.append(SelfCheck(name=MODEL_UNCHANGED, passed=not changed, detail=detail))


def _positive_control(session: Session) -> SelfCheck:
    return positive_control(
        session.metric,
        session.settings,
        session.model.schedule,
        image_size=session.model.image_size,
        root_seed=session.inputs.options.seed,
        device=session.model.device,
    )


def _utility_floor(session: Session) -> SelfCheck:
    probes = session.inputs.probe_set.probes
    unseen = [probe for probe in probes if probe.group == "control"] or list(probes)
    images = [session.image(probe.id) for probe in unseen[:_UTILITY_CONTROLS]]
    return utility_floor(session.model, images, root_seed=session.inputs.options.seed)


def measure(session: Session, folder: RunFolder, progress: Progress) -> Session:
    """Measure every probe that has no measurement yet; out of memory restarts those in flight with half the rows.

    The session that `confirm` goes on with: it knows how many rows fit.
    """
    probes = session.inputs.probe_set.probes
    progress.begin("measure", total=_work(session, probes), done=_work(session, probes) - _work_left(session, folder))
    while waiting := _waiting(session, folder):
        if not _fits(partial(_measure, session, folder, waiting, progress)):
            session = _reduced(session, folder, progress)
    folder.in_probe_order()
    progress.end()
    return session


def _fits(work: Callable[[], None]) -> bool:
    """Do the work; False if memory ran out. By then its tensors are free: nothing holds the exception any more."""
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _reduced(session: Session, folder: RunFolder, progress: Progress) -> Session:
    """The session with half the rows, said and recorded. Raises MeasurementError where they cannot be halved."""
    session = halved(session)
    torch.cuda.empty_cache()
    rows = session.slots * session.settings.batch_size
    progress.note(f"out of memory: the probes in flight start again with {rows} rows")
    run = folder.run()
    folder.note(replace(run, context=run.context | {"reduced_rows": [*_list(run.context.get("reduced_rows")), rows]}))
    return session


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
        root_seed=session.inputs.options.seed,
        slots=session.slots,
    )
    for event in inverter.run(tasks):
        if not isinstance(event, Inversion):
            progress.advance(event.steps)
            for task in event.in_flight:
                began.setdefault(task.probe, time.monotonic())
            continue
        progress.advance(session.settings.steps - event.trial.steps)
        own = finished[event.task.probe]
        own.append(event)
        if len(own) == each:
            probe = by_id[event.task.probe]
            _store(folder, probe, finished.pop(probe.id))
            folder.note_seconds(probe.id, time.monotonic() - began.get(probe.id, time.monotonic()))


def _store(folder: RunFolder, probe: Probe, inversions: list[Inversion]) -> None:
    """Write a probe's files, then its measurement: a measurement that is there has its files."""
    best = min(inversions, key=lambda inversion: memorization_rank(inversion.trial))
    if best.trial.outcome == "inverted":
        tensors = {"mu": best.mu.cpu().contiguous(), "log_var": best.log_var.cpu().contiguous()}
        folder.write(f"inversions/{probe.id}.safetensors", save(tensors))
    _store_copies(folder, probe.id, "inverted", best.copies)
    folder.append(summarise(probe, [inversion.trial for inversion in inversions]))


def _store_copies(folder: RunFolder, probe: str, kind: str, copies: Iterable[Tensor]) -> tuple[str, ...]:
    names = []
    for number, copy in enumerate(copies, start=1):
        names.append(f"copies/{probe}-{kind}-{number}.png")
        folder.write(names[-1], to_png(copy))
    return tuple(names)


def to_png(image: Tensor) -> bytes:
    """An image in [-1, 1], (3, height, width), as PNG."""
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def confirm(
    session: Session, folder: RunFolder, progress: Progress, *, baseline: Sequence[Measurement] | None = None
) -> None:
    """Plain sampling for the probes that the policy wants confirmed and that have no confirmation yet.

    Samples that are NaN or infinite end it with a note: the probes stay unconfirmed, which the judge sees.
    """
    sampling = session.inputs.policy.confirm.plain_sampling
    if sampling is None:
        return
    limits = [rule.rate_limit for rule in session.inputs.policy.rules if isinstance(rule, ConfirmedConfig)]
    while wanted := _unconfirmed(session, folder, baseline):
        plan = SamplingPlan(
            trials=sampling.trials,
            sampler_steps=sampling.sampler_steps,
            rate_limit=min(limits, default=0.0),
            confidence=sampling.confidence,
            rows=max(session.slots * session.settings.batch_size // 2, 1),
        )
        progress.begin("confirm", total=plan.trials)
        if _fits(partial(_confirm, session, folder, wanted, plan, progress)):
            break
        session = _reduced(session, folder, progress)
    folder.in_probe_order()
    progress.end()


def _unconfirmed(session: Session, folder: RunFolder, baseline: Sequence[Measurement] | None) -> list[str]:
    done = {confirmation.probe for confirmation in folder.confirmations()}
    wanted = probes_to_confirm(folder.data(), session.inputs.policy, baseline=baseline)
    return [probe for probe in wanted if probe not in done]


def _confirm(session: Session, folder: RunFolder, probes: list[str], plan: SamplingPlan, progress: Progress) -> None:
    references = {probe: tuple(_references(session, probe)) for probe in probes}
    generator = stream(session.inputs.options.seed, "plain_sampling")
    events = confirm_by_sampling(session.model, session.metric, references, plan, generator=generator)
    for event in _while_finite(events, progress):
        if isinstance(event, Confirmed):
            record = event.confirmation
            copies = _store_copies(folder, record.probe, "sampled", event.copies)
            folder.append(replace(record, copies=copies))
        else:
            progress.advance(event.samples)


def _while_finite(events: Iterator[Confirmed | Sampled], progress: Progress) -> Iterator[Confirmed | Sampled]:
    """The events of the sampler alone: an error in storing them is not caught here."""
    try:
        yield from events
    except MeasurementError as error:
        progress.note(f"not confirmed: {error}")


def _references(session: Session, probe: str) -> Iterator[Tensor]:
    image = session.image(probe)[None].to(session.model.device)
    mirrored = [image.flip(-1)] if session.settings.mirror else []
    for target in chain([image], mirrored):
        yield session.metric.embed(target)
