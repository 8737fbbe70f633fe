"""Algorithm 1 of arXiv:2405.05846v3 for many probes at once.

The batch has a fixed number of slots; a slot holds one task (a probe, a seed, mirrored or not). All slots advance by
`test_every` optimisation steps, then are tested together; a task that is done leaves its slot and a waiting one enters.
Nothing is shared between slots: lambda, loss window, Adam moments, step count and random stream belong to a task, and
the number of rows of a step, of a test and of an attempt to certify never changes, so a score does not depend on batch
mates: at another number of rows a forward pass differs in its last bits.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.core.protocols import CopyMetric, DiffusionModel
from invmm_gate.core.records import CurvePoint, Trial
from invmm_gate.core.settings import InversionSettings
from invmm_gate.diffusion.prediction import denoising_error, epsilon_weight
from invmm_gate.diffusion.samplers import sampler_of, seeds_from
from invmm_gate.measure.conditioning import conditioning
from invmm_gate.measure.distributions import noise_from, normality
from invmm_gate.measure.sensitivity import UNTESTED, TestCase, TestResult, run_tests
from invmm_gate.measure.slots import Slot, SlotAdam, Task, Tested, WeightState, adapt, task_stream, weights_until_test
from invmm_gate.measure.timesteps import InformativeTimesteps
from invmm_gate.measure.trials import Conclusion, broken


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inversion:
    """A finished task with its tensors."""

    task: Task
    trial: Trial
    mu: Float[Tensor, "channel height width"]
    log_var: Float[Tensor, "channel height width"]
    copies: tuple[Float[Tensor, "3 image_height image_width"], ...]
    """Up to four samples of the test that the trial describes which replicate the target, in [-1, 1]."""
    logits: Float[Tensor, "position choice"] | None = None
    """The prompt distribution, where a soft prompt was inverted too."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """Progress: optimisation steps done since the last such event, over the tasks in the batch."""

    steps: int
    in_flight: tuple[Task, ...]


class Inverter:
    """Runs tasks through a batch of `slots` x `batch_size` rows on one model.

    `load_image` gives a probe's image, (3, image_height, image_width) in [-1, 1], `load_caption` its caption.
    `choices` are the token ids that a soft prompt may mix; None = the whole vocabulary.
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
        load_caption: Callable[[str], str] = lambda _: "",
        choices: Int[Tensor, " choice"] | None = None,
    ) -> None:
        self._model, self._metric, self._settings = model, metric, settings
        self._sampler = sampler_of(model, settings.sampler)
        self._load_image, self._root_seed = load_image, root_seed
        self._conditioning = conditioning(
            model, settings, slots=slots, root_seed=root_seed, load_caption=load_caption, choices=choices
        )
        shape = (slots, *model.latent_shape)
        self._x_0 = torch.zeros(shape, device=model.device)
        self._adam = SlotAdam(
            torch.zeros(2, *shape, device=model.device),
            learning_rate=settings.learning_rate,
            averaging=settings.averaging,
        )
        self._informative = InformativeTimesteps(model.schedule) if settings.timesteps == "informative" else None
        self._losses: deque[Tensor] = deque(maxlen=settings.loss_window)
        self._slots: list[Slot | None] = [None] * slots

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

    def _active(self) -> list[Slot]:
        return [slot for slot in self._slots if slot is not None]

    def _admit(self, waiting: deque[Task]) -> list[Slot]:
        entered = []
        for index, slot in enumerate(self._slots):
            if slot is None and waiting:
                entered.append(self._enter(index, waiting.popleft()))
        return entered

    def _enter(self, index: int, task: Task) -> Slot:
        image = self._load_image(task.probe).to(self._model.device)[None]
        image = image.flip(-1) if task.mirrored else image
        drawn = self._stream(task, "posterior") if self._settings.posterior == "sample" else None
        self._x_0[index] = self._model.encode(image, generator=drawn)[0]
        self._adam.reset(index)
        self._conditioning.enter(index, task)
        slot = Slot(
            index=index,
            task=task,
            reference=self._metric.embed(image),
            energy=float(self._x_0[index].double().square().sum()),
            noise_stream=self._stream(task, "noise"),
            weight=WeightState(self._settings.initial_weight),
        )
        self._slots[index] = slot
        return slot

    def _stream(self, task: Task, *purpose: str | int) -> torch.Generator:
        return task_stream(self._root_seed, task, *purpose)

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

    def _optimise(self, active: Sequence[Slot], weight: Tensor) -> None:
        drawn = self._conditioning.draw(active)
        noise = self._adam.parameters.detach().requires_grad_(self._settings.prompt != "prompt_only")
        standard, timestep = self._draw(active)
        mu, log_var = noise
        x_0 = self._x_0[:, None].expand_as(standard).flatten(0, 1)
        eps = noise_from(mu, log_var, standard).flatten(0, 1)
        errors = denoising_error(self._model, x_0, eps, timestep.flatten(), condition=drawn.condition)
        if self._settings.objective == "epsilon":
            errors = errors * epsilon_weight(self._model.schedule.at(timestep.flatten()))
        error = errors.view(len(self._slots), -1).mean(dim=1)
        total = error + weight * normality(mu, log_var)
        # Summed over slots: each slot's gradient, and with it Adam's eps, is that of a run of its own.
        moved = [
            (leaf, optimiser.step)
            for leaf, optimiser in ((noise, self._adam), (drawn.leaf, self._conditioning))
            if leaf is not None and leaf.requires_grad
        ]
        gradients = torch.autograd.grad(total.sum(), [leaf for leaf, _ in moved])
        watched = total if self._settings.control_loss == "total" else error
        self._losses.append(torch.stack((error, watched)).detach())
        for (_, step), gradient in zip(moved, gradients, strict=True):
            step(gradient)

    def _draw(self, active: Sequence[Slot]) -> tuple[Tensor, Tensor]:
        """Standard noise (slot, sample, ...) and timesteps (slot, sample) from each task's stream; zeros elsewhere."""
        batch, shape = self._settings.batch_size, self._model.latent_shape
        standard = torch.zeros(len(self._slots), batch, *shape)
        timestep = torch.zeros(len(self._slots), batch, dtype=torch.int64)
        for slot in active:
            standard[slot.index] = torch.randn(batch, *shape, generator=slot.noise_stream)
            timestep[slot.index] = self._timesteps(slot)
        return standard.to(self._model.device), timestep.to(self._model.device)

    def _timesteps(self, slot: Slot) -> Tensor:
        batch, stream = self._settings.batch_size, slot.noise_stream
        if self._informative is None:
            return torch.randint(self._model.schedule.timesteps, (batch,), generator=stream)
        return self._informative.at(torch.rand(batch, generator=stream), energy=slot.energy)

    def _retire(self, slots: Sequence[Slot]) -> Iterator[Inversion]:
        """Adapt lambda, test, and give out the tasks that are done."""
        points = self._observe(slots)
        results = self._first_tests([slot for slot in slots if slot.is_tested(self._settings)])
        conclusion = Conclusion(self._settings, test=self._test_again)
        for slot, point in zip(slots, points, strict=True):
            result = results.get(slot.index, UNTESTED)
            slot.evaluations += result.evaluations
            tested = self._tested(slot, result, stretch=1.0, normality=point.normality)
            ended = conclusion.of(slot, tested) if slot.note(point, result) else broken(slot, tested)
            if ended is not None:
                self._slots[slot.index] = None
                yield Inversion(
                    task=slot.task,
                    trial=ended.trial,
                    mu=ended.tested.mu,
                    log_var=ended.tested.log_var,
                    copies=ended.tested.result.copies,
                    logits=ended.tested.logits,
                )

    def _observe(self, slots: Sequence[Slot]) -> list[CurvePoint]:
        """The state of each slot at this test; lambda and the count of tests above the bound move on."""
        levels = normality(*self._adam.averaged).tolist()
        entropies = self._conditioning.entropies()
        losses = torch.stack(tuple(self._losses)) if self._losses else self._x_0.new_zeros(0, 2, len(self._slots))
        points = []
        for slot in slots:
            own = losses[max(0, len(losses) - slot.step) :, :, slot.index]
            level, error, watched = levels[slot.index], None, None
            if slot.step:
                error, watched = (float(column.double().mean()) for column in own.unbind(dim=1))
                slot.weight = adapt(slot.weight, watched, self._settings)
                slot.count_above(level, self._settings)
            points.append(
                CurvePoint(
                    step=slot.step,
                    denoising_error=error,
                    control_loss=watched,
                    normality=level,
                    weight=slot.weight.weight,
                    best_value=None,
                    prompt_entropy=entropies[slot.index] if entropies else None,
                )
            )
        return points

    def _case(self, slot: Slot, purpose: str, needed: tuple[int, ...], *, stretch: float, fewest: int) -> TestCase:
        samples = needed[-1]
        mu, log_var = stretch * self._adam.averaged[:, slot.index]
        generator = self._stream(slot.task, purpose, slot.step)
        return TestCase(
            mu=mu,
            log_var=log_var,
            standard=torch.randn(samples, *self._model.latent_shape, generator=generator),
            seeds=seeds_from(generator, samples),
            reference=slot.reference,
            condition=self._conditioning.for_test(slot, purpose, samples),
            needed=needed,
            fewest=fewest,
        )

    def _first_tests(self, slots: Sequence[Slot]) -> dict[int, TestResult]:
        """By slot: do all samples of the distribution as it is replicate the probe? In full where it is the last."""
        needed = (self._settings.test_samples,)
        fewest = [needed[-1] if slot.must_end(self._settings) else 0 for slot in slots]
        cases = [
            self._case(slot, "test", needed, stretch=1.0, fewest=count)
            for slot, count in zip(slots, fewest, strict=True)
        ]
        rows = max(len(self._slots), self._settings.test_samples)
        results = self._test(cases, self._settings.guidance_scales, rows=rows)
        return {slot.index: result for slot, result in zip(slots, results, strict=True)}

    def _test_again(
        self, slot: Slot, purpose: str, needed: tuple[int, ...], stretch: float, scales: tuple[float, ...]
    ) -> Tested:
        """Fresh noises for a purpose, of the distribution as far as this from N(0, I)."""
        # Few rows, as most attempts fail at their first draws; all of the first call are kept, for they show copies.
        case = self._case(slot, purpose, needed, stretch=stretch, fewest=min(self._settings.test_samples, needed[-1]))
        (result,) = self._test([case], scales, rows=self._settings.test_samples)
        slot.evaluations += result.evaluations
        level = float(normality(case.mu[None], case.log_var[None]))
        return self._tested(slot, result, stretch=stretch, normality=level)

    def _tested(self, slot: Slot, result: TestResult, *, stretch: float, normality: float) -> Tested:
        mu, log_var = stretch * self._adam.averaged[:, slot.index]
        return Tested(
            result=result,
            stretch=stretch,
            normality=normality,
            step=slot.step,
            mu=mu,
            log_var=log_var,
            logits=self._conditioning.logits(slot.index),
        )

    def _test(self, cases: Sequence[TestCase], scales: tuple[float, ...], *, rows: int) -> tuple[TestResult, ...]:
        return run_tests(
            self._model,
            self._metric,
            cases,
            rows=rows,
            sampler_steps=self._settings.sampler_steps,
            guidance_scales=scales,
            sampler=self._sampler,
        )
