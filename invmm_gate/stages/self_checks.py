"""Self-checks before the probes are measured: of the gate, of the model, and of how the gate looks at the model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from invmm_gate.confirm.search_control import planted_prompts
from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.progress import Progress
from invmm_gate.core.protocols import DiffusionModel, text_side
from invmm_gate.core.records import Fit, Probe, ProbeSet, SelfCheck
from invmm_gate.measure.looking import Pictures, from_pixels, pictures_of
from invmm_gate.measure.model_checks import round_trip, sample_statistics, told_time
from invmm_gate.measure.natural_view import Alternatives, Refitted, natural_view
from invmm_gate.measure.self_check import positive_control, positive_control_of_prompts, utility_floor
from invmm_gate.models.load.other_readings import other_readings, other_sizes, resized
from invmm_gate.policy.coverage import (
    NATURAL_VIEW,
    POSITIVE_CONTROL,
    ROUND_TRIP,
    SAMPLES,
    TOLD_TIME,
    UTILITY_FLOOR,
)
from invmm_gate.probes.images import load_refitted
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.on_device import fits
from invmm_gate.stages.session import Session

_Check = Callable[[Session, int], SelfCheck]
"""(session, rows at once) to the check's result."""
_FITS: Final[tuple[tuple[Fit, str], ...]] = (
    ("crop", "black"), ("squeeze", "black"), ("pad", "black"), ("pad", "white"), ("pad", "grey"),
)  # fmt: skip
"""With the colour of bars: some pad with white, and some after normalising, where zero is grey."""
_CONTROLS: Final = 16
_LEAST_ROWS: Final = 4
"""Rows at once, as few as the utility floor's: whether a whole batch fits is for `measure` to find out."""
_MOST_ROWS: Final = 64
_SAFE_POSITIONS: Final = 4 * 64 * 64
"""As many positions of x_t at once as 4 rows of Stable Diffusion 1 have. A wide network may still run out of memory."""


