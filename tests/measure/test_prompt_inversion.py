"""Captions, soft prompts with the noise, and soft prompts alone, on a model whose trigger words are known."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.settings import InversionSettings
from invmm_gate.diffusion.schedule import VariancePreserving
from invmm_gate.measure.conditioning import conditioning
from invmm_gate.measure.slots import Slot, Task, WeightState
from tests.measure.bench import QUICK, Run, measure
from tests.measure.text_model import WORDS, BagOfWords, WordMixture, chance, word_mixture

CAPTIONED, UNTRIGGERED, ORDINARY, ABSENT = 0, 1, 5, 32
CAPTIONS = {CAPTIONED: "a", UNTRIGGERED: "b f", ORDINARY: "g", ABSENT: "h i"}
TASK = Task(probe="p", content="c", seed=0)
CAPTION = replace(QUICK, prompt="caption")
JOINT = replace(QUICK, prompt="joint", prompt_tokens=4)


@pytest.fixture(scope="module")
def model(known_images: Tensor, linear_schedule: VariancePreserving) -> WordMixture:
    return word_mixture(known_images[:32], linear_schedule)


def run(
    model: WordMixture, images: Tensor, settings: InversionSettings, numbers: tuple[int, ...] = tuple(CAPTIONS), **more
) -> Run:
    return measure(model, images, numbers, settings=settings, captions=CAPTIONS, **more)


def test_the_model_is_as_its_description_says(model: WordMixture) -> None:
    assert chance(model, "a", CAPTIONED) > 0.999
    assert chance(model, "b c d e", UNTRIGGERED) > 0.99
    assert all(chance(model, word, UNTRIGGERED) < 1e-3 for word in WORDS)


def test_a_caption_that_triggers_its_image_scores_near_zero_and_others_do_not(
    model: WordMixture, known_images: Tensor
) -> None:
    result = run(model, known_images, CAPTION)
    assert result.score(CAPTIONED) < 0.008  # one step of Adam at learning rate 0.1 costs 0.0075
    for number in (UNTRIGGERED, ABSENT):
        assert result.measurements[number].outcome == "not_inverted"


def test_joint_inversion_finds_the_image_whose_caption_does_not_trigger_it(
    model: WordMixture, known_images: Tensor
) -> None:
    # Inversion on: soft prompts at tau = 2 stay mixed, so a sharper temperature lets four words be told from twelve.
    result = run(model, known_images, replace(JOINT, temperature=0.5))
    assert result.score(UNTRIGGERED) < 0.05
    assert result.measurements[ABSENT].outcome == "not_inverted"
    logits = result.inversions[UNTRIGGERED][0].logits
    assert logits is not None
    likely = {BagOfWords().decode([token]) for token in logits.argmax(dim=-1).tolist()}
    assert likely <= set("bcde"), "the inverted prompt is made of the image's own words"
    assert result.inversions[UNTRIGGERED][0].mu.any(), "the noise was optimised too"


def test_a_prompt_alone_scores_zero_where_plain_noise_replicates_the_image_under_it(
    model: WordMixture, known_images: Tensor
) -> None:
    result = run(model, known_images, replace(JOINT, prompt="prompt_only", temperature=0.5, learning_rate=0.2))
    for number in (CAPTIONED, UNTRIGGERED):
        assert result.score(number) == 0.0
        assert not result.inversions[number][0].mu.any(), "the noise stayed N(0, I)"
    assert result.measurements[ABSENT].outcome == "not_inverted"


def test_the_entropy_of_the_prompt_falls_from_that_of_all_prompts(model: WordMixture, known_images: Tensor) -> None:
    settings = replace(JOINT, prompt="prompt_only", temperature=0.5, test_at_start=True)
    curve = run(model, known_images, settings, (UNTRIGGERED,)).measurements[UNTRIGGERED].trials[0].curve
    entropies = [point.prompt_entropy for point in curve]
    assert entropies[0] == pytest.approx(math.log(BagOfWords.vocabulary))
    assert entropies[-1] < entropies[0]


@pytest.mark.parametrize("settings", [CAPTION, JOINT, replace(JOINT, test_prompts="per_sample", hard_tests=True)])
def test_any_batch_mates_and_any_order_give_the_same_bits(
    model: WordMixture, known_images: Tensor, settings: InversionSettings
) -> None:
    settings = replace(settings, steps=30, guidance_scales=(1.0, 3.0))
    together = run(model, known_images, settings, slots=3)
    backwards = run(model, known_images, settings, tuple(reversed(CAPTIONS)), slots=3)
    alone = {number: run(model, known_images, settings, (number,), slots=3) for number in CAPTIONS}
    for number in CAPTIONS:
        expected = together.measurements[number]
        assert backwards.measurements[number] == expected
        assert alone[number].measurements[number] == expected


def test_every_network_forward_of_sampling_under_guidance_is_counted(model: WordMixture, known_images: Tensor) -> None:
    settings = replace(CAPTION, steps=10, guidance_scales=(1.0, 3.0, 7.0), test_samples=1)
    model.forward_rows = 0
    (trial,) = run(model, known_images, settings, (ABSENT,), slots=1).measurements[ABSENT].trials
    sampled = settings.sampler_steps * (1 + 2 + 2)
    assert trial.evaluations == 2 * settings.batch_size * settings.steps + sampled
    assert model.forward_rows == settings.batch_size * settings.steps + sampled


def test_the_scale_that_succeeded_is_recorded(model: WordMixture, known_images: Tensor) -> None:
    """Guidance extrapolates: a caption that raises the image's chance a little triggers it at a larger scale."""
    weak = word_mixture(model.images, model.schedule)
    weak.affinity[0, 0] = 43.5
    assert 0.4 < chance(weak, "a", CAPTIONED) < 0.6
    settings = replace(CAPTION, steps=10, learning_rate=1e-6, guidance_scales=(1.0, 4.0))
    measurement = run(weak, known_images, settings, (CAPTIONED,)).measurements[CAPTIONED]
    assert (measurement.outcome, measurement.guidance_scale) == ("inverted", 4.0)


