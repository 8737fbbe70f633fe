"""Every setting in which a policy is weaker than the shipped `strict` is said; nothing else is."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from invmm_gate.core.marks import HIGHER, LOWER, MISSING, OTHER, Direction
from invmm_gate.core.settings import PROFILES, InversionSettings
from invmm_gate.policy.field_types import SettingsOverrides
from invmm_gate.policy.rules.invmm_below import InvmmBelowConfig
from invmm_gate.policy.schema import Policy
from invmm_gate.policy.weaknesses import _limit_weaker, directions, measure_weaknesses, weaknesses
from tests.policy.policy_builders import PERMISSIVE, STANDARD, STRICT, policy_with

SETTINGS = {item.name: item for item in dataclasses.fields(InversionSettings)}
CONFIRM = STRICT.confirm.model_dump(mode="json")
RULES = STRICT.model_dump(mode="json")["rules"]
BELOW, CONFIRMED, LIKELY, CONTROLS, GROUPED = RULES
METRIC = STRICT.model_dump(mode="json")["metric"]


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model that a type can hold, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models(field.annotation)
    for inner in typing.get_args(annotation):
        yield from models(inner)


def test_no_field_of_a_policy_is_without_a_direction() -> None:
    found = {model: set(model.model_fields) for model in models(Policy)} | {InversionSettings: set(SETTINGS)}
    assert set(found.pop(SettingsOverrides)) == set(SETTINGS), "what a policy can change is compared as resolved"
    assert {model: set(directions(model)) for model in found} == found


def marks(model: type) -> list[Direction]:
    return [] if model is SettingsOverrides else list(directions(model).values())


WEAKENS = {each.why for each in (LOWER, HIGHER, OTHER, MISSING)} | {"weaker"}


def test_a_direction_that_says_never_weaker_says_why() -> None:
    said = [direction.why for model in (*models(Policy), InversionSettings) for direction in marks(model)]
    assert all(said)
    assert {each.why for each in marks(InversionSettings)} <= WEAKENS, "each can weaken the measure"


def weaker_value(name: str) -> Any:
    """A value that a policy may have, weaker than strict's for text-to-image models."""
    now = getattr(STRICT.resolve_settings("stable_diffusion"), name)
    direction = directions(InversionSettings)[name]
    chosen = {"steps": 50, "test_every": 25, "stop_margin": 0.0, "loss_window": 7, "guidance_scales": [0.5]}
    chosen |= {"averaging": 0.5, "certified_share": 0.99, "image_size": 512}
    if name in chosen:
        return chosen[name]
    if isinstance(now, str):
        literals = typing.get_args(SettingsOverrides.model_fields[name].annotation)
        return next(value for value in literals if value not in (now, "none"))
    if isinstance(now, bool):
        return not now
    return now - 1 if direction is LOWER else now + 1


def said_of(policy: Policy, key: str) -> list[str]:
    return [text for text in weaknesses(policy) if text.startswith(f"{key} ")]


@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - {"stop_above", "mirror"}))
def test_each_setting_of_the_measure_that_a_policy_weakens_is_said(name: str) -> None:
    value = weaker_value(name)
    found = said_of(policy_with(STRICT, measure={"settings": {name: value}}), f"measure.settings.{name}")
    assert found, value
    assert all(", in strict " in text for text in found)


