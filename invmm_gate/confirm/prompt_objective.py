"""The objective of a prompt search: the denoising error of one image, given the prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.confirm.typeable import text_of
from invmm_gate.core.protocols import Condition, DiffusionModel, PromptEncoder
from invmm_gate.diffusion.conditions import join_rows, repeat_rows, take_rows
from invmm_gate.diffusion.denoising_error import denoising_error


@final
@dataclass(slots=True, eq=False, kw_only=True)
class PromptObjective:
    """An `Objective` of confirm/search.py: the x_0-loss over timesteps and noises that all prompts of a step share.

    Timesteps are stratified within each stage of the halving: unbiased, and prompts differ less by chance. Candidates
    are evaluated as text, so as a user would type them; only the gradient goes through embeddings.
    Source: arXiv:2405.05846v3, appendix 8.3.
    """

    model: DiffusionModel
    prompts: PromptEncoder
    x_0: Float[Tensor, "1 channel height width"]
    allowed: Int[Tensor, " choice"]
    stages: tuple[int, ...]
    """Draws of a step after each stage, ascending."""
    rows: int
    generator: torch.Generator
    evaluations: int = field(default=0, init=False)
    """Network forwards so far; a backward pass counts as one."""
    _eps: Tensor = field(default_factory=lambda: torch.empty(0), init=False)
    _timestep: Tensor = field(default_factory=lambda: torch.empty(0), init=False)

    @property
    def repeatable(self) -> bool:
        """Each step has its own noises."""
        return False

    def begin_step(self) -> None:
        """Draw timesteps and noises, on the CPU: the same on every device."""
        device, count = self.model.device, self.stages[-1]
        sizes = [last - first for first, last in zip((0, *self.stages), self.stages, strict=False)]
        self._timestep = torch.cat([self._stratified(size) for size in sizes]).to(device)
        self._eps = torch.randn(count, *self.x_0.shape[1:], generator=self.generator).to(device)

    def _stratified(self, count: int) -> Int[Tensor, " draw"]:
        """One timestep from each of `count` equal parts of the schedule."""
        timesteps = self.model.schedule.timesteps
        shares = (torch.arange(count) + torch.rand(count, generator=self.generator, dtype=torch.float64)) / count
        return (shares * timesteps).long().clamp_max(timesteps - 1)

    def gradient(self, string: Sequence[int]) -> Float[Tensor, "position vocabulary"]:
        """Gradient over all draws in the one-hot weights; +inf for tokens that are not allowed."""
        # What the string holds beside the allowed tokens (a caption's word pieces) must be in the mixture too.
        held = sorted({self.prompts.end_id, *string} - set(self.allowed.tolist()))
        columns = torch.cat([self.allowed, torch.tensor(held, dtype=torch.long)]).to(self.model.device)
        tokens = torch.tensor(string, device=self.model.device)
        hot = (tokens[:, None] == columns[None]).float()[None]
        rest = self.prompts.encode([text_of(self.prompts, string)])
        total = torch.zeros_like(hot)
        for draws, size in self._batches(self.stages[-1]):
            weights = hot.clone().requires_grad_()
            with torch.enable_grad():
                condition = self.prompts.mix(weights, columns, rest=rest, encoders="clip")
                errors = self._errors(repeat_rows(condition, len(draws)), draws)[:size]
                total += torch.autograd.grad(errors.sum(), weights)[0]
        self.evaluations += 2 * self.stages[-1]
        gradient = torch.full((len(string), self.prompts.vocabulary), torch.inf, device=total.device)
        allowed = len(self.allowed)
        gradient[:, columns[:allowed]] = total[0, :, :allowed] / self.stages[-1]
        return gradient

    @torch.no_grad()
    def losses(self, strings: Sequence[Sequence[int]], first: int, last: int) -> Float[Tensor, " candidate"]:
        """Mean denoising error of each prompt, as text, over these draws."""
        condition = self._encoded([text_of(self.prompts, string) for string in strings])
        each = last - first
        parts = [
            self._errors(take_rows(condition, pair // each), first + pair % each)[:size]
            for pair, size in self._batches(len(strings) * each)
        ]
        self.evaluations += len(strings) * each
        return torch.cat(parts).view(len(strings), each).mean(dim=1)

    def _encoded(self, texts: Sequence[str]) -> Condition:
        starts = range(0, len(texts), self.rows)
        return join_rows([self.prompts.encode(texts[start : start + self.rows]) for start in starts])

    def _errors(self, condition: Condition, draws: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        x_0 = self.x_0.expand(len(draws), -1, -1, -1)
        return denoising_error(self.model, x_0, self._eps[draws], self._timestep[draws], condition=condition)

    def _batches(self, count: int) -> Iterator[tuple[Int[Tensor, " row"], int]]:
        """Indices 0 to count - 1, always `rows` at a time (the last repeated), and how many of them are wanted."""
        for start in range(0, count, self.rows):
            index = torch.arange(start, start + self.rows, device=self.model.device).clamp_max(count - 1)
            yield index, min(self.rows, count - start)
