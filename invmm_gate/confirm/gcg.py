"""Search for a prompt that a user could type and that makes the model reproduce a probe (GCG).

Source: arXiv:2405.05846v3, appendix 8.3, with the search of arXiv:2307.15043. What is different: candidates are dropped
early by successive halving, a step's prompt is sampled only when its loss is a record or from time to time, and the
prompt that is reported is tried again on fresh seeds.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.confirm.counting import CopyCount, Input, count_copies, sampled_images
from invmm_gate.confirm.plain_sampling import Confirmed, Sampled
from invmm_gate.confirm.prompt_objective import PromptObjective, as_typed, text_of, typeable_ids
from invmm_gate.confirm.prompt_sampling import Attempts, PromptPlan, replication_of_prompt
from invmm_gate.confirm.search import Search, SearchPlan, Step
from invmm_gate.core.errors import ConfigError
from invmm_gate.core.protocols import DiffusionModel, PromptEncoder, Streams
from invmm_gate.core.settings import GcgPlan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PromptTarget:
    """The probe that a prompt is sought for."""

    probe: str
    image: Float[Tensor, "3 image_height image_width"]
    """In [-1, 1]."""
    references: Sequence[Float[Tensor, "1 feature"]]
    """The metric's features of the image, and of its mirror image where that counts too."""
    start: str = ""
    """A prompt to start from; the empty string for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """Progress: one step of the search was made."""

    step: int
    steps: int
    loss: float | None
    """Denoising error of the step's prompt; None where no candidate could be typed."""
    evaluations: int
    """So far, of `max_evaluations`."""
    prompt: str
    """Private, as a caption is."""


def find_prompt(
    model: DiffusionModel,
    attempts: Attempts,
    target: PromptTarget,
    plan: GcgPlan,
    *,
    generator: torch.Generator,
    allowed: Int[Tensor, " choice"] | None = None,
) -> Iterator[Confirmed | Searched | Sampled]:
    """Search, and give out one `Confirmed` at the end.

    `confirmed`: the prompt made copies on fresh seeds. `refuted`: nothing was found within the budget, never "safe".
    `undecided`: a copy was made during the search, but none again on the fresh seeds. `allowed` are the ids of
    `typeable_ids`, found once for all probes.
    Raises ConfigError for a budget below one step, MeasurementError for NaN or infinity.
    """
    hunt = _Hunt.begin(model, attempts, target, plan, generator=generator, allowed=allowed)
    doubtful: Confirmed | None = None
    for number in range(1, plan.steps + 1):
        if not hunt.affords_a_step:
            break
        step = hunt.search.step()
        yield hunt.progress(number, step)
        if hunt.replicates(number, step):
            result = yield from hunt.on_fresh_seeds()
            if result.confirmation.hits:
                yield result
                return
            doubtful = result
    result = yield from hunt.on_fresh_seeds()
    if doubtful is not None and not result.confirmation.hits:
        record = replace(doubtful.confirmation, status="undecided", evaluations=result.confirmation.evaluations)
        result = replace(doubtful, confirmation=record)
    yield result


