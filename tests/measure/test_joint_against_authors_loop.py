"""Joint inversion against the authors' loop written straight down: one torch.optim.Adam over mu, log_var and logits.

In float64, without the package's optimiser, distributions or slots; it shares the random numbers and the model.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from invmm_gate.core.settings import InversionSettings
from invmm_gate.diffusion.schedule import VariancePreserving
from invmm_gate.measure.distributions import stream
from tests.measure.bench import measure, probe
from tests.measure.text_model import BagOfWords, WordMixture, word_mixture

SETTINGS = InversionSettings(
    steps=30, batch_size=4, test_every=5, sampler_steps=4, control_loss="total", prompt="joint", prompt_tokens=4,
    learning_rate=0.05, weight_step=1e-3, guidance_scales=(1.0, 3.0),
)  # fmt: skip


def authors_loop(model: WordMixture, x_0: Tensor, settings: InversionSettings, content: str) -> list[tuple[float, ...]]:
    """(loss, normality, entropy) at each test."""
    shape = (settings.batch_size, settings.prompt_tokens, BagOfWords.vocabulary)
    mu, log_var = (torch.zeros_like(x_0, dtype=torch.float64, requires_grad=True) for _ in range(2))
    logits = torch.zeros(shape[1:], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([mu, log_var, logits], lr=settings.learning_rate)
    noises, prompts = (stream(0, content, 0, 0, purpose) for purpose in ("noise", "prompt"))
    weight, previous, logged, seen = settings.initial_weight, float("inf"), [], []
    for step in range(1, settings.steps + 1):
        gumbel = -torch.empty(shape).exponential_(generator=prompts).log().double()
        standard = torch.randn(settings.batch_size, *x_0.shape, generator=noises).double()
        level = model.schedule.at(torch.randint(1000, (settings.batch_size,), generator=noises))
        soft = torch.softmax((torch.log_softmax(logits, -1) + gumbel) / settings.temperature, -1)
        alpha, sigma = (value.double().view(-1, 1, 1, 1) for value in (level.alpha, level.sigma))
        x_t = alpha * x_0.double() + sigma * (mu + (log_var / 2).exp() * standard)
        known = model.images.double().flatten(1)
        scores = (model.base.double() + soft.sum(1) @ model.affinity.double()).log_softmax(-1)
        distance = (x_t.flatten(1)[:, None] - alpha.flatten(1)[:, None] * known[None]).square().sum(2)
        x_0_hat = (scores - distance / (2 * sigma.flatten(1).square())).softmax(1) @ known
        kl = 0.5 * (mu.square() + log_var.exp() - log_var - 1).mean()
        loss = (x_0_hat.view_as(x_t) - x_0.double()).square().mean() + weight * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logged = [*logged, loss.item()][-settings.loss_window :]
        if step % settings.test_every:
            weight += settings.weight_step
            continue
        now = sum(logged) / len(logged)
        weight = weight / 2 if previous - now < settings.plateau_tolerance else weight + settings.weight_step
        previous = now
        chances = logits.detach().softmax(-1)
        entropy = -(chances * chances.log()).sum(-1).mean().item()
        seen.append((now, (0.5 * (mu.square() + log_var.exp() - log_var - 1).mean()).item(), entropy))
    return seen


@pytest.mark.parametrize("change", [{}, {"temperature": 0.5}, {"loss_window": 4}], ids=["tau 2", "tau 0.5", "window"])
@pytest.mark.parametrize("number", [1, 32], ids=["planted without trigger", "absent"])
def test_joint_inversion_takes_the_steps_of_the_authors_loop(
    known_images: Tensor, linear_schedule: VariancePreserving, number: int, change: dict[str, float]
) -> None:
    model, settings = word_mixture(known_images[:32], linear_schedule), replace(SETTINGS, **change)
    expected = authors_loop(model, known_images[number], settings, probe(number).sha256)
    run = measure(model, known_images, [number], settings=settings, captions={number: "g"}, slots=2)
    (trial,) = run.measurements[number].trials
    found = [(point.control_loss, point.normality, point.prompt_entropy) for point in trial.curve]
    # Float32 against float64 over 30 steps that Adam carries on: relative 2e-3.
    assert found == [pytest.approx(each, rel=2e-3) for each in expected[: len(found)]]
    assert len(found) >= 2
