"""A policy that cannot be decided on a probe set and model is refused before anything is measured."""

from dataclasses import replace
from typing import Any

import pytest

from invmm_gate.core.settings import Family
from invmm_gate.models.read.pipelines import FAMILIES, PIPELINES
from invmm_gate.policy.schema import Policy
from invmm_gate.policy.usable import baseline_faults, lint, model_faults, probe_faults, prompt_faults, rule_faults
from tests.policy.policy_builders import PERMISSIVE, STANDARD, STRICT, clean_run, policy_with, probe

BELOW, CONFIRMED = {"rule": "invmm_below", "threshold": 0.05}, {"rule": "confirmed"}
CONTROLS = {"rule": "below_controls", "fdr": 0.1}
SAMPLING, PROMPTS = {"plain_sampling": {"trials": 512}}, {"prompts": {}}
PROBES = tuple(probe(f"p{number}", category="faces") for number in range(16))
UNSEEN = tuple(probe(f"c{number}", group="control") for number in range(16))
SET = (*PROBES, *UNSEEN)


def asked(*rules: dict[str, Any], **changes: Any) -> Policy:
    return policy_with(STRICT, **({"rules": rules, "confirm": {}} | changes))


@pytest.mark.parametrize("policy", [STRICT, STANDARD, PERMISSIVE])
@pytest.mark.parametrize("family", sorted(set(FAMILIES.values())))
def test_a_shipped_policy_can_be_decided_for_every_family_and_size(policy: Policy, family: Family) -> None:
    assert tuple(rule_faults(policy)) == tuple(rule_faults(policy, family=family)) == ()
    assert tuple(probe_faults(policy, SET)) == tuple(baseline_faults(policy)) == ()
    for size in ((8, 8), (64, 64), (1024, 768)):
        assert tuple(model_faults(policy, family=family, image_size=size)) == ()


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (asked(BELOW | {"threshold": 0}), "invmm_below: a threshold of 0 blocks only a score of exactly 0"),
        (asked(BELOW | {"threshold": 1e-9}), "invmm_below: a threshold of 1e-09 blocks only a score of exactly 0"),
        (
            asked(BELOW, measure={"settings": {"learning_rate": 1e-6}}),
            "invmm_below: steps and learning_rate reach a normality of at most 3.42e-06, so the search ends",
        ),
        (
            asked(CONFIRMED | {"rate_limit": 0.7}, confirm={"plain_sampling": {"trials": 10}}),
            "confirmed: plain sampling cannot fire: 10 hits of 10 have a lower bound of 0.6915",
        ),
        (
            asked(CONFIRMED, confirm={"plain_sampling": {"trials": 512, "probes": "flagged"}}),
            "confirm.plain_sampling: probes is 'flagged', and no other rule ever flags one",
        ),
        (
            asked(CONFIRMED, confirm={"prompts": {"probes": "flagged"}}),
            "confirm.prompts: probes is 'flagged', and no other rule ever flags one",
        ),
    ],
)
def test_a_rule_that_could_find_nothing_is_named(policy: Policy, words: str) -> None:
    (fault,) = rule_faults(policy)
    assert fault.startswith(words)


def test_a_threshold_over_all_dimensions_is_held_against_the_search_once_the_model_is_known() -> None:
    slow = asked({"rule": "invmm_below", "threshold_nats": 30}, measure={"settings": {"learning_rate": 1e-4}})
    assert tuple(rule_faults(slow)) == ()
    (fault,) = rule_faults(slow, family="pixel", dimensions=768)
    assert "reach a normality of at most 0.00865, so the search ends before 0.0390625" in fault
    assert tuple(rule_faults(slow, family="pixel", dimensions=16_384)) == ()
    (tiny,) = rule_faults(asked({"rule": "invmm_below", "threshold_bits": 1e-8}))
    assert tiny == "invmm_below: a threshold of 1e-08 bits blocks only a score of exactly 0"
    small = asked({"rule": "invmm_below", "threshold_nats": 1e-4})
    assert tuple(rule_faults(small)) == ()
    assert any("blocks only a score of exactly 0" in text for text in rule_faults(small, dimensions=16_384))


def test_what_one_family_reaches_is_asked_of_that_family() -> None:
    """150 steps, stretched, reach a normality of 0.0261, 300 steps one of 0.127."""
    slow = asked(BELOW, measure={"settings": {"learning_rate": 1.7e-4}})
    assert len(tuple(rule_faults(slow, family="pixel"))) == 1
    assert tuple(rule_faults(slow, family="latent")) == tuple(rule_faults(slow)) == ()