def test_an_early_stop_that_a_policy_sets_itself_is_said_and_one_that_follows_from_its_threshold_is_not() -> None:
    rules = [BELOW | {"threshold_nats": 8.0}, CONFIRMED, CONTROLS, GROUPED, LIKELY]
    assert len(weaknesses(policy_with(STRICT, rules=rules))) == 1
    stopped = policy_with(STRICT, rules=rules, measure={"settings": {"stop_above": 0.02, "certifications": 1}})
    assert said_of(stopped, "measure.settings.stop_above") == [
        "measure.settings.stop_above is 0.02, in strict not set: lower is weaker",
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"test_samples": 10_000}, "test_samples is 10000, in strict 8"),
        ({"test_samples": 1}, "test_samples is 1, in strict 8"),
        ({"certified_share": 0.99}, "certified_share is 0.99, in strict 0.9: higher is weaker"),
        (
            {"learning_rate": 1e-6},
            "learning_rate is 1e-06, in strict 0.03 (family pixel, latent, class_pixel, class_latent): strict's "
            "thresholds hold for",
        ),
        (
            {"initial_weight": 1e5},
            "initial_weight is 100000.0, in strict 0.1 (family pixel, latent, class_pixel, class_latent): strict's",
        ),
        ({"sampler_steps": 1}, "sampler_steps is 1, in strict 50: strict's thresholds hold for"),
        ({"stop_after": 0, "stop_tests": 1, "stop_margin": 0.0}, "stop_margin is 0.0, in strict 0.5: lower is weaker"),
        ({"batch_size": 6}, "batch_size is 6, in strict 8: "),
        ({"steps": 50}, "steps is 50, in strict 150 (family pixel, class_pixel): lower is weaker"),
        ({"steps": 50}, "steps is 50, in strict 300 (family latent, class_latent): lower is weaker"),
    ],
)
def test_what_weakens_the_measure_is_said_with_both_values(settings: dict[str, Any], words: str) -> None:
    found = measure_weaknesses(policy_with(STRICT, measure={"settings": settings}))
    assert any(text.startswith(f"measure.settings.{words}") for text in found), found


PROMPTS, SAMPLING = CONFIRM["prompts"], CONFIRM["plain_sampling"]


