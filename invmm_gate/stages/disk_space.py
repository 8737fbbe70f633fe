"""Room for a run's files, asked for before hours are spent on them."""

import shutil
from collections.abc import Callable, Collection

from invmm_gate.confirm.counting import COPIES_KEPT
from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.records import Probe
from invmm_gate.files.atomic import explained
from invmm_gate.measure.aggregate import tasks_for
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.session import Session

_FLOAT32 = 4
_OF_A_TEST, _OF_A_TRIAL = 256, 1024
"""Bytes of a point of the curve and of the rest of a trial, as JSON, rounded up."""
_TIMES_WRITTEN = 3
"""A row is written once, again where rows are put in order, and reports repeat it."""
_OF_A_FILE = 4096
"""A file system gives whole blocks."""
_PROMPT_METHODS = 3
"""Ways in which a probe can be confirmed by prompts, each with its copies; without prompts there is one."""


def require_room(
    session: Session, folder: RunFolder, waiting: Collection[Probe], *, note: Callable[[str], None]
) -> None:
    """Raise MeasurementError unless the disk has room for these probes' records, which every run writes.

    Inversions and copies are of memorized probes alone, of which a clean model has none: where there is no room for
    those of all probes, `note` is told.
    """
    records = sum(_record(session, probe) for probe in waiting)
    others = len(waiting) * (_inversion(session) + _copies(session))
    try:
        free = shutil.disk_usage(folder.path).free
    except OSError as error:
        raise explained(error, folder.path) from error
    if free < records:
        raise MeasurementError(
            f"{folder.path} has {free} bytes of room, the records of {len(waiting)} probes may need {records}",
            expected="room for each probe's record",
            do="free some and give the same command again, or give an --out elsewhere",
        )
    if free < records + others:
        note(
            f"{folder.path} has {free} bytes of room; inversions and copies may take {others} if all {len(waiting)} "
            "probes are memorized; a disk that is full ends the run with what is finished kept"
        )


def _record(session: Session, probe: Probe) -> int:
    tests = session.settings.steps // session.settings.test_every + 1
    trials = len(tasks_for([probe], session.settings))
    return _TIMES_WRITTEN * trials * (tests * _OF_A_TEST + _OF_A_TRIAL)


def _inversion(session: Session) -> int:
    channels, height, width = session.model.latent_shape
    return _OF_A_FILE + _FLOAT32 * (2 * channels * height * width + _logits(session))


def _logits(session: Session) -> int:
    prompts, settings = session.model.prompts, session.settings
    if prompts is None or settings.prompt == "caption":
        return 0
    choices = prompts.vocabulary if session.choices is None else len(session.choices)
    return min(settings.prompt_tokens, prompts.positions) * choices


def _copies(session: Session) -> int:
    """Of the inversion and of each confirmation. A PNG of noise is a little larger than its pixels."""
    height, width = session.model.image_size
    methods = 1 if session.model.prompts is None else _PROMPT_METHODS
    return (1 + methods) * COPIES_KEPT * (_OF_A_FILE + 3 * height * width)
