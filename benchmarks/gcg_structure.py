"""Our prompt search against the structure of the nanogcg package, on one fixed toy objective, at equal cost.

    python benchmarks/gcg_structure.py

The objective: 20 tokens of a vocabulary of 1,000 go through a small random causal network; the loss is the squared
distance of its outputs to those of a hidden string, so tokens interact and the best loss is 0. The baseline is written
after reading nanogcg 0.3.0 (buffer size 0): candidates drawn uniformly with replacement from each position's top-k, all
evaluated, the step's best replaces the current string even if it is worse; what counts is its best loss so far.
Prints a Markdown table; ends with 1 if ours is not at most the same in loss and in evaluations (medians over seeds).
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from invmm_gate.confirm.search import Search, SearchPlan, String

VOCABULARY, POSITIONS, WIDTH = 1000, 20, 24
MARKS = (500, 1000, 2000, 4000, 8000, 12800)

Curve = list[tuple[int, float]]
"""After each step: candidate evaluations so far, best loss so far."""


@dataclass(slots=True, eq=False)
class ToyNetwork:
    """One layer of causal attention and a tanh, with random weights."""

    seed: int
    evaluations: int = 0
    repeatable: bool = True
    _weights: dict[str, Tensor] = field(init=False)
    _wanted: Tensor = field(init=False)

    def __post_init__(self) -> None:
        random = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int, scale: float) -> Tensor:
            return torch.randn(*shape, generator=random) * scale

        self._weights = {
            "token": normal(VOCABULARY, WIDTH, scale=1.0),
            "place": normal(POSITIONS, WIDTH, scale=0.5),
            **{name: normal(WIDTH, WIDTH, scale=WIDTH**-0.5) for name in ("query", "key", "value", "up", "down")},
        }
        hidden = torch.randint(0, VOCABULARY, (1, POSITIONS), generator=random)
        self._wanted = self._outputs(self._weights["token"][hidden])

    def begin_step(self) -> None:
        """Nothing is drawn: the loss is fixed."""

    def gradient(self, string: String) -> Tensor:
        hot = torch.nn.functional.one_hot(torch.tensor(string), VOCABULARY).float().requires_grad_()
        return torch.autograd.grad(self._loss((hot @ self._weights["token"])[None]).sum(), hot)[0]

    @torch.no_grad()
    def losses(self, strings: Sequence[String], first: int, last: int) -> Tensor:
        self.evaluations += len(strings) * (last - first)
        return self._loss(self._weights["token"][torch.tensor(strings)])

    def _loss(self, embedded: Tensor) -> Tensor:
        return (self._outputs(embedded) - self._wanted).square().flatten(1).mean(dim=1)

    def _outputs(self, embedded: Tensor) -> Tensor:
        weights, x = self._weights, embedded + self._weights["place"]
        scores = (x @ weights["query"]) @ (x @ weights["key"]).transpose(1, 2) / WIDTH**0.5
        future = torch.ones(POSITIONS, POSITIONS).triu(1).bool()
        x = x + scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ (x @ weights["value"])
        return torch.tanh(x @ weights["up"]) @ weights["down"]


def nanogcg_structure(toy: ToyNetwork, seed: int, *, candidates: int, top_k: int, budget: int) -> Curve:
    """The baseline."""
    random = torch.Generator().manual_seed(seed)
    string, best, curve = (0,) * POSITIONS, float("inf"), list[tuple[int, float]]()
    while toy.evaluations + candidates <= budget:
        tokens = toy.gradient(string).topk(top_k, dim=1, largest=False).indices
        strings = torch.tensor(string).repeat(candidates, 1)
        position = torch.rand(candidates, POSITIONS, generator=random).argsort(dim=1)[:, 0]
        rank = torch.randint(0, top_k, (candidates,), generator=random)
        strings[torch.arange(candidates), position] = tokens[position, rank]
        losses = toy.losses(strings.tolist(), 0, 1)
        string = tuple(strings[losses.argmin()].tolist())
        best = min(best, float(losses.min()))
        curve.append((toy.evaluations, best))
    return curve


def ours(toy: ToyNetwork, seed: int, *, candidates: int, top_k: int, budget: int) -> Curve:
    """The search that the gate makes."""
    plan = SearchPlan(candidates=candidates, top_k=top_k)
    search = Search(
        objective=toy,
        allowed=torch.arange(VOCABULARY),
        accept=lambda string: string,
        plan=plan,
        generator=torch.Generator().manual_seed(seed),
        string=(0,) * POSITIONS,
    )
    curve: Curve = []
    while toy.evaluations + candidates + plan.merges + 1 <= budget:
        search.step()
        if search.loss is not None:
            curve.append((toy.evaluations, search.loss))
    return curve


def loss_at(curve: Curve, evaluations: int) -> float:
    """Best loss after at most so many candidate evaluations."""
    return min((loss for spent, loss in curve if spent <= evaluations), default=float("inf"))


def evaluations_to(curve: Curve, loss: float) -> float:
    """Candidate evaluations until the loss was this low; infinity if it never was."""
    return min((spent for spent, reached in curve if reached <= loss), default=float("inf"))


def curves(method: Callable[..., Curve], seeds: int, *, objective: int, candidates: int, top_k: int) -> list[Curve]:
    """One curve a seed, all on the same objective."""
    return [
        method(ToyNetwork(objective), seed, candidates=candidates, top_k=top_k, budget=MARKS[-1])
        for seed in range(seeds)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--objective", type=int, default=0, help="seed of the toy network")
    parser.add_argument("--candidates", type=int, default=128)
    parser.add_argument("--top-k", type=int, default=256)
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = {"objective": given.objective, "candidates": given.candidates, "top_k": given.top_k}
    theirs = curves(nanogcg_structure, given.seeds, **options)
    mine = curves(ours, given.seeds, **options)
    print(f"Objective {given.objective}, {given.seeds} seeds, {given.candidates} candidates a step, top {given.top_k}.")
    print("\n| candidate evaluations | median loss, nanogcg's structure | median loss, ours |\n|--:|--:|--:|")
    for mark in MARKS:
        pair = [median(loss_at(curve, mark) for curve in found) for found in (theirs, mine)]
        print(f"| {mark:,} | {pair[0]:.4f} | {pair[1]:.4f} |")
    final = [median(curve[-1][1] for curve in found) for found in (theirs, mine)]
    own = median(evaluations_to(curve, curve[-1][1]) for curve in theirs)
    needed = median(evaluations_to(curve, final[0]) for curve in mine)
    print(f"\nEvaluations to the baseline's median final loss, {final[0]:.4f}: ours {needed:,.0f} (median).")
    print(f"The baseline reached its own final loss after {own:,.0f} (median).")
    return 0 if final[1] <= final[0] and needed <= own else 1


if __name__ == "__main__":
    sys.exit(main())
