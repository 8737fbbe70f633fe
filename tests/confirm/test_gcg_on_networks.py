"""The prompt search on real pipelines: tiny networks with random weights, each family's own tokenizers and encoders."""

from functools import cache, partial

import pytest
import torch
from torch import Tensor

from invmm_gate.confirm.counting import Input, sampled_images
from invmm_gate.confirm.gcg import PromptTarget, Searched, find_prompt
from invmm_gate.confirm.plain_sampling import Confirmed
from invmm_gate.confirm.prompt_objective import PromptObjective, typeable_ids
from invmm_gate.confirm.prompt_sampling import Attempts
from invmm_gate.core.settings import GcgPlan
from invmm_gate.diffusion.prediction import repeat_rows
from invmm_gate.diffusion.samplers import GridSampler
from invmm_gate.measure.distributions import stream
from invmm_gate.models.adapters.text_to_image import TextToImageModel
from invmm_gate.similarity.pixel import PixelRmse
from tests.models.tiny_text import NAMES, build

PLAN = GcgPlan(
    tokens=5, steps=3, candidates=8, top_k=16, noises=4, first_noises=2, merges=2, guidance_scales=(3.0,),
    sampler_steps=3, look_steps=2, look_every=2, stop_samples=2, trials=4, rows=8,
)  # fmt: skip


@cache
def pipeline(name: str) -> tuple[TextToImageModel, Tensor]:
    model = build(name).model
    return model, typeable_ids(model.prompts)


def searched(name: str, image: Tensor, threshold: float) -> tuple[Confirmed, list[Searched]]:
    model, allowed = pipeline(name)
    metric = PixelRmse(threshold)
    target = PromptTarget(probe="p", image=image, references=(metric.embed(image[None]),))
    generator = torch.Generator().manual_seed(0)
    attempts = Attempts(sampler=GridSampler(model), prompts=model.prompts, metric=metric)
    events = list(find_prompt(model, attempts, target, PLAN, generator=generator, allowed=allowed))
    (result,) = [event for event in events if isinstance(event, Confirmed)]
    return result, [event for event in events if isinstance(event, Searched)]


def drawn(model: TextToImageModel, prompt: str) -> Tensor:
    given = Input(prompt=prompt, guidance_scale=3.0)
    steps, streams = PLAN.sampler_steps, partial(stream, 1)
    return sampled_images(GridSampler(model), given, range(4), rows=4, steps=steps, streams=streams)


@pytest.mark.parametrize("name", NAMES)
def test_every_familys_prompt_survives_decoding_encoding_and_generation(name: str) -> None:
    model, _ = pipeline(name)
    height, width = model.image_size
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(2)) * 2 - 1
    result, steps = searched(name, image, 1e-6)
    record = result.confirmation
    assert (record.status, record.hits, record.trials) == ("refuted", 0, PLAN.trials)
    assert [step.step for step in steps] == [1, 2, 3]
    assert record.prompt
    assert record.token_ids
    assert model.prompts.tokenize(record.prompt) == record.token_ids
    assert model.prompts.decode(record.token_ids) == record.prompt
    assert model.prompts.special_ids.isdisjoint(record.token_ids)
    again = model.prompts.decode(model.prompts.tokenize(record.prompt))
    assert torch.equal(drawn(model, again), drawn(model, record.prompt))


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_prompt_that_replicates_is_confirmed_on_fresh_seeds_with_its_copies(name: str) -> None:
    model, _ = pipeline(name)
    result, steps = searched(name, drawn(model, "a red cat")[0], 10.0)  # any sample is near enough
    record = result.confirmation
    assert (record.status, record.hits, record.trials) == ("confirmed", PLAN.trials, PLAN.trials)
    assert len(steps) == 1
    assert len(result.copies) == 4


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_through_the_encoders_is_that_of_the_loss(name: str) -> None:
    """Against a finite difference in the weight of one token, at the first place and at a free one."""
    model, allowed = pipeline(name)
    prompts, (height, width) = model.prompts, model.image_size
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3)) * 2 - 1
    generator = torch.Generator().manual_seed(0)
    objective = PromptObjective(
        model=model, prompts=prompts, x_0=model.encode(image), allowed=allowed, stages=(4,), rows=8, generator=generator
    )
    objective.begin_step()
    (cat,) = prompts.tokenize("cat")
    current = (cat, prompts.end_id, prompts.end_id)
    gradient = objective.gradient(current)
    columns = torch.cat([allowed, torch.tensor([prompts.end_id])])
    hot = (torch.tensor(current)[:, None] == columns).float()[None]

    def loss(weights: Tensor) -> float:
        condition = prompts.mix(weights, columns, rest=prompts.encode(["cat"]), encoders="clip")
        level = model.schedule.at(objective._timestep)
        x_0 = objective.x_0.expand(4, -1, -1, -1)
        x_t = level.alpha[:, None, None, None] * x_0 + level.sigma[:, None, None, None] * objective._eps
        x_0_hat = model.estimate_x_0(x_t, level, condition=repeat_rows(condition, 4))
        return float((x_0_hat - x_0).double().square().mean())

    for place in (0, 1):
        token = int(allowed[gradient[place, allowed].abs().argmax()])
        nudge = 0.01 * torch.nn.functional.one_hot(torch.tensor([place]), 3)[0, :, None] * (columns == token)
        slope = (loss(hot + nudge) - loss(hot - nudge)) / 0.02
        assert float(gradient[place, token]) == pytest.approx(slope, rel=0.1)