@final
@dataclass(slots=True, eq=False, kw_only=True)
class _Hunt:
    """One search with what it has spent."""

    attempts: Attempts
    target: PromptTarget
    plan: GcgPlan
    objective: PromptObjective
    search: Search
    generator: torch.Generator
    sampling: int = 0
    """Network forwards spent on samples."""
    tried: int = 0
    """Prompts that were tried on fresh seeds."""
    record: float = field(default=torch.inf)

    @classmethod
    def begin(
        cls,
        model: DiffusionModel,
        attempts: Attempts,
        target: PromptTarget,
        plan: GcgPlan,
        *,
        generator: torch.Generator,
        allowed: Tensor | None,
    ) -> "_Hunt":
        prompts = attempts.texts
        allowed = typeable_ids(prompts) if allowed is None else allowed.cpu()
        objective = PromptObjective(
            model=model,
            prompts=prompts,
            x_0=model.encode(target.image[None].to(model.device)),
            allowed=allowed,
            stages=plan.stages,
            rows=plan.rows,
            generator=generator,
        )
        search = Search(
            objective=objective,
            allowed=allowed,
            accept=partial(as_typed, prompts),
            plan=SearchPlan(candidates=plan.candidates, top_k=plan.top_k, draws=plan.stages, merges=plan.merges),
            generator=generator,
            string=_first_string(prompts, plan.tokens, target.start),
        )
        hunt = cls(
            attempts=attempts, target=target, plan=plan, objective=objective, search=search, generator=generator,
        )  # fmt: skip
        plan.refuse_small_budget(hunt.forwards)
        return hunt

    @property
    def evaluations(self) -> int:
        return self.objective.evaluations + self.sampling

    @property
    def affords_a_step(self) -> bool:
        limit, next_step = self.plan.max_evaluations, self.plan.dearest_step(self.forwards)
        return limit is None or self.evaluations + next_step + self.plan.fresh_seeds(self.forwards) <= limit

    @property
    def prompt(self) -> str:
        return text_of(self.attempts.texts, self.search.string)

    def forwards(self, steps: int, guidance_scale: float) -> int:
        """Network forwards of one sample."""
        return self.attempts.sampler.forwards(steps=steps, guidance_scale=guidance_scale)

    def progress(self, number: int, step: Step) -> Searched:
        return Searched(
            step=number, steps=self.plan.steps, loss=step.loss, evaluations=self.evaluations, prompt=self.prompt
        )

    def replicates(self, number: int, step: Step) -> bool:
        """Whether a sample of the step's prompt is a copy; one that few sampler steps speak against is not drawn."""
        is_record = step.loss is not None and step.loss < self.record
        self.record = min(self.record, step.loss if step.loss is not None else self.record)
        due = number % self.plan.look_every == 0
        if not due and not (is_record and self._copies(1, self.plan.look_steps)):
            return False
        return self._copies(self.plan.stop_samples, self.plan.sampler_steps)

    def _copies(self, samples: int, steps: int) -> bool:
        """Whether one of these samples is a copy, at the first scale that shows one."""
        return any(self._copies_at(scale, samples, steps) for scale in self.plan.guidance_scales)

    def _copies_at(self, scale: float, samples: int, steps: int) -> bool:
        given = Input(prompt=self.prompt, guidance_scale=scale)
        images = sampled_images(
            self.attempts.sampler,
            given,
            range(samples),
            rows=samples,
            steps=steps,
            streams=lambda _: self.generator,  # one stream for all: each look draws anew
        )
        self.sampling += samples * self.attempts.sampler.forwards(steps=steps, guidance_scale=scale)
        count, references = CopyCount(), {self.target.probe: self.target.references}
        count_copies(self.attempts.metric, images, references, {self.target.probe: count})
        return count.hits > 0

    def _fresh_streams(self) -> Streams:
        root = int(torch.randint(1 << 62, (1,), generator=self.generator))
        return lambda number: torch.Generator().manual_seed(root + number)

    def on_fresh_seeds(self) -> Generator[Sampled, None, Confirmed]:
        """Try the prompt again on seeds that had no part in finding it; the record counts all evaluations so far.

        The k-th prompt that is tried so has 1 / 2^k of the error: the search ends with the first that makes a copy.
        """
        self.tried += 1
        plan = PromptPlan(
            trials=self.plan.trials,
            sampler_steps=self.plan.sampler_steps,
            guidance_scales=self.plan.guidance_scales,
            confidence=1 - (1 - self.plan.confidence) / 2**self.tried,
            rows=self.plan.rows,
        )
        references = {self.target.probe: self.target.references}
        events = replication_of_prompt(
            self.attempts,
            references,
            self.prompt,
            plan,
            method="gcg",
            streams=self._fresh_streams(),
        )
        answers: list[Confirmed] = []
        for event in events:
            if isinstance(event, Confirmed):
                answers.append(event)
            else:
                yield event
        (answer,) = answers
        self.sampling += answer.confirmation.evaluations
        return replace(answer, confirmation=replace(answer.confirmation, evaluations=self.evaluations))


def _first_string(prompts: PromptEncoder, tokens: int, start: str) -> tuple[int, ...]:
    """`start` and then free places. Raises ConfigError for a start that is no text to the tokenizer."""
    length = min(tokens, prompts.positions)
    ids = prompts.tokenize(start)[:length]
    string = as_typed(prompts, (*ids, *[prompts.end_id] * (length - len(ids))))
    if string is None:
        raise ConfigError(
            "gcg: the prompt to start from does not come back from its own tokens",
            expected="text that the tokenizer reads as it writes it",
            do="start from the empty prompt",
        )
    return string