def confirming(**changes: Any) -> dict[str, Any]:
    return {"confirm": CONFIRM | changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"measure": {"profile": "reference"}}, "measure.profile is reference, in strict gate: "),
        ({"metric": [METRIC[0] | {"threshold": 0.021}, METRIC[1]]}, "metric[0].threshold is 0.021, in strict 0.1: low"),
        ({"metric": [METRIC[0], METRIC[1] | {"threshold": 0.9}]}, "metric[1].threshold is 0.9, in strict 0.5: higher"),
        (
            {"metric": [METRIC[0] | {"up_to": 32}, METRIC[1]]},
            "metric[1].name is sscd_disc_large, in strict pixel_rmse for images up to 64 pixels: ",
        ),
        (
            {"metric": [METRIC[0] | {"up_to": None}]},
            "metric[0].name is pixel_rmse, in strict sscd_disc_large for all larger images: ",
        ),
        (
            {"metric": [{"name": "pixel_l2_neighbours", "threshold": 0.1}]},
            "metric[0].name is pixel_l2_neighbours, in strict pixel_rmse for images up to 64 pixels: ",
        ),
        (confirming(plain_sampling=SAMPLING | {"trials": 1}), "confirm.plain_sampling.trials is 1, in strict 512: low"),
        (confirming(plain_sampling=SAMPLING | {"sampler_steps": 1}), "confirm.plain_sampling.sampler_steps is 1, in "),
        (confirming(plain_sampling=SAMPLING | {"confidence": 0.999}), "confirm.plain_sampling.confidence is 0.999, in"),
        (confirming(plain_sampling=SAMPLING | {"probes": "flagged"}), "confirm.plain_sampling.probes is flagged, in s"),
        (confirming(plain_sampling=None), "confirm.plain_sampling is missing, and strict has it"),
        (confirming(prompts=None), "confirm.prompts is missing, and strict has it"),
        (confirming(prompts=PROMPTS | {"trials": 63}), "confirm.prompts.trials is 63, in strict 64: lower is weaker"),
        (confirming(prompts=PROMPTS | {"sampler_steps": 2}), "confirm.prompts.sampler_steps is 2, in strict 50: "),
        (confirming(prompts=PROMPTS | {"confidence": 0.5}), "confirm.prompts.confidence is 0.5, in strict 0.95: "),
        (
            confirming(prompts=PROMPTS | {"guidance_scales": [7.0]}),
            "confirm.prompts.guidance_scales is [7.0], in strict [1.0, 7.0]: what is missing is not tried",
        ),
        (confirming(prompts=PROMPTS | {"probes": "flagged"}), "confirm.prompts.probes is flagged, in strict all: weak"),
        (confirming(prompts=PROMPTS | {"gcg": None}), "confirm.prompts.gcg is missing, and strict has it"),
        *(
            (confirming(prompts=PROMPTS | {"gcg": PROMPTS["gcg"] | {name: 1}}), f"confirm.prompts.gcg.{name} is 1, in ")
            for name in ("tokens", "steps", "candidates", "top_k", "noises", "controls")
        ),
        (
            confirming(prompts=PROMPTS | {"gcg": PROMPTS["gcg"] | {"max_evaluations": 10**9}}),
            "confirm.prompts.gcg.max_evaluations is 1000000000, in strict not set: lower is weaker",
        ),
        (
            {"rules": [{"rule": "invmm_below", "threshold": 1e-9, "share": 0.5}, CONFIRMED, CONTROLS]},
            "rules[0] invmm_below.threshold is 1e-09, in strict threshold_nats 70.0: lower",
        ),
        *(
            ({"rules": [{"rule": "invmm_below", **given}, CONFIRMED, CONTROLS, GROUPED]}, words)
            for given, words in (
                (
                    {"threshold_nats": 30},
                    "rules[0] invmm_below.threshold_nats is 30.0, in strict 70.0: lower is weaker",
                ),
                (
                    {"threshold_bits": 60},
                    "rules[0] invmm_below.threshold_bits is 60.0, in strict threshold_nats 70.0: lower",
                ),
                ({"threshold_nats": 0}, "rules[0] invmm_below.threshold_nats is 0.0, in strict 70.0: lower"),
            )
        ),
        (
            {"rules": [CONFIRMED, BELOW | {"share": None}, CONTROLS]},
            "rules[1] invmm_below.share is not set, in strict 0.5: higher is weaker",
        ),
        ({"rules": [BELOW | {"share": 0.9}, CONFIRMED, CONTROLS]}, "rules[0] invmm_below.share is 0.9, in strict 0.5"),
        (
            {"rules": [BELOW, CONFIRMED | {"rate_limit": 0.9}, CONTROLS]},
            "rules[1] confirmed.rate_limit is 0.9, in strict 0.0: higher is weaker",
        ),
        (
            {"rules": [BELOW, CONFIRMED, CONTROLS | {"fdr": 0.06}]},
            "rules[2] below_controls.fdr is 0.06, in strict 0.1: lower is weaker",
        ),
        (
            {"rules": [BELOW | {"groups": ["sensitive", "duplicated"]}, CONFIRMED, CONTROLS]},
            "rules: no invmm_below looks at every probe of group canary, in strict one does",
        ),
        (
            {"rules": [BELOW | {"groups": ["sensitive", "duplicated", "canary"]}, CONFIRMED, CONTROLS]},
            "rules: no invmm_below looks at every probe of group sample, in strict one does",
        ),
        (
            {"rules": [BELOW, CONFIRMED, CONTROLS | {"categories": ["faces"]}]},
            "rules: no below_controls looks at every probe of group sensitive, in strict one does",
        ),
        ({"rules": [BELOW, CONFIRMED]}, "rules: no below_controls, and strict has it"),
        ({"rules": [BELOW, CONFIRMED, CONTROLS]}, "rules: no group_below_controls, and strict has it"),
        ({"rules": [BELOW, CONFIRMED, CONTROLS]}, "rules: no extraction_likelihood, and strict has it"),
        (
            {"rules": [BELOW, LIKELY | {"one_in": 1000}]},
            "rules[1] extraction_likelihood.one_in is 1000, in strict 1000000000: lower is weaker",
        ),
        (
            {"rules": [LIKELY | {"kinds": ["none", "caption"]}]},
            'rules[0] extraction_likelihood.kinds is ["none", "caption"], in strict ["none", "caption", "typed"]: what',
        ),
        (
            {"confirm": STRICT.confirm.model_dump() | {"likelihood": {"draws": 64}}},
            "confirm.likelihood.draws is 64, in strict 128: lower is weaker",
        ),
        (
            {"rules": [BELOW, CONFIRMED, CONTROLS, GROUPED | {"alpha": 0.002}]},
            "rules[3] group_below_controls.alpha is 0.002, in strict 0.01: lower is weaker",
        ),
        ({"rules": [BELOW, CONTROLS], "confirm": {}}, "rules: no confirmed, and strict has it"),
        ({"coverage": {"min_controls": 9}}, "coverage.min_controls is 9, in strict 16: lower is weaker"),
        ({"waivers": "owned"}, "waivers is owned, in strict approved: weaker"),
    ],
)
def test_each_other_setting_that_a_policy_weakens_is_said_with_both_values(changes: dict[str, Any], words: str) -> None:
    found = weaknesses(policy_with(STRICT, **changes))
    assert any(text.startswith(words) for text in found), found


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "own", "version": 7},
        {"measure": {"settings": {"steps": 4000, "mirror": True, "stop_margin": 5.0}}},
        {"measure": {"settings": {"stop_above": None, "stop_tests": 9, "stop_after": 1000}}},
        {"metric": [METRIC[0] | {"threshold": 0.2}, METRIC[1] | {"threshold": 0.4, "sha256": "a" * 64}]},
        {"metric": [METRIC[0] | {"up_to": 16}, METRIC[0] | {"up_to": 64}, METRIC[1]]},
        {"metric": [METRIC[0]]},
        confirming(plain_sampling=SAMPLING | {"trials": 4096}),
        confirming(prompts=PROMPTS | {"guidance_scales": [7.0, 3.0, 1.0], "trials": 100}),
        {"rules": [*RULES, {"rule": "regression", "margin": 9.0}]},
        {"rules": [*RULES, BELOW | {"threshold_nats": 1.0, "share": None}, {"rule": "below_controls", "fdr": 0.01}]},
        {
            "rules": [
                BELOW | {"threshold_nats": 400.0, "share": 0.1},
                CONFIRMED,
                CONTROLS | {"fdr": 0.2},
                GROUPED | {"alpha": 0.5},
                LIKELY | {"one_in": 10**12, "kinds": ["soft", "typed", "caption", "none"]},
            ]
        },
        {
            "rules": [
                BELOW | {"groups": ["sensitive"]},
                BELOW | {"groups": ["duplicated", "sample", "canary"]},
                *(CONFIRMED, CONTROLS, GROUPED, LIKELY),
            ]
        },
        {"coverage": {"min_probes": 500, "min_controls": 100, "probe_set": "a" * 64}},
    ],
)
def test_what_is_at_least_as_strict_is_not_said(changes: dict[str, Any]) -> None:
    assert weaknesses(policy_with(STRICT, **changes)) == ()


