"""Lint names what a lawful policy does not do."""

from dataclasses import replace
from typing import Any

import pytest

from invmm_gate.core.records import Group, Probe
from invmm_gate.policy.power import blunt_rules, group_power
from invmm_gate.policy.schema import Policy
from invmm_gate.policy.usable import family_size, lint
from tests.policy.policy_builders import PERMISSIVE, STANDARD, STRICT, policy_with, probe

BELOW = {"rule": "invmm_below", "threshold": 0.05}
PIXELS = {"name": "pixel_rmse", "threshold": 1}


def probe_set(controls: int, **groups: int) -> tuple[Probe, ...]:
    """So many images of each group, and the controls."""
    counts = {"control": controls} | groups
    return tuple(
        probe(f"{group}{place}", group=group, category="faces")
        for group, count in counts.items()
        for place in range(count)
    )


@pytest.mark.parametrize("policy", [STRICT, STANDARD, PERMISSIVE])
def test_shipped_policies_are_clean(policy: Policy) -> None:
    assert lint(policy) == ()
    assert tuple(blunt_rules(policy, probe_set(32, sensitive=3))) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rules": [BELOW | {"threshold": 0}], "confirm": {}}, "a threshold of 0 blocks only a score of exactly 0"),
        (
            {"rules": [{"rule": "below_controls", "fdr": 0.05}], "confirm": {}},
            "cannot fire with 16 controls (in coverage.min_controls): the smallest p-value is 1/17,",
        ),
        (
            {"rules": [{"rule": "group_below_controls", "alpha": 0.05}], "coverage": {"min_controls": 0}},
            "group_below_controls: cannot fire without controls",
        ),
        ({"rules": [BELOW]}, "no rule 'confirmed' judges the outcome"),
        (
            {"rules": [{"rule": "confirmed", "rate_limit": 0.7}], "confirm": {"plain_sampling": {"trials": 10}}},
            "10 hits of 10 have a lower bound of 0.6915",
        ),
        ({"rules": [{"rule": "regression", "margin": 1e-5}], "confirm": {}}, "within the measure's tolerance"),
        ({"metric": [PIXELS, {"name": "sscd_a", "threshold": 1}]}, "entry 2 (sscd_a) is never used"),
        ({"metric": [PIXELS | {"up_to": 64}]}, "images larger than 64 pixels have no metric"),
        (
            {"measure": {"settings": {"steps": 50}}},
            "steps is 50, in strict 150 (family pixel, class_pixel): lower is weaker",
        ),
        (
            {"measure": {"settings": {"test_every": 7}}},
            "family latent, class_latent: measure.settings: steps 300 is not a multiple of test_every 7",
        ),
        (
            {"measure": {"settings": {"test_every": 7}}},
            "family stable_diffusion, stable_diffusion_3, flow: measure.settings: steps 500 is not a multiple of",
        ),
    ],
)
def test_weakness_is_named(changes: dict[str, Any], words: str) -> None:
    notes = lint(policy_with(STRICT, **changes))
    assert any(words in note for note in notes), notes


def test_rule_that_can_fire_is_not_named() -> None:
    fine = policy_with(
        STRICT, rules=[{"rule": "confirmed", "rate_limit": 0.69}], confirm={"plain_sampling": {"trials": 10}}
    )
    assert lint(fine) == ()


@pytest.mark.parametrize(
    ("controls", "groups", "words"),
    [
        (19, {"sensitive": 10}, "with 19 controls and 10 probes it fires only if at least 5 probes"),
        (
            16,
            {"sensitive": 60, "duplicated": 40},
            "with 16 controls and 100 probes it fires only if at least 59 probes",
        ),
        (16, {"sensitive": 60, "duplicated": 40}, "it takes 999 controls to flag a single one"),
    ],
)
def test_how_many_probes_must_stand_out_before_one_is_flagged_is_said(
    controls: int, groups: dict[str, int], words: str
) -> None:
    (note,) = blunt_rules(STRICT, probe_set(controls, **groups))
    assert words in note


