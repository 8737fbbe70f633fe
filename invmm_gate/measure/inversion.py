"""Algorithm 1 of arXiv:2405.05846v3 for many probes at once.

The batch has a fixed number of slots; a slot holds one task (a probe, a seed, mirrored or not). All slots advance by
`test_every` optimisation steps, then are tested together; a task that is done leaves its slot and a waiting one enters.
Nothing is shared between slots: lambda, loss window, Adam moments, step count and random stream belong to a task, and
the number of rows never changes, so a score does not depend on batch mates (THREATS 5).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from invmm_gate.diffusion.denoising_error import denoising_error
from invmm_gate.intervals import replication_share
from invmm_gate.measure.adam import SlotAdam
from invmm_gate.measure.adaptive_weight import WeightState, adapt, weights_until_test
from invmm_gate.measure.noise_distribution import noise_from, normality
from invmm_gate.measure.sensitivity import TestCase, TestResult, run_tests
from invmm_gate.measure.streams import stream
from invmm_gate.protocols import CopyMetric, DiffusionModel
from invmm_gate.records import CurvePoint, Outcome, Trial
from invmm_gate.settings import InversionSettings


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
class Inversion:
    """A finished task with its tensors."""

    task: Task
    trial: Trial
    mu: Float[Tensor, "channel height width"]
    log_var: Float[Tensor, "channel height width"]
    copies: tuple[Float[Tensor, "3 image_height image_width"], ...]
    """Up to four samples of its last test that replicate the target, in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """Progress: optimisation steps done since the last such event, over the tasks in the batch."""

    steps: int
    in_flight: tuple[Task, ...]


@dataclass(slots=True, eq=False)
class _Slot:
    """A task in progress, and what only it owns."""

    index: int
    task: Task
    x_0: Tensor
    reference: Tensor
    noise_stream: torch.Generator
    weight: WeightState
    step: int = 0
    evaluations: int = 0
    tests_above: int = 0
    curve: tuple[CurvePoint, ...] = ()