def test_the_shipped_policies_are_compared_too() -> None:
    assert weaknesses(STRICT) == ()
    assert "rules[1] confirmed.rate_limit is 0.005, in strict 0.0: higher is weaker" in weaknesses(STANDARD)
    assert set(weaknesses(STANDARD)) != set(weaknesses(PERMISSIVE))
    assert any(text.startswith("waivers is owned") for text in weaknesses(PERMISSIVE))


def test_families_that_a_policy_cannot_be_used_for_are_left_out() -> None:
    found = weaknesses(policy_with(STRICT, measure={"settings": {"prompt": "caption"}}))
    assert [text.partition(":")[0] for text in found] == ["measure.settings.prompt is caption, in strict joint"]
    uneven = measure_weaknesses(policy_with(STRICT, measure={"settings": {"test_every": 7}}))
    assert uneven == (), "no family has a number of steps that 7 divides"


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_profile_can_be_compared(profile: str) -> None:
    found = weaknesses(policy_with(STRICT, measure={"profile": profile}))
    assert bool(found) == (profile != "gate")


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ({"threshold_nats": 20}, {"threshold_nats": 30}, "threshold_nats is 20.0, in strict 30.0: lower is weaker"),
        (
            {"threshold_bits": 40},
            {"threshold_nats": 30},
            "threshold_bits is 40.0, in strict threshold_nats 30.0: lower",
        ),
        ({"threshold_bits": 44}, {"threshold_nats": 30}, None),
        ({"threshold_nats": 30}, {"threshold_bits": 30}, None),
        (
            {"threshold": 0.05},
            {"threshold_nats": 30},
            "in strict threshold_nats 30.0: lower for a latent of fewer than 600",
        ),
        ({"threshold": 0}, {"threshold_nats": 30}, "lower for a latent of any number of dimensions"),
        ({"threshold": 0}, {"threshold_nats": 0}, None),
        ({"threshold_nats": 0}, {"threshold": 0}, None),
    ],
)
def test_thresholds_in_two_units_are_compared_for_every_size_of_latent(
    ours: dict[str, float], theirs: dict[str, float], said: str | None
) -> None:
    pair = (InvmmBelowConfig(rule="invmm_below", **each) for each in (ours, theirs))
    found = list(_limit_weaker(*pair, ""))
    assert (said in found[0]) if said else found == []