def test_where_the_prompt_alone_is_inverted_every_score_is_0_and_a_threshold_of_0_blocks() -> None:
    assert not tuple(rule_faults(asked(BELOW | {"threshold": 0}, measure={"settings": {"prompt": "prompt_only"}})))


@pytest.mark.parametrize(
    ("policy", "probes", "words"),
    [
        (
            asked(BELOW | {"groups": ["canary"]}),
            SET,
            "invmm_below looks at no probe of the set: none is in its groups (canary); the set has the groups control",
        ),
        (
            asked(BELOW | {"groups": ["sensitive"], "categories": ["cats"]}),
            SET,
            "invmm_below looks at no probe of the set: none is in its groups (sensitive) and categories (cats); the",
        ),
        (
            asked(BELOW | {"categories": ["faces", "cats"]}),
            SET,
            "invmm_below: no probe of the set has the category cats",
        ),
        (asked({"rule": "regression", "margin": 1.0, "groups": ["canary"]}), SET, "regression looks at no probe"),
        (
            asked(CONTROLS, coverage={"min_controls": 8}),
            (*PROBES, *UNSEEN[:8]),
            "below_controls: cannot fire with 8 controls (in the probe set): the smallest p-value is 1/9, above the",
        ),
        (
            asked({"rule": "group_below_controls", "alpha": 0.01}),
            (PROBES[0], replace(PROBES[1], group="canary"), *UNSEEN),
            "group_below_controls: cannot fire: no group has enough images beside 16 controls",
        ),
        (
            asked(CONTROLS, coverage={"min_controls": 8}),
            (*PROBES, *(replace(each, sha256=UNSEEN[0].sha256) for each in UNSEEN[:8])),
            "below_controls: cannot fire with 1 controls",
        ),
        (
            asked(BELOW),
            (*PROBES, *UNSEEN[:15]),
            "coverage: the probe set has 15 controls, the policy asks for at least",
        ),
        (
            asked(BELOW | {"groups": ["canary"]}),
            (*SET, replace(probe("x", group="canary"), multiplicity=64)),
            "invmm_below looks at no probe of the set: none is in its groups (canary); the set has the groups canary "
            "with a multiplicity, which no rule judges",
        ),
        (
            asked(BELOW, coverage={"min_probes": 17}),
            SET,
            "coverage: the probe set has 16 probes, the policy asks for at least 17",
        ),
        (
            asked(BELOW, coverage={"min_probes": 17}),
            (*SET, *(replace(probe(f"x{number}", group="canary"), multiplicity=64) for number in range(9))),
            "coverage: the probe set has 16 probes, the policy asks for at least 17",
        ),
    ],
)
def test_a_rule_or_a_number_that_does_not_fit_the_probe_set_is_named(
    policy: Policy, probes: tuple[Any, ...], words: str
) -> None:
    assert any(fault.startswith(words) for fault in probe_faults(policy, probes))


def test_what_is_said_of_the_probe_set_before_measuring_leaves_the_run_open_after_it() -> None:
    data = clean_run()
    assert not tuple(probe_faults(asked(BELOW, coverage={"min_probes": 8}), data.run.probe_set.probes))
    assert len(tuple(probe_faults(asked(BELOW, coverage={"min_probes": 9}), data.run.probe_set.probes))) == 1


@pytest.mark.parametrize(
    ("policy", "family", "words"),
    [
        (
            asked(CONFIRMED, confirm=PROMPTS),
            "pixel",
            "rule 'confirmed' needs confirm.plain_sampling for a model without",
        ),
        (
            asked(CONFIRMED, confirm=SAMPLING),
            "stable_diffusion",
            "rule 'confirmed' needs confirm.prompts for a model wi",
        ),
        (
            asked(BELOW, metric=[{"name": "sscd", "threshold": 1, "up_to": 8}]),
            "pixel",
            "policy strict: no metric for image",
        ),
        (
            asked(BELOW, measure={"settings": {"prompt": "joint"}}),
            "latent",
            "measure.settings.prompt is 'joint' for an ",
        ),
        (
            asked(BELOW, measure={"settings": {"prompt": "none"}}),
            "stable_diffusion_3",
            "measure.settings.prompt is 'non",
        ),
        (
            asked(BELOW, measure={"settings": {"test_every": 7}}),
            "pixel",
            "measure.settings: steps 150 is not a multiple",
        ),
    ],
)
def test_what_the_policy_lacks_for_a_kind_of_model_is_named(policy: Policy, family: Family, words: str) -> None:
    (fault,) = model_faults(policy, family=family, image_size=(16, 16))
    assert fault.startswith(words)