def test_only_the_probes_that_the_rule_looks_at_and_controls_of_different_images_count() -> None:
    narrow = policy_with(STRICT, rules=[{"rule": "below_controls", "fdr": 0.1, "groups": ["canary"]}])
    probes = probe_set(20, sensitive=50, canary=4)
    copies = tuple(replace(each, id=f"{each.id}-again") for each in probes if each.group == "control")
    (note,) = blunt_rules(narrow, (*probes, *copies))
    assert "with 20 controls and 4 probes it fires only if at least 2 probes" in note
    assert "it takes 39 controls" in note
    assert not tuple(blunt_rules(narrow, probe_set(39, sensitive=50, canary=4)))


def test_how_many_images_of_each_group_must_stand_out_is_said() -> None:
    said = tuple(group_power(STRICT, probe_set(16, sensitive=16, duplicated=100, canary=1)))
    assert [text.partition(": the group ")[2] for text in said] == [
        "sensitive is flagged if 8 of its 16 images look more memorized than every control",
        "duplicated is flagged if 34 of its 100 images look more memorized than every control",
        "canary has too few images (1) to be flagged beside these controls",
    ]
    assert tuple(group_power(PERMISSIVE, probe_set(16, sensitive=16))) == ()


def test_a_search_that_no_rule_ever_asks_for_is_named() -> None:
    prompts = {"probes": "flagged", "guidance_scales": [0.5], "gcg": {"steps": 10}}
    found = lint(policy_with(STRICT, rules=[{"rule": "confirmed"}], confirm={"prompts": prompts}))
    assert any("nothing is confirmed" in text for text in found)
    assert any(text.startswith("confirm.prompts.gcg: searches for probes that another rule found") for text in found)
    assert any("every guidance scale is below 1, so no prompt" in text for text in found)


def test_a_search_on_more_controls_than_a_set_must_have_is_named() -> None:
    def notes(controls: int, least: int) -> tuple[str, ...]:
        confirm = {"prompts": {"gcg": {"controls": controls}}}
        rules = [BELOW, {"rule": "confirmed"}]
        return lint(policy_with(STRICT, confirm=confirm, rules=rules, coverage={"min_controls": least}))

    words = "confirm.prompts.gcg: the search is made on 17 controls, and coverage.min_controls is 16: a run with fewer"
    assert [text.startswith(words) for text in notes(17, 16)] == [True]
    assert notes(16, 16) == ()


def test_a_weaker_measure_is_named_and_a_weaker_rule_is_left_to_the_list_of_weaknesses() -> None:
    settings = {"temperature": 100.0, "prompt_tokens": 1, "guidance_scales": [0.0]}
    found = lint(policy_with(STRICT, measure={"settings": settings}, rules=[BELOW | {"threshold": 0.04}], confirm={}))
    for name, value in (("temperature", "100.0"), ("prompt_tokens", "1"), ("guidance_scales", "[0.0]")):
        assert any(text.startswith(f"measure.settings.{name} is {value}, in strict ") for text in found), name
    assert not any("0.04" in text for text in found)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ({"sensitive": 3, "duplicated": 2, "sample": 40, "control": 16}, 5),
        ({"sample": 40, "control": 16}, 40),
        ({"control": 16}, 0),
    ],
)
def test_lint_counts_the_probes_that_share_a_false_discovery_rate(groups: dict[Group, int], size: int) -> None:
    probes = [probe(f"{group}{n}", group=group) for group, count in groups.items() for n in range(count)]
    ladder = [replace(probe(f"x{number}", group="canary"), multiplicity=2) for number in range(30)]
    assert family_size(probes) == size
    assert family_size([*probes, *ladder]) == size
    assert family_size([*probes, probe("own", group="canary")]) == (size + 1 if "sensitive" in groups else 1)
