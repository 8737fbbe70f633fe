"""What the network is told beside x_t: nothing, the probe's caption or label, or a soft prompt found with the noise."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.protocols import Condition, DiffusionModel, LabelEncoder, PromptEncoder, label_side, text_side
from invmm_gate.core.settings import TOLD, InversionSettings, Told, told
from invmm_gate.diffusion.prediction import join_rows, repeat_rows
from invmm_gate.measure.distributions import gumbel_noise, hard_tokens, prompt_entropy, soft_tokens
from invmm_gate.measure.slots import Slot, SlotAdam, Task, task_stream


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """The conditions of an optimisation step."""

    condition: Condition | None
    """`batch_size` rows for each slot."""
    leaf: Tensor | None = None
    """What is optimised behind them."""


@runtime_checkable
class Conditioning(Protocol):
    """The prompts of all slots."""

    def enter(self, slot: int, task: Task) -> None:
        """Make the slot ready for a new task."""
        ...

    def draw(self, active: Iterable[Slot]) -> Drawn:
        """Conditions for a step, one a row."""
        ...

    def step(self, gradient: Tensor) -> None:
        """Move what `draw` gave as its leaf."""
        ...

    def for_test(self, slot: Slot, purpose: str, samples: int) -> Condition | None:
        """The prompt of a test: one row for all samples, or one a sample."""
        ...

    def logits(self, slot: int) -> Float[Tensor, "position choice"] | None:
        """The slot's prompt distribution; None without one."""
        ...

    def entropies(self) -> list[float] | None:
        """Mean entropy of each slot's prompt distribution, in nats; None without one."""
        ...


def check_prompt_setting(model: DiffusionModel, settings: InversionSettings) -> None:
    """Raises ConfigError for a setting that is for models of another kind: told nothing, a class label or a prompt."""
    kind: Told = "nothing" if model.prompts is None else "label" if label_side(model) else "prompt"
    if told(settings.prompt) != kind:
        raise ConfigError(
            f"measure.settings.prompt is {settings.prompt!r} for {TOLD[kind]}",
            expected="caption, joint or prompt_only for text-to-image models, label for class-conditional ones, none "
            "for others",
            do="leave prompt out of the policy: each family's profile has its own",
        )


def conditioning(
    model: DiffusionModel,
    settings: InversionSettings,
    *,
    slots: int,
    root_seed: int,
    load_caption: Callable[[str], str],
    choices: Int[Tensor, " choice"] | None,
) -> Conditioning:
    """The conditioning that the settings ask for. Raises ConfigError where model and settings do not fit together."""
    check_prompt_setting(model, settings)
    if model.prompts is None:
        return Unconditional()
    if settings.prompt in ("caption", "label"):
        idle = "" if label_side(model) is None else "0"
        return Captions(model.prompts, slots=slots, batch=settings.batch_size, load_caption=load_caption, idle=idle)
    return soft_prompts(model, settings, slots=slots, root_seed=root_seed, load_caption=load_caption, choices=choices)


def soft_prompts(
    model: DiffusionModel,
    settings: InversionSettings,
    *,
    slots: int,
    root_seed: int,
    load_caption: Callable[[str], str],
    choices: Int[Tensor, " choice"] | None,
) -> "SoftPrompts":
    """The soft prompts of a model that takes prompts. Raises ConfigError for one that takes none."""
    prompts = text_side(model)
    if prompts is None:
        raise ConfigError(f"a model of family {model.family} takes no prompt", expected="a text-to-image model")
    if choices is None:
        choices = torch.arange(prompts.vocabulary)
    return SoftPrompts(
        prompts,
        settings,
        slots=slots,
        root_seed=root_seed,
        load_caption=load_caption,
        choices=choices.to(model.device),
    )


class Unconditional:
    """No prompts."""

    def enter(self, slot: int, task: Task) -> None:
        """Nothing to make ready."""

    def draw(self, active: Iterable[Slot]) -> Drawn:
        """No condition."""
        del active
        return Drawn(None)

    def step(self, gradient: Tensor) -> None:
        """Nothing to move."""

    def for_test(self, slot: Slot, purpose: str, samples: int) -> None:
        """No condition."""
        del slot, purpose, samples

    def logits(self, slot: int) -> None:
        """No prompt distribution."""
        del slot

    def entropies(self) -> None:
        """No prompt distribution."""
        return


class Captions(Unconditional):
    """The probe's caption, or its label in digits, encoded once: the setting behind Table 1 of the paper.

    `idle` is what rows without a task are told.
    """

    def __init__(
        self,
        prompts: PromptEncoder | LabelEncoder,
        *,
        slots: int,
        batch: int,
        load_caption: Callable[[str], str],
        idle: str = "",
    ) -> None:
        self._prompts, self._batch, self._load_caption = prompts, batch, load_caption
        self._conditions = [_encoded(prompts, idle)] * slots

    def enter(self, slot: int, task: Task) -> None:
        """Encode the probe's caption."""
        self._conditions[slot] = _encoded(self._prompts, self._load_caption(task.probe))

    def draw(self, active: Iterable[Slot]) -> Drawn:
        """Each slot's caption for all its rows."""
        del active
        return Drawn(repeat_rows(join_rows(self._conditions), self._batch))

    def for_test(self, slot: Slot, purpose: str, samples: int) -> Condition:  # type: ignore[override]
        """The caption."""
        del purpose, samples
        return self._conditions[slot.index]


