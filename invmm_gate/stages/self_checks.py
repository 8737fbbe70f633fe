"""Self-checks before the probes are measured: of the gate, of the model, and of how the gate looks at the model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.progress import Progress
from invmm_gate.core.records import Probe, SelfCheck
from invmm_gate.measure.looking import Pictures, pictures_of
from invmm_gate.measure.natural_view import natural_view
from invmm_gate.measure.round_trip import round_trip
from invmm_gate.measure.sample_statistics import sample_statistics
from invmm_gate.measure.self_check import positive_control, utility_floor
from invmm_gate.measure.told_time import told_time
from invmm_gate.models.load.other_readings import other_readings
from invmm_gate.models.load.resized import other_sizes, resized
from invmm_gate.policy.coverage import (
    NATURAL_VIEW,
    POSITIVE_CONTROL,
    ROUND_TRIP,
    SAMPLES,
    TOLD_TIME,
    UTILITY_FLOOR,
)
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.other_fits import other_fits
from invmm_gate.stages.session import Session

_CONTROLS: Final = 16
_ROWS: Final = 4
"""Rows at once, as few as the utility floor's: whether a whole batch fits is for `measure` to find out."""


def self_check(session: Session, folder: RunFolder, progress: Progress) -> bool:
    """Check the gate and the model before the probes; whether all passed. One that failed does not hide the others."""
    done = {check.name for check in folder.self_checks()}
    progress.begin("self-check", total=len(CHECKS), done=len(done & set(CHECKS)))
    for name, check in CHECKS.items():
        if name not in done:
            folder.append(check(session))
            progress.advance(1)
    progress.end()
    for result in folder.self_checks():
        if not result.passed:
            progress.note(f"self-check failed: {result.detail}")
    return all(result.passed for result in folder.self_checks())


def _positive_control(session: Session) -> SelfCheck:
    return positive_control(
        session.metric,
        session.settings,
        session.model.schedule,
        image_size=session.model.image_size,
        device=session.model.device,
    )


def _utility_floor(session: Session) -> SelfCheck:
    chosen = _controls(session)
    return utility_floor(
        session.model,
        [session.image(probe.id) for probe in chosen],
        captions=[probe.caption for probe in chosen],
        root_seed=session.inputs.seed,
    )


def _round_trip(session: Session) -> SelfCheck:
    looked_at = _others(session) or _controls(session)
    return round_trip(_pictures(session, looked_at), session.metric, root_seed=session.inputs.seed)


def _told_time(session: Session) -> SelfCheck:
    return told_time(_pictures(session, _controls(session)), root_seed=session.inputs.seed)


def _samples(session: Session) -> SelfCheck:
    return sample_statistics(
        _pictures(session, _controls(session)),
        steps=session.settings.sampler_steps,
        root_seed=session.inputs.seed,
    )


def _natural_view(session: Session) -> SelfCheck:
    controls = _controls(session)
    looked_at = [*controls, *_others(session)]
    sizes = (  # one at a time: each holds every image
        (f"at {height}x{width} pixels", _pictures(session, looked_at, size=(height, width)))
        for height, width in other_sizes(session.inputs.model, session.model)
    )
    return natural_view(
        _pictures(session, looked_at),
        [probe.id for probe in looked_at],
        len(controls),
        root_seed=session.inputs.seed,
        sizes=sizes,
        fits=other_fits(session.inputs.probe_set, looked_at, session.model, rows=_ROWS),
        readings=other_readings(session.inputs.model, session.model),
    )


CHECKS: Final[dict[str, Callable[[Session], SelfCheck]]] = {
    UTILITY_FLOOR: _utility_floor,
    ROUND_TRIP: _round_trip,
    TOLD_TIME: _told_time,
    SAMPLES: _samples,
    NATURAL_VIEW: _natural_view,
    POSITIVE_CONTROL: _positive_control,
}
"""The cheapest first."""


def _controls(session: Session) -> list[Probe]:
    """At most 16 images that the model should not know: the controls, or all probes where there are none."""
    probes = session.inputs.probe_set.probes
    unseen = [probe for probe in probes if probe.group == "control"] or list(probes)
    return sorted(unseen, key=lambda probe: probe.sha256)[:_CONTROLS]  # the digest ignores a set's order


def _others(session: Session) -> list[Probe]:
    """All probes that are no controls, where there are controls; in the order of `_controls`."""
    controls = _controls(session)
    others = [probe for probe in session.inputs.probe_set.probes if probe.group != "control" and probe not in controls]
    return sorted(others, key=lambda probe: probe.sha256)


def _pictures(session: Session, probes: Sequence[Probe], *, size: tuple[int, int] | None = None) -> Pictures:
    """Probes as the model sees them, or as it sees them at another (height, width)."""
    return pictures_of(
        session.model if size is None else resized(session.model, size),
        [session.image(probe.id) if size is None else _image_at(session, probe, size) for probe in probes],
        [probe.caption for probe in probes],
        rows=_ROWS,
    )


def _image_at(session: Session, probe: Probe, size: tuple[int, int]) -> Tensor:
    """The probe's image at another size, enlarged where its file is too small: for comparison, never for a score."""
    try:
        return replace(session, model=resized(session.model, size)).image(probe.id)
    except ProbeSetError:
        own = session.image(probe.id)[None]
        return torch.nn.functional.interpolate(own, size=size, mode="bilinear", align_corners=False)[0]