class Inverter:
    """Runs tasks through a batch of `slots` x `batch_size` rows on one model.

    `load_image` gives a probe's image, (3, image_height, image_width) in [-1, 1].
    """

    def __init__(
        self,
        model: DiffusionModel,
        metric: CopyMetric,
        settings: InversionSettings,
        *,
        load_image: Callable[[str], Float[Tensor, "3 image_height image_width"]],
        root_seed: int,
        slots: int,
    ) -> None:
        self._model, self._metric, self._settings = model, metric, settings
        self._load_image, self._root_seed = load_image, root_seed
        shape = (slots, *model.latent_shape)
        self._x_0 = torch.zeros(shape, device=model.device)
        self._adam = SlotAdam(torch.zeros(2, *shape, device=model.device), learning_rate=settings.learning_rate)
        self._watched: deque[Tensor] = deque(maxlen=settings.loss_window)
        self._slots: list[_Slot | None] = [None] * slots

    def run(self, tasks: Sequence[Task]) -> Iterator[Inversion | Advanced]:
        """Each task's inversion as soon as it is done, and progress in between."""
        waiting = deque(tasks)
        while waiting or any(self._slots):
            entered = self._admit(waiting)
            if self._settings.test_at_start and entered:
                yield from self._retire(entered)
                continue
            before = self._active()
            self._advance()
            yield Advanced(self._settings.test_every * len(before), tuple(slot.task for slot in before))
            yield from self._retire(before)

    def _active(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot is not None]

    def _admit(self, waiting: deque[Task]) -> list[_Slot]:
        entered = []
        for index, slot in enumerate(self._slots):
            if slot is None and waiting:
                entered.append(self._enter(index, waiting.popleft()))
        return entered

    def _enter(self, index: int, task: Task) -> _Slot:
        image = self._load_image(task.probe).to(self._model.device)[None]
        image = image.flip(-1) if task.mirrored else image
        drawn = self._stream(task, "posterior") if self._settings.posterior == "sample" else None
        self._x_0[index] = self._model.encode(image, generator=drawn)[0]
        self._adam.reset(index)
        slot = _Slot(
            index=index,
            task=task,
            x_0=self._x_0[index],
            reference=self._metric.embed(image),
            noise_stream=self._stream(task, "noise"),
            weight=WeightState(self._settings.initial_weight),
        )
        self._slots[index] = slot
        return slot

    def _stream(self, task: Task, *purpose: str | int) -> torch.Generator:
        return stream(self._root_seed, task.content, task.seed, int(task.mirrored), *purpose)

    def _advance(self) -> None:
        """Take `test_every` optimisation steps in every slot; no transfer to the host in between."""
        active = self._active()
        weights = torch.zeros(self._settings.test_every, len(self._slots))
        for slot in active:
            weights[:, slot.index] = torch.tensor(weights_until_test(slot.weight, self._settings))
        for weight in weights.to(self._model.device):
            self._optimise(active, weight)
        for slot in active:
            slot.step += self._settings.test_every
            slot.evaluations += 2 * self._settings.batch_size * self._settings.test_every

    def _optimise(self, active: Sequence[_Slot], weight: Tensor) -> None:
        standard, timestep = self._draw(active)
        parameters = self._adam.parameters.detach().requires_grad_()
        mu, log_var = parameters
        x_0 = self._x_0[:, None].expand_as(standard).flatten(0, 1)
        eps = noise_from(mu, log_var, standard).flatten(0, 1)
        errors = denoising_error(self._model, x_0, eps, timestep.flatten())
        error = errors.view(len(self._slots), -1).mean(dim=1)
        total = error + weight * normality(mu, log_var)
        # Summed over slots: each slot's gradient, and with it Adam's eps, is that of a run of its own (MEASURES E8).
        (gradient,) = torch.autograd.grad(total.sum(), parameters)
        self._watched.append((total if self._settings.control_loss == "total" else error).detach())
        self._adam.step(gradient)

    def _draw(self, active: Sequence[_Slot]) -> tuple[Tensor, Tensor]:
        """Standard noise (slot, sample, ...) and timesteps (slot, sample) from each task's stream; zeros elsewhere."""
        batch, shape = self._settings.batch_size, self._model.latent_shape
        standard = torch.zeros(len(self._slots), batch, *shape)
        timestep = torch.zeros(len(self._slots), batch, dtype=torch.int64)
        for slot in active:
            standard[slot.index] = torch.randn(batch, *shape, generator=slot.noise_stream)
            timestep[slot.index] = torch.randint(self._model.schedule.timesteps, (batch,), generator=slot.noise_stream)
        return standard.to(self._model.device), timestep.to(self._model.device)

    def _retire(self, slots: Sequence[_Slot]) -> Iterator[Inversion]:
        """Adapt lambda, test, and give out the tasks that are done."""
        points = self._observe(slots)
        cases = [self._case(slot, full=self._must_end(slot)) for slot in slots]
        results = self._test(cases)
        for slot, point, case, result in zip(slots, points, cases, results, strict=True):
            slot.evaluations += self._sampling_cost(result)
            trial = self._conclude(slot, case, result) if _note(slot, point, result) else self._broken(slot, result)
            if trial is not None:
                self._slots[slot.index] = None
                yield Inversion(task=slot.task, trial=trial, mu=case.mu, log_var=case.log_var, copies=result.copies)

    def _observe(self, slots: Sequence[_Slot]) -> list[CurvePoint]:
        """The state of each slot at this test; lambda and the count of tests above the bound move on."""
        mu, log_var = self._adam.parameters
        levels = normality(mu, log_var).tolist()
        watched = torch.stack(tuple(self._watched)) if self._watched else self._x_0.new_zeros(0, len(self._slots))
        points = []
        for slot in slots:
            own = watched[max(0, len(watched) - slot.step) :, slot.index]
            level, loss = levels[slot.index], float(own.double().mean()) if slot.step else 0.0
            if slot.step:
                slot.weight = adapt(slot.weight, loss, self._settings)
                slot.tests_above = slot.tests_above + 1 if self._is_above(slot, level) else 0
            points.append(
                CurvePoint(
                    step=slot.step,
                    denoising_error=loss,
                    normality=level,
                    weight=slot.weight.weight,
                    best_value=None,
                )
            )
        return points

    def _is_above(self, slot: _Slot, level: float) -> bool:
        bound = self._settings.stop_above
        if bound is None or slot.step < self._settings.stop_after:
            return False
        return level > bound * (1 + self._settings.stop_margin)

    def _must_end(self, slot: _Slot) -> bool:
        return slot.step >= self._settings.steps or slot.tests_above >= self._settings.stop_tests

    def _case(self, slot: _Slot, *, full: bool) -> TestCase:
        mu, log_var = self._adam.parameters[:, slot.index].clone()
        samples = self._settings.test_samples
        generator = self._stream(slot.task, "test", slot.step)
        standard = torch.randn(samples, *self._model.latent_shape, generator=generator)
        return TestCase(mu=mu, log_var=log_var, standard=standard, reference=slot.reference, full=full)

    def _test(self, cases: Sequence[TestCase]) -> tuple[TestResult, ...]:
        return run_tests(
            self._model,
            self._metric,
            cases,
            rows=max(len(self._slots), self._settings.test_samples),
            sampler_steps=self._settings.sampler_steps,
            guidance_scales=self._settings.guidance_scales,
        )

    def _sampling_cost(self, result: TestResult) -> int:
        return result.samples * self._settings.sampler_steps

    def _broken(self, slot: _Slot, result: TestResult) -> Trial:
        reason = f"NaN or infinity from the network or the copy metric by step {slot.step}"
        return self._trial(slot, "error", result, reason=reason)

    def _conclude(self, slot: _Slot, case: TestCase, result: TestResult) -> Trial | None:
        """The finished trial, or None if the task goes on."""
        if result.passed:
            return self._confirmed_trial(slot, case, result, slot.curve[-1].normality)
        if slot.tests_above >= self._settings.stop_tests:
            return self._trial(slot, "above_threshold", result, invmm_above=self._settings.stop_above)
        return self._trial(slot, "not_inverted", result) if self._must_end(slot) else None

    def _confirmed_trial(self, slot: _Slot, case: TestCase, result: TestResult, level: float) -> Trial | None:
        """An inverted trial, once the independent batch (if the profile asks for one) replicates as a whole."""
        count = self._settings.confirmation_samples
        if not count:
            return self._trial(slot, "inverted", result, invmm=level)
        generator = self._stream(slot.task, "confirm", slot.step)
        standard = torch.randn(count, *self._model.latent_shape, generator=generator)
        (second,) = self._test([replace(case, standard=standard, full=True)])
        slot.evaluations += self._sampling_cost(second)
        if not second.finite:
            return self._broken(slot, second)
        batch = replication_share(second.hits, count)
        if second.passed:
            return replace(self._trial(slot, "inverted", result, invmm=level), confirmation=batch)
        return replace(self._trial(slot, "not_inverted", result), confirmation=batch) if self._must_end(slot) else None

    def _trial(
        self,
        slot: _Slot,
        outcome: Outcome,
        result: TestResult,
        *,
        invmm: float | None = None,
        invmm_above: float | None = None,
        reason: str = "",
    ) -> Trial:
        return Trial(
            seed=slot.task.seed,
            outcome=outcome,
            invmm=invmm,
            invmm_above=invmm_above,
            steps=slot.step,
            evaluations=slot.evaluations,
            mirrored=slot.task.mirrored,
            guidance_scale=result.guidance_scale,
            share=None if outcome == "error" else replication_share(result.hits, self._settings.test_samples),
            confirmation=None,
            curve=slot.curve,
            reason=reason,
        )


def _note(slot: _Slot, point: CurvePoint, result: TestResult) -> bool:
    """Add the point to the curve; whether all of it is finite. JSON has no NaN and no infinity."""
    if not all(isfinite(value) for value in (point.denoising_error, point.normality, point.weight)):
        return False
    slot.curve += (replace(point, best_value=result.best_value if result.finite else None),)
    return result.finite