class SoftPrompts:
    """A prompt distribution for each slot, in an Adam of its own; zero logits at first: every token equally likely."""

    def __init__(
        self,
        prompts: PromptEncoder,
        settings: InversionSettings,
        *,
        slots: int,
        root_seed: int,
        load_caption: Callable[[str], str],
        choices: Int[Tensor, " choice"],
    ) -> None:
        self._prompts, self._settings, self._root_seed = prompts, settings, root_seed
        self._load_caption, self._choices, self._device = load_caption, choices, choices.device
        self._shape = (min(settings.prompt_tokens, prompts.positions), len(choices))
        start = torch.zeros(1, slots, *self._shape, device=choices.device)
        self._adam = SlotAdam(start, learning_rate=settings.learning_rate)
        self._rest = [_encoded(prompts, "")] * slots
        self._streams: dict[int, torch.Generator] = {}

    def enter(self, slot: int, task: Task) -> None:
        """A uniform distribution, the task's own stream, and what the other text encoders see."""
        self._adam.reset(slot)
        self._streams[slot] = self._stream(task, "prompt")
        self._rest[slot] = self._encoded_rest(self._load_caption(task.probe))

    def draw(self, active: Iterable[Slot]) -> Drawn:
        """A soft prompt for each row (Eq. 18)."""
        logits = self._adam.parameters.detach().requires_grad_()
        batch, slots = self._settings.batch_size, logits.shape[1]
        gumbel = torch.zeros(slots, batch, *self._shape, device=self._device)
        for slot in active:
            gumbel[slot.index] = gumbel_noise((batch, *self._shape), self._streams[slot.index])
        weights = soft_tokens(logits[0][:, None], gumbel, self._settings.temperature).flatten(0, 1)
        return Drawn(self._mix(weights, repeat_rows(join_rows(self._rest), batch)), logits)

    def step(self, gradient: Tensor) -> None:
        """One Adam step of every slot's logits."""
        self._adam.step(gradient)

    def for_test(self, slot: Slot, purpose: str, samples: int) -> Condition:
        """Prompts drawn from the slot's distribution: soft, or hard where the settings say so.

        A shared prompt is that of all tests at a step, so that fresh noises certify the very prompt that was found.
        Prompts of single samples are as fresh as their noises.
        """
        rows, drawn_for = (samples, purpose) if self._settings.test_prompts == "per_sample" else (1, "test")
        generator = self._stream(slot.task, drawn_for, "prompt", slot.step)
        return self._drawn(self._adam.parameters[0, slot.index], self._rest[slot.index], rows, generator)

    def of(self, task: Task, step: int, logits: Float[Tensor, "position choice"]) -> Condition:
        """The prompt of the tests of a task at a step, from the distribution that the inversion left; one row."""
        rest = self._encoded_rest(self._load_caption(task.probe))
        return self._drawn(logits.to(self._device), rest, 1, self._stream(task, "test", "prompt", step))

    def _drawn(self, logits: Tensor, rest: Condition, rows: int, generator: torch.Generator) -> Condition:
        gumbel = gumbel_noise((rows, *self._shape), generator)
        logits, hard = logits.expand(rows, -1, -1), self._settings.hard_tests
        weights = hard_tokens(logits, gumbel) if hard else soft_tokens(logits, gumbel, self._settings.temperature)
        with torch.no_grad():
            return self._mix(weights, repeat_rows(rest, rows))

    def _encoded_rest(self, caption: str) -> Condition:
        return _encoded(self._prompts, caption if self._settings.other_prompt == "caption" else "")

    def logits(self, slot: int) -> Float[Tensor, "position choice"]:
        """A copy of the slot's logits."""
        return self._adam.parameters[0, slot].clone()

    def entropies(self) -> list[float]:
        """One for each slot."""
        entropies: list[float] = prompt_entropy(self._adam.parameters[0]).tolist()
        return entropies

    def _mix(self, weights: Tensor, rest: Condition) -> Condition:
        return self._prompts.mix(weights, self._choices, rest=rest, encoders=self._settings.soft_encoders)

    def _stream(self, task: Task, *purpose: str | int) -> torch.Generator:
        return task_stream(self._root_seed, task, *purpose, device=self._device)


def _encoded(prompts: PromptEncoder | LabelEncoder, prompt: str) -> Condition:
    with torch.no_grad():
        return prompts.encode([prompt])
