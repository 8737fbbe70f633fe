"""Greedy coordinate gradient on objectives whose best string is known."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from invmm_gate.confirm.search import Search, SearchPlan, String
from invmm_gate.core.errors import MeasurementError

VOCABULARY, POSITIONS = 40, 6


class Distance:
    """Squared distance of the summed, position-weighted embeddings to those of a hidden string."""

    def __init__(self, *, repeatable: bool = True, draws: int = 1) -> None:
        self.repeatable, self.draws = repeatable, draws
        random = torch.Generator().manual_seed(1)
        self.embedding = torch.randn(VOCABULARY, 8, generator=random)
        self.weight = 1 + torch.rand(POSITIONS, generator=random)
        self.hidden = tuple(torch.randint(0, VOCABULARY, (POSITIONS,), generator=random).tolist())
        self.noise = torch.Generator().manual_seed(2)
        self.offsets = torch.zeros(draws)
        self.seen: list[tuple[String, int, int]] = []
        self.steps: list[int] = []

    def _loss(self, hot: Tensor) -> Tensor:
        target = torch.nn.functional.one_hot(torch.tensor(self.hidden), VOCABULARY).float()
        difference = ((hot - target) @ self.embedding) * self.weight[:, None]
        return difference.square().sum(dim=(-1, -2)) + difference.sum(dim=-2).square().sum(dim=-1)

    def begin_step(self) -> None:
        self.steps.append(len(self.seen))
        if not self.repeatable:
            self.offsets = torch.randn(self.draws, generator=self.noise)

    def gradient(self, string: String) -> Tensor:
        hot = torch.nn.functional.one_hot(torch.tensor(string), VOCABULARY).float().requires_grad_()
        return torch.autograd.grad(self._loss(hot), hot)[0]

    def losses(self, strings: Sequence[String], first: int, last: int) -> Tensor:
        self.seen += [(string, first, last) for string in strings]
        hot = torch.nn.functional.one_hot(torch.tensor(strings), VOCABULARY).float()
        return self._loss(hot) + self.offsets[first:last].mean()


def search(
    objective: Distance,
    plan: SearchPlan,
    *,
    allowed: Sequence[int] = range(1, VOCABULARY),
    accept: object = None,
    seed: int = 0,
) -> Search:
    return Search(
        objective=objective,
        allowed=torch.tensor(allowed),
        accept=accept or (lambda string: string),  # type: ignore[arg-type]
        plan=plan,
        generator=torch.Generator().manual_seed(seed),
        string=(0,) * POSITIONS,
    )


PLAN = SearchPlan(candidates=32, top_k=16)


def test_the_hidden_string_is_found() -> None:
    objective = Distance()
    found = search(objective, PLAN)
    for _ in range(40):
        found.step()
    assert found.string == objective.hidden
    assert found.loss == pytest.approx(0.0, abs=1e-6)


def test_no_string_is_evaluated_twice_where_its_loss_cannot_change() -> None:
    objective = Distance()
    found = search(objective, PLAN)
    for _ in range(15):
        found.step()
    strings = [string for string, _, _ in objective.seen]
    assert len(strings) == len(set(strings))


def test_within_a_step_no_string_is_evaluated_twice_on_one_draw_though_its_loss_changes() -> None:
    objective = Distance(repeatable=False, draws=4)
    found = search(objective, SearchPlan(candidates=32, top_k=16, draws=(1, 4)))
    for _ in range(8):
        found.step()
    starts = [*objective.steps, len(objective.seen)]
    for first, last in pairwise(starts):
        assert len(objective.seen[first:last]) == len(set(objective.seen[first:last]))


def test_the_loss_never_rises_and_the_evaluations_are_those_that_were_made() -> None:
    objective = Distance()
    found = search(objective, PLAN)
    steps = [found.step() for _ in range(20)]
    losses = [step.loss for step in steps if step.loss is not None]
    assert losses == sorted(losses, reverse=True)
    assert sum(step.evaluations for step in steps) == len(objective.seen)
    assert all(step.changed == (step.string != before) for step, before in zip(
        steps, [(0,) * POSITIONS, *[step.string for step in steps]], strict=False
    ))  # fmt: skip


def test_halving_spends_all_draws_on_the_better_part_only() -> None:
    objective = Distance(repeatable=False, draws=16)
    found = search(objective, SearchPlan(candidates=32, top_k=16, draws=(4, 16), merges=0))
    step = found.step()
    first = [string for string, start, _ in objective.seen if start == 0]
    second = [string for string, start, _ in objective.seen if start == 4]
    assert (len(first), len(second)) == (33, 8)  # with the current string
    assert set(second) < set(first)
    assert step.evaluations == 33 * 4 + 8 * 12


def test_noise_that_all_strings_of_a_step_share_does_not_mislead_the_search() -> None:
    objective = Distance(repeatable=False, draws=4)
    found = search(objective, SearchPlan(candidates=32, top_k=16, draws=(1, 4)))
    for _ in range(40):
        found.step()
    assert found.string == objective.hidden


def test_what_is_not_allowed_is_never_put_in() -> None:
    objective = Distance()
    allowed = [token for token in range(1, VOCABULARY) if token not in objective.hidden]
    found = search(objective, PLAN, allowed=allowed)
    for _ in range(10):
        found.step()
    assert {token for string, _, _ in objective.seen for token in string} <= {0, *allowed}


def test_where_the_filter_refuses_everything_the_string_stays_and_the_search_goes_on() -> None:
    objective = Distance()
    refusing = [True]

    def accept(string: String) -> String | None:
        return None if refusing[0] else string

    found = search(objective, PLAN, accept=accept)
    for _ in range(3):
        step = found.step()
        assert (step.string, step.loss, step.evaluations, step.changed) == ((0,) * POSITIONS, None, 0, False)
    refusing[0] = False
    assert found.step().changed


def test_a_filter_that_refuses_most_strings_still_leaves_candidates() -> None:
    objective = Distance()
    found = search(objective, PLAN, accept=lambda string: string if sum(string) % 5 == 0 else None)
    for _ in range(10):
        found.step()
    assert all(sum(string) % 5 == 0 for string, _, _ in objective.seen)
    assert found.string != (0,) * POSITIONS


def test_a_neighbourhood_that_is_used_up_makes_the_search_look_wider() -> None:
    objective = Distance()
    found = search(objective, SearchPlan(candidates=64, top_k=1, merges=0))
    for _ in range(60):
        found.step()
    assert found.string == objective.hidden


def test_joining_the_best_changes_saves_steps() -> None:
    def steps_to_the_end(merges: int, seed: int) -> int:
        objective = Distance()
        found = search(objective, SearchPlan(candidates=32, top_k=16, merges=merges), seed=seed)
        for number in range(60):
            found.step()
            if found.string == objective.hidden:
                return number
        return 60

    assert sum(steps_to_the_end(8, seed) for seed in range(5)) < sum(steps_to_the_end(0, seed) for seed in range(5))


def test_the_same_generator_leads_the_same_way() -> None:
    ways = []
    for _ in range(2):
        found = search(Distance(), PLAN, seed=5)
        ways.append([found.step() for _ in range(5)])
    assert ways[0] == ways[1]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nan_is_an_error_and_no_result(what: str) -> None:
    class Broken(Distance):
        def gradient(self, string: String) -> Tensor:
            return super().gradient(string) * (torch.nan if what == "gradient" else 1.0)

        def losses(self, strings: Sequence[String], first: int, last: int) -> Tensor:
            return super().losses(strings, first, last) * (torch.nan if what == "loss" else 1.0)

    with pytest.raises(MeasurementError, match=f"{what} that is NaN or infinite"):
        search(Broken(), PLAN).step()