def _rows_of(model: DiffusionModel) -> int:
    """Rows at once: more of small images, where a call costs more than a row."""
    _, height, width = model.latent_shape
    return min(_MOST_ROWS, max(_LEAST_ROWS, _SAFE_POSITIONS // (height * width)))


def self_check(session: Session, folder: RunFolder, progress: Progress) -> bool:
    """Check the gate and the model before the probes; whether all passed. A failure hides no other check."""
    done = {check.name for check in folder.self_checks()}
    progress.begin("self-check", total=len(CHECKS), done=len(done & set(CHECKS)))
    for name in CHECKS:
        if name not in done:
            folder.append(run_check(session, name))
            progress.advance(1)
    progress.end()
    for result in folder.self_checks():
        if not result.passed:
            progress.note(f"self-check failed: {result.detail}")
    return all(result.passed for result in folder.self_checks())


def run_check(session: Session, name: str) -> SelfCheck:
    """One check, with as many rows as small images allow; where memory runs out, with the fewest."""
    check, found = CHECKS[name], list[SelfCheck]()
    if not fits(lambda: found.append(check(session, _rows_of(session.model)))):
        torch.cuda.empty_cache()
        found.append(check(session, _LEAST_ROWS))
    return found[0]


def other_fits(
    probe_set: ProbeSet, probes: Sequence[Probe], model: DiffusionModel, *, rows: int, captions: Sequence[str] = ()
) -> Iterator[Refitted]:
    """The probes of another shape than the model's, once for each fit that is not theirs.

    `captions` are what the model is told of each probe, if it is told anything.

    Raises ProbeSetError for a file that changed since validation.
    """
    height, width = model.image_size
    for how, bars in _FITS:
        pixels = [load_refitted(probe_set, probe, height=height, width=width, how=how, bars=bars) for probe in probes]
        found = {place: tuple(map(from_pixels, pair)) for place, pair in enumerate(pixels) if pair is not None}
        if found:
            told = [captions[place] for place in found] if captions else ()
            parts = zip(*found.values(), strict=True)
            whole, middle = (pictures_of(model, part, told, rows=rows) for part in parts)
            stated = bars == "black"
            name = f"with fit {how}" if stated else f"padded with {bars} bars"
            yield Refitted(name=name, places=list(found), whole=whole, middle=middle, stated=stated)


def _positive_control(session: Session, _: int) -> SelfCheck:
    """By its noise alone, and where the model takes prompts, by a prompt too."""
    by_noise = positive_control(
        session.metric,
        session.settings,
        session.model.schedule,
        image_size=session.model.image_size,
        device=session.model.device,
    )
    if text_side(session.model) is None or not by_noise.passed:
        return by_noise
    by_prompt = positive_control_of_prompts(
        session.metric, session.settings, planted_prompts(session.model, lures=False), choices=session.choices
    )
    if not by_prompt.passed:
        return by_prompt
    return replace(by_prompt, detail=f"{by_noise.detail}, {by_prompt.detail}")


def _utility_floor(session: Session, _: int) -> SelfCheck:
    chosen = _controls(session)
    return utility_floor(
        session.model,
        [session.image(probe.id) for probe in chosen],
        captions=_told(session, chosen),
        root_seed=session.inputs.seed,
    )


def _round_trip(session: Session, rows: int) -> SelfCheck:
    looked_at = _others(session) or _controls(session)
    return round_trip(_pictures(session, looked_at, rows), session.metric, root_seed=session.inputs.seed)


def _told_time(session: Session, rows: int) -> SelfCheck:
    return told_time(_pictures(session, _controls(session), rows), root_seed=session.inputs.seed)


def _samples(session: Session, rows: int) -> SelfCheck:
    return sample_statistics(
        _pictures(session, _controls(session), rows),
        session.sampler,
        steps=session.settings.sampler_steps,
        root_seed=session.inputs.seed,
    )


def _natural_view(session: Session, rows: int) -> SelfCheck:
    controls = _controls(session)
    looked_at = [*controls, *_others(session)]
    sizes = (  # one at a time: each holds every image
        (f"at {height}x{width} pixels", _pictures(session, looked_at, _LEAST_ROWS, size=(height, width)))
        for height, width in other_sizes(session.inputs.model, session.model)
    )
    return natural_view(
        _pictures(session, looked_at, rows),
        [probe.id for probe in looked_at],
        len(controls),
        root_seed=session.inputs.seed,
        others=Alternatives(
            sizes=sizes,
            fits=other_fits(
                session.inputs.probe_set, looked_at, session.model, rows=rows, captions=_told(session, looked_at)
            ),
            readings=other_readings(session.inputs.model, session.model),
        ),
    )


CHECKS: Final[dict[str, _Check]] = {
    UTILITY_FLOOR: _utility_floor,
    ROUND_TRIP: _round_trip,
    TOLD_TIME: _told_time,
    SAMPLES: _samples,
    NATURAL_VIEW: _natural_view,
    POSITIVE_CONTROL: _positive_control,
}
"""The cheapest first."""


def _controls(session: Session) -> list[Probe]:
    return controls_among(session.inputs.probe_set.probes)


def _others(session: Session) -> list[Probe]:
    return others_among(session.inputs.probe_set.probes)


def controls_among(probes: Sequence[Probe]) -> list[Probe]:
    """At most 16 images that the model should not know: the controls, or all probes where there are none."""
    unseen = [probe for probe in probes if probe.group == "control"] or list(probes)
    return sorted(unseen, key=lambda probe: probe.sha256)[:_CONTROLS]  # the digest ignores a set's order


def others_among(probes: Sequence[Probe]) -> list[Probe]:
    """All probes that are no controls, where there are controls, and no planted ladder; in the order of the digest.

    A random draw comes last, so that it takes no place where only the first are looked at. A ladder is of another kind
    than what the model was made for, and would decide the checks by its number.
    """
    controls = controls_among(probes)
    others = [probe for probe in probes if probe.is_target and probe not in controls]
    return sorted(others, key=lambda probe: (probe.group == "sample", probe.sha256))


def _pictures(session: Session, probes: Sequence[Probe], rows: int, *, size: tuple[int, int] | None = None) -> Pictures:
    """Probes as the model sees them, or as it sees them at another (height, width)."""
    return pictures_of(
        session.model if size is None else resized(session.model, size),
        [session.image(probe.id) if size is None else _image_at(session, probe, size) for probe in probes],
        _told(session, probes),
        rows=rows,
    )


def _told(session: Session, probes: Sequence[Probe]) -> list[str]:
    """What the model is told of each probe."""
    return [session.caption(probe.id) for probe in probes]


def _image_at(session: Session, probe: Probe, size: tuple[int, int]) -> Tensor:
    """The probe's image at another size, enlarged where its file is too small: for comparison, never for a score."""
    try:
        return replace(session, model=resized(session.model, size)).image(probe.id)
    except ProbeSetError:
        own = session.image(probe.id)[None]
        return torch.nn.functional.interpolate(own, size=size, mode="bilinear", align_corners=False)[0]
