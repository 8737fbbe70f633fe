"""The slots of a batch: each holds one task, with an Adam and an adaptive weight lambda of its own."""

from dataclasses import dataclass, replace
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.core.records import CurvePoint, StretchedTest
from invmm_gate.core.settings import InversionSettings
from invmm_gate.measure.distributions import stream
from invmm_gate.measure.sensitivity import TestResult


@dataclass(frozen=True, slots=True)
class WeightState:
    """lambda and what its next test compares with.

    Source: arXiv:2405.05846v3, Algorithm 1, lines 5 to 15, in the order of the authors' code: lambda changes after the
    optimiser's step, and grows by delta at every step that is no test, those before the first test included.
    """

    weight: float
    watched: float = float("inf")
    """The watched loss at the last test; +inf before the first."""


def weights_until_test(state: WeightState, settings: InversionSettings) -> tuple[float, ...]:
    """The weight of each optimisation step up to the next test, the first one included."""
    if settings.weight_rule == "growing":
        factor = _growth(settings)
        return tuple(state.weight * factor**index for index in range(settings.test_every))
    growth = settings.weight_step if settings.weight_rule == "adaptive" else 0.0
    return tuple(state.weight + index * growth for index in range(settings.test_every))


def _growth(settings: InversionSettings) -> float:
    """The factor of each step that ends at `final_weight`."""
    return float((settings.final_weight / settings.initial_weight) ** (1 / settings.steps))


def adapt(state: WeightState, watched: float, settings: InversionSettings) -> WeightState:
    """The state after a test, given the watched loss of now (averaged over the window)."""
    if settings.weight_rule == "fixed":
        return replace(state, watched=watched)
    used_last = weights_until_test(state, settings)[-1]
    if settings.weight_rule == "growing":
        return WeightState(weight=used_last * _growth(settings), watched=watched)
    improvement = state.watched - watched
    compared = improvement if settings.plateau_sign == "improvement" else -improvement
    halved = compared < settings.plateau_tolerance
    return WeightState(weight=used_last / 2 if halved else used_last + settings.weight_step, watched=watched)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One inversion to run."""

    probe: str
    content: str
    """The image's sha256; with the run's seed it seeds the streams."""
    seed: int
    """Number of the trial, from 0."""
    mirrored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tested:
    """A test of the slot's distribution, moved away from N(0, I) or towards it, and what was tested."""

    result: TestResult
    stretch: float
    """Factor on mu and ln sigma^2; 1 = as it was optimised."""
    normality: float
    """In nats per latent dimension."""
    step: int
    """Optimisation steps before it."""
    mu: Float[Tensor, "channel height width"]
    log_var: Float[Tensor, "channel height width"]
    logits: Float[Tensor, "position choice"] | None
    """Of the soft prompt; None without one."""


@dataclass(slots=True, eq=False)
class Slot:
    """A task in progress, and what only it owns."""

    index: int
    task: Task
    reference: Tensor
    energy: float
    """Squared norm of the target x_0."""
    noise_stream: torch.Generator
    weight: WeightState
    step: int = 0
    evaluations: int = 0
    tests_above: int = 0
    certifications: int = 0
    """Attempts to certify a share that were made."""
    nearest: Tested | None = None
    """The failed attempt with the largest share."""
    tests: tuple[StretchedTest, ...] = ()
    curve: tuple[CurvePoint, ...] = ()

    def is_tested(self, settings: InversionSettings) -> bool:
        """Whether samples are drawn at this step."""
        return settings.certify_at == "success" or not self.step or self.must_end(settings)

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
        values = (point.denoising_error, point.control_loss, point.normality, point.weight)
        if not all(value is None or isfinite(value) for value in values):
            return False
        drawn = result.finite and result.trials
        self.curve += (replace(point, best_value=result.best_value if drawn else None),)
        return result.finite


def task_stream(root_seed: int, task: Task, *purpose: str | int, device: torch.device | None = None) -> torch.Generator:
    """The task's own random stream for a purpose."""
    return stream(root_seed, task.content, task.seed, int(task.mirrored), *purpose, device=device)


_BETA_1, _BETA_2, _EPS = 0.9, 0.999, 1e-8


class SlotAdam:
    """torch.optim.Adam with its default betas and eps, for parameters of shape (part, slot, ...).

    Equal to one optimiser a slot, which the tests check; a slot that is reset starts with fresh moments.
    """

    def __init__(self, parameters: Tensor, *, learning_rate: float, averaging: float = 0.0) -> None:
        self.parameters = parameters
        self._learning_rate, self._averaging = learning_rate, averaging
        self._average = parameters.clone() if averaging else parameters
        self._first = torch.zeros_like(parameters)
        self._second = torch.zeros_like(parameters)
        self._steps = torch.zeros(parameters.shape[1], dtype=torch.float64, device=parameters.device)

    def reset(self, slot: int) -> None:
        """Zero parameters, moments and step count of one slot."""
        for tensor in (self.parameters, self._first, self._second, self._average):
            tensor[:, slot] = 0
        self._steps[slot] = 0

    def step(self, gradient: Tensor) -> None:
        """One update of every slot, in place. Source: arXiv:1412.6980, Algorithm 1."""
        self._steps += 1
        self._first.lerp_(gradient, 1 - _BETA_1)
        self._second.mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
        rate = self._per_slot(self._learning_rate / (1 - _BETA_1**self._steps))
        correction = self._per_slot((1 - _BETA_2**self._steps).sqrt())
        self.parameters -= rate * self._first / (self._second.sqrt() / correction + _EPS)
        if self._averaging:
            # Of k steps so far the plain mean, until that would forget more slowly than the decay.
            self._average.lerp_(self.parameters, self._per_slot((1 / self._steps).clamp_min(1 - self._averaging)))

    @property
    def averaged(self) -> Tensor:
        """The moving average of the parameters over the steps; the parameters themselves without averaging."""
        return self._average

    def _per_slot(self, values: Tensor) -> Tensor:
        return values.to(self.parameters.dtype).view(1, -1, *[1] * (self.parameters.ndim - 2))
