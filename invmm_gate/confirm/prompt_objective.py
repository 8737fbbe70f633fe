"""The objective of a prompt search, the denoising error of one image, and the tokens that a user can type."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.core.errors import MeasurementError
from invmm_gate.core.protocols import Condition, DiffusionModel, PromptEncoder
from invmm_gate.diffusion.prediction import denoising_error, join_rows, repeat_rows, take_rows


def survives(prompts: PromptEncoder, ids: Sequence[int]) -> bool:
    """Whether these ids, and no others, are what the text of `ids` becomes; special ids never do."""
    return prompts.special_ids.isdisjoint(ids) and prompts.tokenize(prompts.decode(ids)) == tuple(ids)


def can_be_typed(prompts: PromptEncoder, token: int, *, ascii_only: bool = False) -> bool:
    """Whether a token survives alone and twice in a row, as printable text.

    Pieces that only stand inside a word do not survive alone; marks whose spacing a tokenizer tidies up, not twice.
    Control characters would come back, but nobody types them.
    """
    twice = survives(prompts, [token]) and survives(prompts, [token, token])
    return twice and _on_a_keyboard(prompts.decode([token]), ascii_only=ascii_only)


def typeable_ids(prompts: PromptEncoder, *, ascii_only: bool = False) -> Int[Tensor, " choice"]:
    """Ids that can be typed, ascending. Raises MeasurementError where none does.

    Worth keeping: it decodes and tokenizes the whole vocabulary, seconds for CLIP's.
    """
    found = [token for token in range(prompts.vocabulary) if can_be_typed(prompts, token, ascii_only=ascii_only)]
    if not found:
        raise MeasurementError(
            "no token of the vocabulary can be typed: none comes back from its own text",
            expected="a tokenizer that reads what it writes",
            do="check the checkpoint's tokenizer files",
        )
    return torch.tensor(found)


def as_typed(prompts: PromptEncoder, ids: Sequence[int]) -> tuple[int, ...] | None:
    """A string of fixed length as it would reach the model: its text first, free places last; None if it is no text.

    A free place holds the end-of-text id. It leaves no trace in the text, wherever it stood: what a search evaluates
    and what is reported are one and the same prompt. Written out, such a place would be special-token text.
    """
    text = [token for token in ids if token != prompts.end_id]
    if text and not survives(prompts, text):
        return None
    return (*text, *[prompts.end_id] * (len(ids) - len(text)))


def text_of(prompts: PromptEncoder, ids: Sequence[int]) -> str:
    """The prompt that a string stands for, free places left out."""
    text = [token for token in ids if token != prompts.end_id]
    return prompts.decode(text) if text else ""


@final
@dataclass(slots=True, eq=False, kw_only=True)
class PromptObjective:
    """An `Objective` of confirm/search.py: the x_0-loss over timesteps and noises that all prompts of a step share.

    Timesteps are stratified within each stage of the halving: unbiased, and prompts differ less by chance. Candidates
    are evaluated as text, so as a user would type them; only the gradient goes through embeddings, and only through the
    encoders that read the first one's tokens: another one splits a prompt at other places.
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


def _on_a_keyboard(text: str, *, ascii_only: bool) -> bool:
    return text.isprintable() and (text.isascii() or not ascii_only)