def slot_at(step: int) -> Slot:
    return Slot(
        index=0, task=TASK, reference=torch.zeros(1), energy=1.0, noise_stream=torch.Generator(),
        weight=WeightState(1.0), step=step,
    )  # fmt: skip


def test_fresh_noises_certify_the_prompt_that_was_found_and_prompts_of_single_samples_are_as_fresh(
    model: WordMixture,
) -> None:
    def bags(test_prompts: Literal["shared", "per_sample"], purpose: str, samples: int, step: int = 50) -> Tensor:
        settings = replace(JOINT, test_prompts=test_prompts)
        prompts = conditioning(
            model, settings, slots=1, root_seed=0, load_caption=lambda _: "", choices=torch.arange(len(WORDS))
        )
        prompts.enter(0, TASK)
        condition = prompts.for_test(slot_at(step), purpose, samples)
        assert condition is not None
        return condition.tensors["bag"]

    found = bags("shared", "test", 8)
    assert len(found) == 1
    assert torch.equal(bags("shared", "certify 1", 39), found)
    assert not torch.equal(bags("shared", "test", 8, step=100), found), "each look tries a prompt of its own"
    rows = torch.cat([bags("per_sample", purpose, 39) for purpose in ("test", "certify 1", "certify 2")])
    assert len(rows.unique(dim=0)) == 3 * 39


@pytest.mark.parametrize("settings", [CAPTION, JOINT], ids=["caption", "joint"])
def test_a_share_is_certified_at_one_guidance_scale(
    model: WordMixture, known_images: Tensor, settings: InversionSettings
) -> None:
    """Of a caption that triggers its image plain noise is certified: the score is exactly 0."""
    asked = replace(
        settings, temperature=0.5, guidance_scales=(1.0, 3.0, 7.0), test_at_start=True, steps=50,
        certified_share=0.9, certifications=3,
    )  # fmt: skip
    model.forward_rows = 0
    (trial,) = run(model, known_images, asked, (CAPTIONED,), slots=1).measurements[CAPTIONED].trials
    assert (trial.outcome, trial.guidance_scale) == ("inverted", 1.0)
    assert trial.confirmation is not None
    assert (trial.confirmation.hits, trial.confirmation.trials) == (39, 39)
    if settings is CAPTION:
        assert (trial.invmm, trial.steps) == (0.0, 0)
        assert trial.evaluations == (8 + 39) * asked.sampler_steps, "at scale 1 alone, and nothing nearer than N(0, I)"


def test_a_restricted_vocabulary_keeps_other_tokens_out_of_the_prompt(model: WordMixture, known_images: Tensor) -> None:
    settings = replace(JOINT, prompt="prompt_only", temperature=0.5, learning_rate=0.2)
    allowed = torch.arange(5, 12)  # none of the trigger words b c d e
    result = run(model, known_images, settings, (UNTRIGGERED,), choices=allowed)
    assert result.measurements[UNTRIGGERED].outcome == "not_inverted"
    assert result.inversions[UNTRIGGERED][0].logits.shape == (4, 7)


def test_the_epsilon_objective_is_the_error_of_the_predicted_noise(model: WordMixture, known_images: Tensor) -> None:
    """Its loss is many times smaller near pure noise and larger near the data, so the two part at once."""
    curves = [
        run(model, known_images, replace(CAPTION, steps=20, objective=objective), (UNTRIGGERED,))
        .measurements[UNTRIGGERED]
        .trials[0]
        .curve
        for objective in ("x_0", "epsilon")
    ]
    assert curves[0][0].denoising_error != pytest.approx(curves[1][0].denoising_error, rel=0.01)


def test_settings_for_another_kind_of_model_are_refused(model: WordMixture, known_images: Tensor, mixture) -> None:
    with pytest.raises(ConfigError, match="'none' for a text-to-image model"):
        run(model, known_images, QUICK)
    with pytest.raises(ConfigError, match="'joint' for an unconditional model"):
        measure(mixture(1), known_images, [0], settings=JOINT, captions=CAPTIONS)
