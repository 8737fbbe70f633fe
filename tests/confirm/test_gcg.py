"""The prompt search on a model whose hidden trigger is known: found, typeable, and true again on fresh seeds."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from invmm_gate.confirm.counting import CopyCount, Input, count_copies, sampled_images
from invmm_gate.confirm.gcg import PromptTarget, Searched, find_prompt
from invmm_gate.confirm.plain_sampling import Confirmed, Sampled
from invmm_gate.confirm.prompt_objective import PromptObjective, as_typed, survives
from invmm_gate.confirm.prompt_sampling import Attempts
from invmm_gate.core.errors import ConfigError, MeasurementError
from invmm_gate.core.intervals import wilson
from invmm_gate.core.protocols import Condition
from invmm_gate.core.settings import GcgPlan, SoftEncoders
from invmm_gate.diffusion.samplers import GridSampler, prompts_of
from invmm_gate.measure.distributions import stream
from invmm_gate.similarity.pixel import PixelRmse
from tests.confirm.text_world import CAPTION, TRIGGERS, BytePairPrompts, TextMixture

METRIC = PixelRmse(0.1)
PLAN = GcgPlan(
    tokens=6, steps=30, candidates=64, top_k=32, guidance_scales=(3.0,), sampler_steps=10, look_steps=5, look_every=5
)
SHORT = replace(PLAN, steps=3, candidates=16, trials=8)


def target(images: Tensor, number: int) -> PromptTarget:
    return PromptTarget(probe=str(number), image=images[number], references=(METRIC.embed(images[number][None]),))


def hunted(
    model: TextMixture,
    images: Tensor,
    number: int,
    typeable: Tensor,
    *,
    plan: GcgPlan = PLAN,
    seed: int = 0,
    start: str = "",
) -> tuple[Confirmed, list[Searched]]:
    generator = torch.Generator().manual_seed(seed)
    wanted = replace(target(images, number), start=start)
    attempts = Attempts(sampler=GridSampler(model), prompts=prompts_of(model), metric=METRIC)
    events = list(find_prompt(model, attempts, wanted, plan, generator=generator, allowed=typeable))
    (result,) = [event for event in events if isinstance(event, Confirmed)]
    assert events[-1] is result
    return result, [event for event in events if isinstance(event, Searched)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_image_that_no_caption_brings_out_is_found_by_its_hidden_words(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor, seed: int
) -> None:
    assert max(text_model.chance(prompt, 1) for prompt in ("", CAPTION, *TRIGGERS)) < 1e-3
    result, _ = hunted(text_model, known_images, 1, typeable, seed=seed)
    record = result.confirmation
    assert (record.probe, record.method, record.status) == ("1", "gcg", "confirmed")
    assert record.prompt is not None
    assert text_model.chance(record.prompt, 1) > 0.5
    assert record.hits > 0
    assert record.interval == wilson(record.hits, 64, confidence=0.975), "the first prompt that was tried"
    assert (record.trials, record.guidance_scale) == (64, 3.0)
    assert result.copies


@pytest.mark.parametrize("number", [0, 1, 32])
def test_every_reported_prompt_survives_decoding_encoding_and_generation(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor, number: int
) -> None:
    record = hunted(text_model, known_images, number, typeable, plan=replace(PLAN, steps=12))[0].confirmation
    prompts = text_model.prompts
    assert prompts is not None
    assert record.prompt is not None
    assert record.token_ids is not None
    assert prompts.tokenize(record.prompt) == record.token_ids
    assert prompts.decode(record.token_ids) == record.prompt
    assert prompts.special_ids.isdisjoint(record.token_ids)
    assert len(record.token_ids) <= PLAN.tokens
    count = CopyCount()
    given = Input(prompt=record.prompt, guidance_scale=3.0)
    images = sampled_images(GridSampler(text_model), given, range(64), rows=64, steps=10, streams=partial(stream, 99))
    count_copies(METRIC, images, {"": target(known_images, number).references}, {"": count})
    assert (count.hits > 0) == (record.status == "confirmed") == (number != 32)
    assert abs(count.hits - record.hits) < 20


def test_an_image_that_is_not_in_the_model_is_refuted_within_the_budget_and_never_called_safe(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    plan = replace(PLAN, steps=8)
    result, steps = hunted(text_model, known_images, 32, typeable, plan=plan)
    record = result.confirmation
    assert (record.status, record.hits, record.trials) == ("refuted", 0, 64)
    assert record.interval.high > 0.01
    assert [event.step for event in steps] == list(range(1, 9))
    assert record.evaluations > steps[-1].evaluations
    assert result.copies == ()


def test_the_evaluations_are_the_networks_own(text_model: TextMixture, known_images: Tensor, typeable: Tensor) -> None:
    plan = replace(SHORT, rows=1)  # no row is padding
    record = hunted(text_model, known_images, 32, typeable, plan=plan)[0].confirmation
    assert record.evaluations == text_model.forward_rows + text_model.backward_rows


def test_the_evaluations_are_the_networks_own_at_several_scales_too(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    plan = replace(SHORT, rows=1, look_every=1, guidance_scales=(1.0, 3.0))
    record = hunted(text_model, known_images, 32, typeable, plan=plan)[0].confirmation
    assert record.evaluations == text_model.forward_rows + text_model.backward_rows


@pytest.mark.parametrize("scales", [(1.0, 3.0), (3.0, 1.0), (0.01, 3.0)])
def test_a_prompt_is_tried_at_every_scale_of_the_plan_up_to_the_first_that_shows_a_copy(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor, scales: tuple[float, ...]
) -> None:
    plan = replace(SHORT, steps=1, look_every=1, guidance_scales=scales)
    record = hunted(text_model, known_images, 0, typeable, plan=plan, start=CAPTION)[0].confirmation
    assert record.status == "confirmed"
    assert record.guidance_scale == next(scale for scale in scales if scale >= 1), "0.01 hardly follows a prompt"


def test_no_step_begins_that_could_go_beyond_the_budget(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    plan = replace(PLAN, steps=1000, trials=8, max_evaluations=8000)
    result, steps = hunted(text_model, known_images, 32, typeable, plan=plan)
    assert 3 < len(steps) < 30
    assert 6000 < result.confirmation.evaluations <= 8000
    assert result.confirmation.status == "refuted"
    with pytest.raises(ConfigError, match=r"max_evaluations is 500; expected at least .*one step and the fresh seeds"):
        hunted(text_model, known_images, 32, typeable, plan=replace(plan, max_evaluations=500))


def test_all_prompts_that_the_model_sees_are_text_without_special_tokens(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    prompts = text_model.prompts
    assert prompts is not None
    hunted(text_model, known_images, 1, typeable, plan=SHORT)
    seen = set(prompts.encoded) - {""}
    assert len(seen) > 30
    for prompt in seen:
        ids = prompts.tokenize(prompt)
        assert survives(prompts, ids)
        assert set(ids) <= set(typeable.tolist())


def test_a_prompt_to_start_from_is_used_and_may_be_longer_than_the_search(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    start = "river clock photo of the large small dog bird"
    _, steps = hunted(text_model, known_images, 1, typeable, plan=replace(PLAN, steps=1), start=start)
    assert "river" in steps[0].prompt.split() or "clock" in steps[0].prompt.split()
    assert text_model.prompts is not None
    assert len(text_model.prompts.tokenize(steps[0].prompt)) <= PLAN.tokens


def test_more_tokens_than_the_tokenizer_takes_are_cut_to_what_it_takes(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    record = hunted(text_model, known_images, 32, typeable, plan=replace(SHORT, tokens=75, steps=6))[0].confirmation
    assert len(record.token_ids or ()) <= BytePairPrompts.positions


def test_the_same_seed_gives_the_same_record_and_copies(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    first, _ = hunted(text_model, known_images, 1, typeable, seed=4)
    again, _ = hunted(text_model, known_images, 1, typeable, seed=4)
    assert first.confirmation == again.confirmation
    assert all(torch.equal(one, other) for one, other in zip(first.copies, again.copies, strict=True))


class CopiesOnce(PixelRmse):
    """Sees one copy, in the first batch of several samples, and none again."""

    def __init__(self) -> None:
        super().__init__(0.1)
        self.batches = 0

    def compare(self, features: Tensor, reference: Tensor) -> Tensor:
        values = super().compare(features, reference)
        if len(values) == PLAN.stop_samples:
            self.batches += 1
            if self.batches == 1:
                values[0] = 0.0
        return values


def test_a_copy_in_the_search_that_fresh_seeds_do_not_repeat_leaves_the_probe_undecided(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    plan = replace(PLAN, steps=7, look_every=5)
    generator = torch.Generator().manual_seed(0)
    attempts = Attempts(sampler=GridSampler(text_model), prompts=prompts_of(text_model), metric=CopiesOnce())
    wanted = target(known_images, 32)
    events = list(find_prompt(text_model, attempts, wanted, plan, generator=generator, allowed=typeable))
    assert isinstance(events[-1], Confirmed)
    record = events[-1].confirmation
    searched = [event for event in events if isinstance(event, Searched)]
    assert (record.status, record.hits, record.trials) == ("undecided", 0, 64)
    assert record.prompt == searched[4].prompt  # that of the look which saw the copy
    assert len(searched) == 7  # the search went on
    assert sum(event.samples for event in events if isinstance(event, Sampled)) == 128


class CopiesAtTheSecondTry(PixelRmse):
    """Each look sees a copy; of the fresh seeds those of the second prompt that is tried see one."""

    def __init__(self) -> None:
        super().__init__(0.1)
        self.fresh = 0

    def compare(self, features: Tensor, reference: Tensor) -> Tensor:
        values = super().compare(features, reference)
        self.fresh += len(values) == PLAN.rows
        if len(values) == PLAN.stop_samples or self.fresh > PLAN.trials // PLAN.rows:
            values[0] = 0.0
        return values


def test_each_prompt_that_is_tried_on_fresh_seeds_takes_half_of_the_error_that_is_left(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    plan = replace(PLAN, steps=20, look_every=5)
    attempts = Attempts(sampler=GridSampler(text_model), prompts=prompts_of(text_model), metric=CopiesAtTheSecondTry())
    wanted, generator = target(known_images, 32), torch.Generator().manual_seed(0)
    *_, last = find_prompt(text_model, attempts, wanted, plan, generator=generator, allowed=typeable)
    assert isinstance(last, Confirmed)
    record = last.confirmation
    assert (record.status, record.interval) == ("confirmed", wilson(record.hits, 64, confidence=1 - 0.05 / 4))


def objective(model: TextMixture, images: Tensor, typeable: Tensor, **changed: object) -> PromptObjective:
    assert model.prompts is not None
    fields: dict[str, object] = {
        "model": model,
        "prompts": model.prompts,
        "x_0": images[1][None],
        "allowed": typeable,
        "stages": (4, 16),
        "rows": 8,
        "generator": torch.Generator().manual_seed(0),
    }
    made = PromptObjective(**(fields | changed))  # type: ignore[arg-type]
    made.begin_step()
    return made


def string(model: TextMixture, text: str, length: int = 6) -> tuple[int, ...]:
    assert model.prompts is not None
    ids = model.prompts.tokenize(text)
    typed = as_typed(model.prompts, (*ids, *[model.prompts.end_id] * (length - len(ids))))
    assert typed is not None
    return typed


def test_candidates_share_timesteps_and_noises_within_a_step_and_get_new_ones_at_the_next(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    loss = objective(text_model, known_images, typeable)
    strings = [string(text_model, text) for text in ("river", "clock", "river", "red cat")]
    first = loss.losses(strings, 0, 16)
    assert first[0] == first[2]
    torch.testing.assert_close(loss.losses(strings[::-1], 0, 16), first.flip(0), rtol=1e-6, atol=1e-7)
    halves = (4 * loss.losses(strings, 0, 4) + 12 * loss.losses(strings, 4, 16)) / 16
    torch.testing.assert_close(halves, first, rtol=1e-6, atol=1e-7)
    loss.begin_step()
    assert not torch.equal(loss.losses(strings, 0, 16), first)


@pytest.mark.parametrize("rows", [1, 3, 16, 64])
def test_loss_and_gradient_do_not_depend_on_the_rows_of_a_call(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor, rows: int
) -> None:
    strings = [string(text_model, text) for text in ("river olive", "clock", "red cat")]
    one, other = (objective(text_model, known_images, typeable, rows=count) for count in (8, rows))
    torch.testing.assert_close(one.losses(strings, 0, 4), other.losses(strings, 0, 4), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(one.gradient(strings[0]), other.gradient(strings[0]), rtol=1e-4, atol=1e-7)


def test_the_gradient_says_what_a_swap_does_and_forbids_what_cannot_be_typed(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    loss = objective(text_model, known_images, typeable)
    current = string(text_model, "river olive")
    gradient = loss.gradient(current)
    assert gradient.shape == (6, loss.prompts.vocabulary)
    forbidden = sorted(set(range(loss.prompts.vocabulary)) - set(typeable.tolist()))
    assert set(loss.prompts.special_ids) <= set(forbidden)
    assert bool(gradient[:, forbidden].isposinf().all())
    assert bool(gradient[:, typeable].isfinite().all())
    (clock,) = loss.prompts.tokenize("clock")
    assert clock in gradient[2].topk(3, largest=False).indices
    better = loss.losses([string(text_model, "river olive clock"), current], 0, 16)
    assert better[0] < better[1]


def test_timesteps_are_spread_over_the_schedule_in_each_stage(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    loss = objective(text_model, known_images, typeable)
    for _ in range(20):
        loss.begin_step()
        timesteps = loss._timestep
        for part in (timesteps[:4].tolist(), timesteps[4:].tolist()):
            for place, timestep in enumerate(part):
                assert int(place * 1000 / len(part)) <= timestep < (place + 1) * 1000 / len(part)


class BrokenPrompts(BytePairPrompts):
    def mix(self, weights: Tensor, choices: Tensor, *, rest: Condition, encoders: SoftEncoders = "first") -> Condition:
        mixed = super().mix(weights, choices, rest=rest, encoders=encoders)
        return Condition(tensors={"log_weight": mixed.tensors["log_weight"] * torch.nan})


def test_a_gradient_that_is_nan_is_an_error_of_the_probe(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    assert text_model.prompts is not None
    text_model.prompts = BrokenPrompts(text_model.prompts.tokenizer, text_model.prompts.affinity)
    with pytest.raises(MeasurementError, match="gradient that is NaN or infinite"):
        hunted(text_model, known_images, 1, typeable)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tokens": 0}, "gcg: tokens is 0; expected at least 1"),
        ({"trials": 0}, "gcg: trials is 0"),
        ({"guidance_scales": ()}, "guidance_scales is empty; expected at least one"),
        ({"first_noises": 32}, "first_noises is 32; expected at most noises, which is 16"),
    ],
)
def test_a_plan_that_makes_no_search_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(PLAN, **wrong)


def test_a_model_without_prompts_is_refused(text_model: TextMixture, known_images: Tensor, typeable: Tensor) -> None:
    text_model.prompts = None
    with pytest.raises(ConfigError, match="takes no prompt"):
        hunted(text_model, known_images, 1, typeable)


def test_a_start_that_is_no_text_to_the_tokenizer_is_refused(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    with pytest.raises(ConfigError, match="does not come back from its own tokens"):
        hunted(text_model, known_images, 1, typeable, start="river <|startoftext|> clock")


def test_the_gradient_is_taken_at_the_string_itself_also_where_a_token_of_it_is_not_allowed(
    text_model: TextMixture, known_images: Tensor, typeable: Tensor
) -> None:
    """A caption's word pieces cannot be typed alone, so they are never allowed, yet they are part of the prompt."""
    current = string(text_model, "river olive")
    without_river = typeable[typeable != current[0]]
    at_all = objective(text_model, known_images, typeable).gradient(current)
    at_fewer = objective(text_model, known_images, without_river).gradient(current)
    assert bool(at_fewer[:, current[0]].isposinf().all())
    torch.testing.assert_close(at_fewer[:, without_river], at_all[:, without_river], rtol=1e-4, atol=1e-7)
