"""The closed-form text model: its text side reads as the wrapped one does, and its latent is a smaller image."""

import pytest
import torch
from torch import Tensor

from invmm_gate.core.protocols import CopyMetric, DiffusionModel, PromptEncoder
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.closed_form_text import TextMixture, TokenAffinities
from invmm_gate.diffusion.planted import COPY_RMSE, CopyOfPlanted, paling, patterns
from invmm_gate.diffusion.prediction import guided
from invmm_gate.diffusion.schedule import VariancePreserving
from invmm_gate.similarity.pixel import PixelRmse
from invmm_gate.similarity.sscd import EncoderCosine
from tests.confirm.text_world import BytePairPrompts, tokenizer_of, word_merges

WORDS = BytePairPrompts(tokenizer_of(word_merges()), torch.zeros(1, 1))
BASE = torch.tensor([0.0, -1.0, 2.0, 0.5])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PROMPTS = TokenAffinities(words=WORDS, affinity=drawn(WORDS.vocabulary, 4), lure=drawn(WORDS.vocabulary, 4, seed=1))


@pytest.fixture
def model(linear_schedule: VariancePreserving) -> TextMixture:
    images = drawn(4, 3, 4, 4).clamp(-1, 1)
    return TextMixture(images=images, base=BASE, prompts=PROMPTS, schedule=linear_schedule, image_size=(16, 12))


def test_it_is_a_model_and_a_text_side(model: TextMixture) -> None:
    assert isinstance(model, DiffusionModel)
    assert isinstance(PROMPTS, PromptEncoder)
    assert (model.family, model.released, model.guidance_distilled) == ("stable_diffusion", None, False)
    assert (PROMPTS.positions, PROMPTS.end_id, PROMPTS.special_ids) == (8, WORDS.end_id, WORDS.special_ids)
    assert PROMPTS.decode(PROMPTS.tokenize("river clock")) == "river clock"


def test_a_one_hot_mixture_is_the_hard_prompt_and_a_lure_is_nothing_in_either() -> None:
    ids = WORDS.tokenize("red cat of the river")
    hot = torch.nn.functional.one_hot(torch.tensor([ids]), WORDS.vocabulary).float()
    hard = PROMPTS.encode(["red cat of the river"])
    soft = PROMPTS.mix(hot, torch.arange(WORDS.vocabulary), rest=hard)
    torch.testing.assert_close(soft.tensors["log_weight"], hard.tensors["log_weight"])
    torch.testing.assert_close(hard.tensors["log_weight"], PROMPTS.affinity[list(ids)].sum(dim=0)[None])
    again = PROMPTS.encode(["red red cat of the the river"]).tensors["log_weight"]
    torch.testing.assert_close(again, hard.tensors["log_weight"])


def test_the_gradient_sees_affinity_and_lure_of_a_word_that_is_not_there() -> None:
    weights = torch.zeros(1, 2, WORDS.vocabulary, requires_grad=True)
    mixed = PROMPTS.mix(weights, torch.arange(WORDS.vocabulary), rest=PROMPTS.encode([""]))
    (gradient,) = torch.autograd.grad(mixed.tensors["log_weight"][0, 2], weights)
    torch.testing.assert_close(gradient[0, 1], PROMPTS.affinity[:, 2] + PROMPTS.lure[:, 2])


def test_the_estimate_is_that_of_the_mixture_with_the_prompts_weights_guided(model: TextMixture) -> None:
    level, x_t = model.schedule.at(torch.tensor([300, 700])), drawn(2, 3, 4, 4, seed=2)
    plain = MixtureDenoiser(model.images, BASE.exp(), model.schedule).estimate_x_0(x_t, level)
    said = MixtureDenoiser(model.images, model.chance("river"), model.schedule).estimate_x_0(x_t, level)
    condition = PROMPTS.encode(["river", "river"])
    torch.testing.assert_close(model.estimate_x_0(x_t, level, guidance_scale=7.0), plain)
    torch.testing.assert_close(model.estimate_x_0(x_t, level, condition=condition), said)
    torch.testing.assert_close(
        model.estimate_x_0(x_t, level, condition=condition, guidance_scale=7.0), guided(plain, said, 7.0)
    )
    assert [model.forwards(scale) for scale in (0.0, 1.0, 7.0)] == [1, 1, 2]


def test_a_small_image_comes_back_from_its_interpolation(model: TextMixture) -> None:
    decoded = model.decode(model.images)
    assert decoded.shape == (4, 3, 16, 12)
    torch.testing.assert_close(model.encode(decoded), model.images, atol=1e-5, rtol=1e-5)


def test_the_pattern_in_the_model_is_as_far_from_the_probe_as_copies_of_networks_are() -> None:
    image, metric = patterns(torch.Generator().manual_seed(3))[0], PixelRmse(0.1)
    features = [metric.embed(each[None]) for each in (image, paling(image) * image)]
    assert float(metric.compare(*features)) == pytest.approx(COPY_RMSE)


@pytest.mark.parametrize("higher_is_copy", [False, True])
def test_a_copy_that_is_nearer_to_another_pattern_is_none(model: TextMixture, higher_is_copy: bool) -> None:
    every = EncoderCosine(lambda images: images.flatten(1), name="pixels", threshold=-2.0) if higher_is_copy else None
    metric = CopyOfPlanted(metric=every or PixelRmse(2.0), model=model)
    assert isinstance(metric, CopyMetric)
    assert metric.higher_is_copy is higher_is_copy
    samples = model.decode(0.9 * model.images)
    values = metric.compare(metric.embed(samples), metric.embed(samples[:1]))
    assert metric.is_copy(values).tolist() == [True, False, False, False]
    assert metric.unfit_for(512, 512) == metric.metric.unfit_for(512, 512)


def test_a_value_that_is_nan_stays_nan_wherever_the_sample_lies(model: TextMixture) -> None:
    broken = EncoderCosine(lambda images: images.flatten(1) * torch.nan, name="broken", threshold=0.5)
    metric = CopyOfPlanted(metric=broken, model=model)
    samples = model.decode(model.images)
    assert bool(metric.compare(metric.embed(samples), metric.embed(samples[:1])).isnan().all())
