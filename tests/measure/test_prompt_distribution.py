"""The Gumbel-softmax against closed forms and against torch's own relaxed categorical distribution."""

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from invmm_gate.measure.distributions import gumbel_noise, hard_tokens, prompt_entropy, soft_tokens


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_logits(*shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=generator(1))


def test_gumbel_noise_has_the_moments_of_gumbel() -> None:
    drawn = gumbel_noise((200_000,), generator()).double()
    assert float(drawn.mean()) == pytest.approx(0.5772157, abs=0.01)  # Euler's constant
    assert float(drawn.var()) == pytest.approx(math.pi**2 / 6, rel=0.02)
    assert bool(drawn.isfinite().all())


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 2.0])
def test_soft_tokens_are_those_of_the_relaxed_categorical_distribution(temperature: float) -> None:
    logits = some_logits(5, 7)
    relaxed = torch.distributions.RelaxedOneHotCategorical(torch.tensor(temperature), logits=logits)
    weights = soft_tokens(logits, gumbel_noise((5, 7), generator()), temperature)
    # The density of what was drawn is finite, and the draw is the transform of the same uniform numbers.
    assert bool(relaxed.log_prob(weights.clamp_min(1e-30)).isfinite().all())
    uniform = (-(-gumbel_noise((5, 7), generator())).exp()).exp()
    scores = (logits.log_softmax(-1) - (-uniform.double().log()).log()) / temperature
    torch.testing.assert_close(weights.double(), scores.softmax(-1), atol=1e-5, rtol=1e-4)


def test_hard_tokens_are_drawn_with_the_distribution_s_own_probabilities() -> None:
    logits = some_logits(1, 6)
    drawn = hard_tokens(logits.expand(20_000, 1, 6), gumbel_noise((20_000, 1, 6), generator()))
    assert drawn.unique().tolist() == [0.0, 1.0]
    torch.testing.assert_close(drawn.mean(dim=0), logits.softmax(-1), atol=0.015, rtol=0)


def test_no_page_says_that_hard_tests_take_the_likeliest_token(root: Path) -> None:
    """They draw, as the test above shows."""
    pages = [*root.glob("*.md"), *root.glob("*/*.md"), *root.glob("docs/reference/*.md"), *root.glob("benchmarks/*.py")]
    assert len(pages) > 20
    said = re.compile(r"(most likely|likeliest) tokens?|drawn by argmax", re.IGNORECASE)
    assert [page.name for page in pages if said.search(page.read_text())] == []


@given(seed=st.integers(0, 2**31), temperature=st.floats(0.05, 5))
def test_soft_tokens_are_weights_that_favour_the_hard_token(seed: int, temperature: float) -> None:
    logits, gumbel = some_logits(3, 4, 9), gumbel_noise((3, 4, 9), generator(seed))
    weights = soft_tokens(logits, gumbel, temperature)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))
    assert bool((weights >= 0).all())
    hard = hard_tokens(logits, gumbel)
    torch.testing.assert_close((weights * hard).sum(-1), weights.amax(-1))


def test_a_low_temperature_gives_hard_tokens() -> None:
    logits, gumbel = some_logits(4, 8), gumbel_noise((4, 8), generator())
    torch.testing.assert_close(soft_tokens(logits, gumbel, 1e-3), hard_tokens(logits, gumbel), atol=1e-4, rtol=0)


def test_entropy_runs_from_one_prompt_to_all_prompts() -> None:
    even, certain = torch.zeros(1, 3, 50), torch.zeros(1, 3, 50)
    certain[..., 7] = 100
    assert prompt_entropy(even).tolist() == pytest.approx([math.log(50)])
    assert prompt_entropy(certain).tolist() == pytest.approx([0.0], abs=1e-6)
    assert prompt_entropy(torch.cat([even, certain])).tolist() == pytest.approx([math.log(50), 0.0], abs=1e-5)
