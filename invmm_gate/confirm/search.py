"""Greedy coordinate gradient (GCG): change one token of a string at a time, led by the loss's gradient.

Source: arXiv:2307.15043, Algorithm 1. What is different here: no string is evaluated twice in a step (or ever, where
its loss cannot change), every position gets its part of the candidates, the best changes are also tried together, and
the current string gives way only to a better one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invmm_gate.core.errors import MeasurementError

String = tuple[int, ...]


@runtime_checkable
class Objective(Protocol):
    """A loss over strings of token ids; low = better."""

    @property
    def repeatable(self) -> bool:
        """Whether a string has the same loss at every step; if not, losses compare only within a step."""
        ...

    def begin_step(self) -> None:
        """Draw what all strings of the step share."""
        ...

    def gradient(self, string: String) -> Float[Tensor, "position vocabulary"]:
        """Gradient of the loss in the one-hot weights of each position; tokens not allowed may hold anything."""
        ...

    def losses(self, strings: Sequence[String], first: int, last: int) -> Float[Tensor, " candidate"]:
        """Mean loss of each string over the step's draws from `first` to before `last`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """The width of a step of the search."""

    candidates: int = 128
    top_k: int = 256
    """Tokens that a position may change to: those with the lowest gradient."""
    draws: tuple[int, ...] = (1,)
    """Successive halving: candidates are dropped after each of these draws; the last is how many a step has."""
    merges: int = 8
    """Strings that join a step's best changes, tried after its candidates."""
    proposals: int = 16
    """Changes looked at per candidate that is wanted, where the filter refuses many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The result of a step."""

    string: String
    loss: float | None
    """The loss of the string, on the draws of this step; None where no candidate passed the filter."""
    evaluations: int
    """Losses computed, each of one string on one draw; what the gradient takes is not in it."""
    changed: bool


@dataclass(frozen=True, slots=True)
class _Candidate:
    string: String
    change: tuple[int, int] | None = None
    """(position, token) that makes it of the current string; None for the current string itself and for joined ones."""


_Ranked = list[tuple[float, _Candidate]]


@final
@dataclass(slots=True, eq=False, kw_only=True)
class Search:
    """A search and where it stands; two with equal arguments go the same way."""

    objective: Objective
    allowed: Int[Tensor, " choice"]
    """Token ids that may be put in, on the CPU."""
    accept: Callable[[String], String | None]
    """The string as it would reach the model; None for one that a user cannot type."""
    plan: SearchPlan
    generator: torch.Generator
    string: String
    loss: float | None = None
    _evaluations: int = field(default=0, init=False)
    _tried: set[String] = field(default_factory=set, init=False)
    _reach: int = field(default=0, init=False)

    def step(self) -> Step:
        """Draw candidates, evaluate them, try the best changes together, and move on to the best string."""
        self._evaluations = 0
        self.objective.begin_step()
        found = self._candidates()
        if not found:
            # Nothing new within reach: the string stays, and the next step looks further down the gradient.
            self._reach += self.plan.top_k
            return Step(string=self.string, loss=None, evaluations=0, changed=False)
        own = _Candidate(self.string)
        if self.objective.repeatable and self.loss is not None:
            ranked = _in_order([(self.loss, own), *self._evaluated(found)])
        else:
            ranked = self._evaluated([own, *found])
        ranked = _in_order([*ranked, *self._evaluated(self._joined(ranked))])
        self.loss, best = ranked[0]
        changed, self.string = best.string != self.string, best.string
        return Step(string=self.string, loss=self.loss, evaluations=self._evaluations, changed=changed)

    def _candidates(self) -> list[_Candidate]:
        """Strings one change away that can be typed and were not tried; fewer than asked for where few pass."""
        if not self.objective.repeatable:
            self._tried.clear()
        self._tried.add(self.string)
        found: list[_Candidate] = []
        for change in islice(self._changes(), self.plan.candidates * self.plan.proposals):
            string = self._untried([change])
            if string is not None:
                found.append(_Candidate(string, change))
            if len(found) == self.plan.candidates:
                break
        return found

    def _changes(self) -> Iterator[tuple[int, int]]:
        """Each position with each of its best tokens, once: the positions in turn, their tokens in random order."""
        gradient = self.objective.gradient(self.string).cpu()[:, self.allowed]
        _refuse_non_finite(gradient, "gradient")
        reach = min(self.plan.top_k + self._reach, len(self.allowed))
        best = self.allowed[gradient.topk(reach, dim=1, largest=False).indices]
        order = torch.rand(best.shape, generator=self.generator).argsort(dim=1)
        for tokens in best.gather(1, order).T.tolist():
            for position in torch.randperm(len(tokens), generator=self.generator).tolist():
                yield position, tokens[position]

    def _untried(self, changes: Sequence[tuple[int, int]]) -> String | None:
        """The current string with these changes, noted as tried; None where it was tried or cannot be typed."""
        tokens = list(self.string)
        for position, token in changes:
            tokens[position] = token
        string = self.accept(tuple(tokens))
        if string is None or string in self._tried:
            return None
        self._tried.add(string)
        return string

    def _joined(self, ranked: _Ranked) -> list[_Candidate]:
        """The two best changes of different positions together, the three best, and so on."""
        changes: dict[int, int] = {}
        joined: list[_Candidate] = []
        for _, candidate in ranked:
            if candidate.change is None or len(joined) == self.plan.merges:
                break
            position, token = candidate.change
            if position in changes:
                continue
            changes[position] = token
            string = self._untried(list(changes.items())) if len(changes) > 1 else None
            if string is not None:
                joined.append(_Candidate(string))
        return joined

    def _evaluated(self, candidates: list[_Candidate]) -> _Ranked:
        """The candidates that came through every stage, lowest loss first."""
        left, total, first = candidates, torch.zeros(len(candidates)), 0
        for last in self.plan.draws if candidates else ():
            losses = self.objective.losses([candidate.string for candidate in left], first, last).cpu()
            _refuse_non_finite(losses, "loss")
            self._evaluations += len(left) * (last - first)
            total, first = total + losses * (last - first), last
            keep = max(1, len(left) * last // self.plan.draws[-1])
            rows = total.argsort(stable=True)[:keep].tolist()
            left, total = [left[row] for row in rows], total[rows]
        return list(zip((total / first).tolist() if first else [], left, strict=True))


def _in_order(ranked: _Ranked) -> _Ranked:
    return sorted(ranked, key=lambda entry: entry[0])


def _refuse_non_finite(values: Tensor, what: str) -> None:
    if not bool(values.isfinite().all()):
        raise MeasurementError(
            f"the prompt search met a {what} that is NaN or infinite",
            expected="finite values",
            do="check the checkpoint's weights",
        )
