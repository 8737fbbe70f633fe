"""A prompt's replications: counted on fresh seeds, for a whole cluster at once, at every scale that was asked for."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from invmm_gate.confirm.plain_sampling import Confirmed, Sampled
from invmm_gate.confirm.prompt_sampling import Attempts, PromptMethod, PromptPlan, replication_of_prompt
from invmm_gate.core.errors import ConfigError, MeasurementError
from invmm_gate.core.intervals import wilson
from invmm_gate.core.protocols import Condition, NoiseLevel
from invmm_gate.core.records import Confirmation
from invmm_gate.diffusion.closed_form import MixtureDenoiser
from invmm_gate.diffusion.samplers import GridSampler, prompts_of
from invmm_gate.measure.distributions import stream
from invmm_gate.similarity.pixel import PixelRmse
from invmm_gate.similarity.sscd import EncoderCosine
from tests.confirm.text_world import CAPTION, TRIGGERS, TextMixture

METRIC = PixelRmse(0.1)
COSINE = EncoderCosine(lambda images: images.flatten(1), name="pixels", threshold=0.9)
PLAN = PromptPlan(trials=64, sampler_steps=10, guidance_scales=(1.0,))
TRIGGER = " ".join(TRIGGERS)
STREAMS = partial(stream, 3)


def tried(
    model: TextMixture,
    images: Tensor,
    prompt: str,
    *numbers: int,
    plan: PromptPlan = PLAN,
    method: PromptMethod = "caption",
    metric: PixelRmse | EncoderCosine = METRIC,
) -> dict[str, Confirmed]:
    references = {str(number): (metric.embed(images[number][None]),) for number in numbers}
    attempts = Attempts(sampler=GridSampler(model), prompts=prompts_of(model), metric=metric)
    events = replication_of_prompt(attempts, references, prompt, plan, method=method, streams=STREAMS)
    return {event.confirmation.probe: event for event in events if isinstance(event, Confirmed)}


def records(results: Mapping[str, Confirmed]) -> dict[str, Confirmation]:
    return {probe: result.confirmation for probe, result in results.items()}


def test_a_caption_that_brings_out_its_image_is_confirmed_with_the_prompt_and_its_tokens(
    text_model: TextMixture, known_images: Tensor
) -> None:
    result = tried(text_model, known_images, CAPTION, 0)["0"]
    record = result.confirmation
    assert (record.method, record.status, record.prompt) == ("caption", "confirmed", CAPTION)
    assert record.hits >= 60
    assert (record.trials, record.guidance_scale, record.evaluations) == (64, 1.0, 640)
    assert record.interval == wilson(record.hits, 64)
    assert text_model.prompts is not None
    assert text_model.prompts.decode(record.token_ids or ()) == CAPTION
    assert len(result.copies) == 4
    for copy in result.copies:
        assert float(METRIC.compare(METRIC.embed(copy[None]), METRIC.embed(known_images[:1]))) <= METRIC.threshold


def test_captions_do_not_bring_out_the_image_that_hides_behind_other_words(
    text_model: TextMixture, known_images: Tensor
) -> None:
    for prompt in (CAPTION, "photo of the river", "photo of the clock", "olive tree", ""):
        record = tried(text_model, known_images, prompt, 1)["1"].confirmation
        assert (record.status, record.hits) == ("refuted", 0)
        assert record.interval.high > 0.01  # within these seeds; no proof of absence


def test_the_interval_covers_the_chance_that_the_model_gives_the_image(
    text_model: TextMixture, known_images: Tensor
) -> None:
    prompt, plan = "photo of the large moon", replace(PLAN, trials=256)
    numbers = range(2, 32)
    results = records(tried(text_model, known_images, prompt, *numbers, plan=plan))
    covered = sum(
        results[str(number)].interval.low <= text_model.chance(prompt, number) <= results[str(number)].interval.high
        for number in numbers
    )
    assert covered >= 28


def test_one_set_of_samples_answers_for_a_whole_cluster(text_model: TextMixture, known_images: Tensor) -> None:
    numbers = (0, 1, 5, 32)
    together = records(tried(text_model, known_images, TRIGGER, *numbers, method="cluster_prompt"))
    spent = text_model.forward_rows
    for number in numbers:
        alone = records(tried(text_model, known_images, TRIGGER, number, method="cluster_prompt"))
        assert alone[str(number)] == together[str(number)]
    assert spent == 64 * 10
    assert together["1"].status == "confirmed"
    assert together["32"].status == "refuted"
    assert {record.method for record in together.values()} == {"cluster_prompt"}


def test_scales_are_tried_in_order_until_one_replicates_and_all_of_them_are_counted(
    text_model: TextMixture, known_images: Tensor
) -> None:
    plan = replace(PLAN, guidance_scales=(0.0, 3.0, 1.0))
    result = records(tried(text_model, known_images, CAPTION, 0, 32, plan=plan))
    assert (result["0"].status, result["0"].guidance_scale) == ("confirmed", 3.0)
    assert result["0"].evaluations == 640 + 2 * 640
    assert result["0"].interval.confidence == pytest.approx(1 - 0.05 / 3)
    assert result["32"].evaluations == 640 + 2 * 640 + 640
    assert (result["32"].status, result["32"].trials) == ("refuted", 64)


@pytest.mark.parametrize("metric", [METRIC, COSINE], ids=["low is copy", "high is copy"])
def test_without_a_copy_the_scale_that_came_closest_is_reported(
    text_model: TextMixture, known_images: Tensor, metric: PixelRmse | EncoderCosine
) -> None:
    each = [
        records(tried(text_model, known_images, "", 32, metric=metric, plan=replace(PLAN, guidance_scales=(scale,))))[
            "32"
        ]
        for scale in (0.0, 1.0)
    ]
    both = records(
        tried(text_model, known_images, "", 32, metric=metric, plan=replace(PLAN, guidance_scales=(0.0, 1.0)))
    )["32"]
    assert both.closest is not None
    assert both.closest in (each[0].closest, each[1].closest)  # the noises are the same at each scale
    assert not metric.is_copy(torch.tensor([both.closest]))
    better = max if metric.higher_is_copy else min
    assert both.closest == better(both.closest, each[0].closest or 0.0)


def test_many_trials_stop_at_the_first_look_that_saw_a_copy(text_model: TextMixture, known_images: Tensor) -> None:
    plan = replace(PLAN, trials=256)
    result = records(tried(text_model, known_images, CAPTION, 0, 32, plan=plan))
    assert (result["0"].trials, result["32"].trials) == (64, 256)
    assert result["0"].interval.confidence == pytest.approx(1 - 0.05 / 3)


def test_progress_adds_up_to_the_samples_that_were_drawn(text_model: TextMixture, known_images: Tensor) -> None:
    plan = replace(PLAN, trials=40, guidance_scales=(1.0, 3.0))
    references = {"32": (METRIC.embed(known_images[32][None]),)}
    attempts = Attempts(sampler=GridSampler(text_model), prompts=prompts_of(text_model), metric=METRIC)
    events = list(replication_of_prompt(attempts, references, "", plan, method="caption", streams=STREAMS))
    assert [event.samples for event in events if isinstance(event, Sampled)] == [32, 8, 32, 8]
    assert text_model.calls == {plan.rows}


def test_a_caption_beyond_the_limit_is_reported_as_the_tokens_that_the_model_saw(
    text_model: TextMixture, known_images: Tensor
) -> None:
    record = records(tried(text_model, known_images, " ".join([CAPTION] * 3), 0))["0"]
    assert text_model.prompts is not None
    assert len(record.token_ids or ()) == text_model.prompts.positions


class Broken(TextMixture):
    def estimate_x_0(
        self, x_t: Tensor, level: NoiseLevel, *, condition: Condition | None = None, guidance_scale: float = 1.0
    ) -> Tensor:
        return super().estimate_x_0(x_t, level, condition=condition, guidance_scale=guidance_scale) * torch.nan


def test_samples_that_are_nan_refute_nothing(text_model: TextMixture, known_images: Tensor) -> None:
    broken = Broken(text_model.images, text_model.schedule, base=text_model.base, prompts=text_model.prompts)
    with pytest.raises(MeasurementError, match="sampling on the measure's grid gave NaN or infinity"):
        tried(broken, known_images, CAPTION, 0)


def test_a_model_without_prompts_is_refused(
    mixture: Callable[..., MixtureDenoiser], text_model: TextMixture, known_images: Tensor
) -> None:
    wanted = {"0": (METRIC.embed(known_images[:1]),)}
    attempts = Attempts(sampler=GridSampler(mixture()), prompts=prompts_of(text_model), metric=METRIC)
    events = replication_of_prompt(attempts, wanted, "x", PLAN, method="caption", streams=STREAMS)
    with pytest.raises(ConfigError, match="takes no prompt; expected a text-to-image model"):
        next(events)


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"rows": 0}, {"sampler_steps": 0}, {"guidance_scales": ()}])
def test_a_plan_that_tries_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="never be tried"):
        replace(PLAN, **wrong)