def test_a_regression_needs_a_baseline() -> None:
    (fault,) = baseline_faults(asked({"rule": "regression", "margin": 1.0}))
    assert "needs --baseline" in fault


def test_the_family_of_every_pipeline_is_known_before_it_is_loaded() -> None:
    assert FAMILIES.keys() == PIPELINES.keys() | {"UNet2DModel"}


def test_a_likelihood_by_prompts_alone_is_no_rule_for_a_model_without_prompts() -> None:
    rule = {"rule": "extraction_likelihood", "one_in": 1000, "kinds": ["caption", "typed"]}
    policy = asked(rule, confirm={"likelihood": {}})
    (fault,) = rule_faults(policy, family="pixel")
    assert fault == "extraction_likelihood: kinds has no 'none', which is all that a model without prompts has"
    assert tuple(rule_faults(policy)) == tuple(rule_faults(policy, family="stable_diffusion")) == ()
    (lacking,) = model_faults(policy, family="stable_diffusion", image_size=(64, 64))
    assert lacking.startswith("rule 'extraction_likelihood' needs confirm.prompts for a model with prompts")


def test_a_likelihood_by_typed_prompts_alone_takes_a_search_and_a_rule_that_finds_probes_for_it() -> None:
    rule = {"rule": "extraction_likelihood", "one_in": 1000, "kinds": ["typed"]}
    searched, unsearched = ({"likelihood": {}, "prompts": prompts} for prompts in ({"gcg": {}}, {}))
    for family in (None, "stable_diffusion"):
        assert tuple(rule_faults(asked(rule, BELOW, confirm=searched), family=family)) == ()
        for policy in (asked(rule, confirm=searched), asked(rule, BELOW, confirm=unsearched)):
            assert "no prompt is searched" in next(iter(rule_faults(policy, family=family)))
    assert lint(asked(rule, confirm=searched))


def test_a_likelihood_rule_must_look_at_a_kind_of_prompt_that_its_probes_have() -> None:
    captioned = replace(probe("p1"), caption="a cat on a mat")
    bare, control = probe("p2"), probe("c1", group="control")
    for kinds, blind in ((["none"], "p1"), (["caption"], "p2"), (["none", "caption"], ""), (["soft"], "")):
        rule = {"rule": "extraction_likelihood", "one_in": 1000, "kinds": kinds}
        policy = asked(rule, BELOW, confirm={"likelihood": {}, "prompts": {}})
        faults = list(prompt_faults(policy, (captioned, bare, control), family="stable_diffusion"))
        assert [fault.rpartition(" ")[2] for fault in faults] == ([blind] if blind else []), kinds
        assert not list(prompt_faults(policy, (captioned, bare, control), family="pixel"))


@pytest.mark.parametrize(
    ("kinds", "search", "blind"),
    [
        (["none"], {}, True),
        (["none", "typed"], {"gcg": None}, True),
        (["none", "typed"], {"gcg": {}}, False),
        (["caption"], {}, False),
        (["caption", "typed"], {}, False),
    ],
)
def test_labels_count_as_captions_do_so_that_a_rule_without_them_sees_nothing(
    kinds: list[str], search: dict[str, Any], blind: bool
) -> None:
    likely = {"rule": "extraction_likelihood", "one_in": 1000, "kinds": kinds}
    policy = asked(BELOW, likely, confirm={"prompts": search, "likelihood": {}})
    said = ["extraction_likelihood: kinds has no 'caption', by which a class-conditional model's labels count"] * blind
    for family in ("class_pixel", "class_latent"):
        assert list(prompt_faults(policy, PROBES, family=family)) == said
    assert not list(prompt_faults(policy, PROBES, family="pixel"))


def test_a_policy_for_class_conditional_models_confirms_by_prompts() -> None:
    faults = model_faults(asked(CONFIRMED, confirm=SAMPLING), family="class_latent", image_size=(16, 16))
    assert list(faults) == [
        "rule 'confirmed' needs confirm.prompts for a class-conditional model, as the shipped policies have it"
    ]
    assert not list(model_faults(STRICT, family="class_latent", image_size=(256, 256)))
