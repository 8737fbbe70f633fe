"""The slots of a batch: each holds one task and all that belongs to this task alone."""

from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import Tensor

from invmm_gate.core.records import CurvePoint
from invmm_gate.core.settings import InversionSettings
from invmm_gate.measure.adaptive_weight import WeightState
from invmm_gate.measure.sensitivity import TestResult
from invmm_gate.measure.streams import stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One inversion to run."""

    probe: str
    content: str
    """The image's sha256; with the run's seed it seeds the streams."""
    seed: int
    """Number of the trial, from 0."""
    mirrored: bool = False


@dataclass(slots=True, eq=False)
class Slot:
    """A task in progress, and what only it owns."""

    index: int
    task: Task
    reference: Tensor
    noise_stream: torch.Generator
    weight: WeightState
    step: int = 0
    evaluations: int = 0
    tests_above: int = 0
    curve: tuple[CurvePoint, ...] = ()

    def must_end(self, settings: InversionSettings) -> bool:
        """Whether the test that is due is the task's last."""
        return self.step >= settings.steps or self.tests_above >= settings.stop_tests

    def count_above(self, level: float, settings: InversionSettings) -> None:
        """Count the tests running at which the normality lay above the bound of the early stop."""
        bound = settings.stop_above
        above = bound is not None and self.step >= settings.stop_after and level > bound * (1 + settings.stop_margin)
        self.tests_above = self.tests_above + 1 if above else 0

    def note(self, point: CurvePoint, result: TestResult) -> bool:
        """Add the point to the curve; whether all of it is finite. JSON has no NaN and no infinity."""
        if not all(isfinite(value) for value in (point.denoising_error, point.normality, point.weight)):
            return False
        self.curve += (replace(point, best_value=result.best_value if result.finite else None),)
        return result.finite


def task_stream(root_seed: int, task: Task, *purpose: str | int, device: torch.device | None = None) -> torch.Generator:
    """The task's own random stream for a purpose."""
    return stream(root_seed, task.content, task.seed, int(task.mirrored), *purpose, device=device)
