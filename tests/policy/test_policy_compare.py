"""Two runs side by side: what is worse never reads better, what broke never reads fixed, what differs is refused."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.records import PLAIN_SAMPLING
from invmm_gate.core.run_records import ConfirmPlan, RunData
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.compare.compare import compare, exit_code
from invmm_gate.policy.compare.comparison import (
    TEST_SAMPLES,
    Breach,
    Comparison,
    FindingChange,
    ProbeChange,
    Uncompared,
)
from invmm_gate.policy.judge import judge
from invmm_gate.policy.reasons import counts_of, decide
from invmm_gate.policy.schema import Policy
from invmm_gate.report.comparison_markdown import render_comparison
from tests.policy.few_probes import STRICT, clean_run, text_run
from tests.policy.policy_builders import (
    CHECKS,
    SENSITIVE,
    TODAY,
    broken,
    digest,
    estimated,
    measured,
    policy_with,
    probe,
    sampled,
    stopped,
    target,
    waiver,
    with_confirmation,
    with_likelihood,
    with_measurement,
    with_probes,
    with_score,
    without,
)
from tests.policy.test_policy_properties import runs

MARGIN = 0.05
REGRESSION = policy_with(STRICT, rules=[{"rule": "regression", "margin": MARGIN}])
MIRRORED = {"worse": "better", "better": "worse", "new": "fixed", "fixed": "new"}


def judged(data: RunData, policy: Policy = STRICT, **changes: Any) -> RunData:
    verdict = judge(data, policy, changes.pop("waivers", ()), today=TODAY)
    counts = counts_of(data, changes.get("findings", verdict.findings))
    return replace(data, verdict=replace(verdict, counts=counts, **changes))


def of(comparison: Comparison, name: str = "p1") -> ProbeChange:
    return next(each for each in comparison.probes if each.probe == name)


def finding(comparison: Comparison, rule: str = "invmm_below", name: str | None = "p1") -> FindingChange:
    return next(each for each in comparison.findings if (each.rule, each.probe) == (rule, name))


def with_run(data: RunData, **changes: Any) -> RunData:
    return replace(data, run=replace(data.run, **changes))


def with_inputs(data: RunData, **changes: object) -> RunData:
    return with_run(data, inputs=replace(data.run.inputs, **changes))


# --- every run ---


@given(runs())
@settings(max_examples=60, deadline=None)
def test_a_run_compared_with_itself_has_not_changed(data: RunData) -> None:
    data = judged(data)
    comparison = compare(data, data)
    errors = {record.probe for record in data.measurements if record.outcome == "error"}
    assert {each.probe for each in comparison.probes if each.change == "unknown"} == errors
    assert {each.change for each in comparison.probes} <= {"unchanged", "unknown"}
    open_questions = [each for each in comparison.findings if each.change != "unchanged"]
    assert all(each.before and each.before.effect == "inconclusive" for each in open_questions)
    assert {each.change for each in open_questions} <= {"unknown"}


@given(runs(), runs(), st.sampled_from([None, STRICT, REGRESSION]))
@settings(max_examples=100, deadline=None)
def test_swapping_the_runs_swaps_new_with_fixed_and_worse_with_better(
    first: RunData, second: RunData, policy: Policy | None
) -> None:
    there, back = (compare(a, b, policy=policy) for a, b in _both_ways(judged(first), judged(second)))
    assert {each.probe: _turned(each.score.change) for each in there.probes} == {
        each.probe: each.score.change for each in back.probes
    }
    assert _rates(there, turn=True) == _rates(back, turn=False)
    for one in there.findings:
        other = finding(back, one.rule, one.probe)
        assert (one.before, one.after) == (other.after, other.before)
        if one.change in ("new", "fixed", "unknown"):
            assert other.change == _turned(one.change)


def _both_ways(first: RunData, second: RunData) -> tuple[tuple[RunData, RunData], ...]:
    return ((first, second), (second, first))


def _turned(change: str) -> str:
    return MIRRORED.get(change, change)


def _rates(comparison: Comparison, *, turn: bool) -> dict[tuple[str, str], str]:
    return {
        (each.probe, rate.name): _turned(rate.change) if turn else rate.change
        for each in comparison.probes
        for rate in each.rates
    }


@given(runs(), st.sampled_from(SENSITIVE), st.floats(0, 1), st.sampled_from([None, REGRESSION]))
@settings(max_examples=100, deadline=None)
def test_a_lower_score_never_reads_better(data: RunData, name: str, factor: float, policy: Policy | None) -> None:
    before = next(record for record in data.measurements if record.probe == name)
    assume(before.invmm is not None or before.outcome == "not_inverted")
    score = 0.3 * factor if before.invmm is None else before.invmm * factor
    lower = with_measurement(data, measured(target(data, name), score))
    change = of(compare(data, lower, policy=policy), name)
    assert change.change in ("unchanged", "worse")
    assert change.score.change == "worse" if before.invmm is None else change.score.change in ("unchanged", "worse")


@given(runs(), st.sampled_from(SENSITIVE), st.integers(0, 512))
@settings(max_examples=60, deadline=None)
def test_more_replicating_samples_never_read_better(data: RunData, name: str, more: int) -> None:
    before = next(each for each in data.confirmations if (each.probe, each.method) == (name, PLAIN_SAMPLING))
    worse = with_confirmation(data, sampled(name, min(before.trials, before.hits + more), before.trials))
    (rate,) = (each for each in of(compare(data, worse), name).rates if each.name == PLAIN_SAMPLING)
    assert rate.change in ("unchanged", "worse")


@given(st.one_of(st.none(), st.floats(0, 1)), st.one_of(st.none(), st.floats(0, 1)))
@settings(max_examples=200, deadline=None)
def test_with_a_margin_worse_means_what_the_rule_regression_blocks(before: float | None, after: float | None) -> None:
    old, new = (with_score(clean_run(), "p1", score) for score in (before, after))
    verdict = judge(new, REGRESSION, (), today=TODAY, baseline=old)
    blocked = any(each.rule == "regression" and each.probe == "p1" for each in verdict.findings)
    change = of(compare(old, new, policy=REGRESSION)).score
    assert (change.change == "worse") == blocked
    assert change.margin == MARGIN


# --- scores ---


def _states(data: RunData) -> dict[str, RunData]:
    p1 = target(data, "p1")
    return {
        "0.02": with_score(data, "p1", 0.02),
        "0.10": with_score(data, "p1", 0.10),
        "0.10 a hair lower": with_score(data, "p1", 0.10 * (1 - 5e-5)),
        "none": with_score(data, "p1", None),
        "above 0.05": with_measurement(data, stopped(p1, 0.05)),
        "above 0.2": with_measurement(data, stopped(p1, 0.2)),
        "error": with_measurement(data, broken(p1)),
        "missing": without(data, "p1"),
    }


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ("0.10", "0.02", "worse"),
        ("0.10", "0.10 a hair lower", "unchanged"),
        ("none", "0.10", "worse"),
        ("above 0.2", "0.10", "worse"),
        ("above 0.05", "0.02", "worse"),
        ("above 0.05", "0.10", "unknown"),
        ("above 0.05", "none", "unchanged"),
        ("above 0.05", "above 0.2", "unchanged"),
        ("error", "none", "unknown"),
        ("error", "0.02", "unknown"),
        ("error", "error", "unknown"),
        ("missing", "none", "unknown"),
        ("0.02", "missing", "unknown"),
        ("missing", "missing", "unknown"),
    ],
)
def test_every_pair_of_outcomes_has_one_reading_and_its_mirror(before: str, after: str, change: str) -> None:
    states = _states(clean_run())
    there, back = (of(compare(a, b)).score for a, b in _both_ways(states[before], states[after]))
    assert (there.change, back.change) == (change, _turned(change))


def test_the_sentence_names_both_figures() -> None:
    states = _states(clean_run())
    assert of(compare(states["none"], states["0.02"])).score.reason == "not inverted before, 0.02 now"
    assert of(compare(states["above 0.2"], states["error"])).score.reason == "stopped above 0.2 before, broke now"


def test_scores_within_each_others_spread_over_the_seeds_have_not_changed_unless_a_margin_says_so() -> None:
    data = clean_run()
    p1 = target(data, "p1")
    old, new = (
        with_measurement(data, measured(p1, score, invmm_spread=spread))
        for score, spread in ((0.3, (0.1, 0.5)), (0.2, (0.15, 0.4)))
    )
    assert (of(compare(old, new)).score.change, of(compare(old, new)).score.within_spread) == ("unchanged", True)
    assert of(compare(old, new, policy=REGRESSION)).score.change == "worse"
    far = with_measurement(data, measured(p1, 0.2, invmm_spread=(0.19, 0.21)))
    assert of(compare(old, far)).score.change == "worse", "the old score lies outside the new spread"


def test_the_margin_is_the_smallest_of_the_rules_that_look_at_the_probe() -> None:
    rules = [
        {"rule": "regression", "margin": 0.2},
        {"rule": "regression", "margin": 0.1, "groups": ["sensitive"]},
        {"rule": "regression", "margin": 0.01, "categories": ["none has it"]},
    ]
    comparison = compare(clean_run(), clean_run(), policy=policy_with(STRICT, rules=rules))
    assert {name: of(comparison, name).score.margin for name in ("p1", "p2", "c00")} == {
        "p1": 0.1,
        "p2": 0.2,
        "c00": None,
    }


# --- rates ---


def test_a_rate_is_worse_only_where_the_recorded_intervals_have_no_rate_in_common() -> None:
    data = clean_run()
    for hits, trials, change in ((3, 512, "unchanged"), (40, 512, "worse")):
        (rate,) = (
            each
            for each in of(compare(data, with_confirmation(data, sampled("p1", hits, trials)))).rates
            if each.name == "plain_sampling"
        )
        assert rate.change == change
        assert (rate.after and rate.after.interval) == sampled("p1", hits, trials).interval, "as it was recorded"


def test_more_replicating_test_samples_make_a_probe_worse_that_was_never_inverted() -> None:
    old, new = (with_score(clean_run(), "p1", None, hits=hits) for hits in (0, 7))
    assert (of(compare(old, new)).score.change, of(compare(old, new)).change) == ("unchanged", "worse")


def test_a_better_score_does_not_outweigh_a_worse_rate() -> None:
    data = clean_run()
    old, new = with_score(data, "p1", 0.1), with_score(data, "p1", 0.2)
    new = with_confirmation(new, sampled("p1", 200))
    assert of(compare(old, new)).score.change == "better"
    assert of(compare(old, new)).change == "worse"


def test_an_input_that_only_one_run_tried_is_unknown_if_it_brought_copies_and_nothing_if_it_did_not() -> None:
    data = text_run()
    tried = {
        hits: replace(data, confirmations=(*data.confirmations, sampled("p1", hits, 64, method="gcg")))
        for hits in (0, 9)
    }
    fates = {hits: {rate.name: rate.change for rate in of(compare(data, run)).rates} for hits, run in tried.items()}
    assert fates[0] == {
        TEST_SAMPLES: "unchanged",
        "caption": "unchanged",
        "caption_on_grid": "unchanged",
        "gcg": "not_compared",
    }
    assert fates[9]["gcg"] == "unknown"
    assert (of(compare(data, tried[0])).change, of(compare(tried[9], data)).change) == ("unchanged", "unknown")


def test_confirmations_of_two_plans_are_not_compared() -> None:
    data = clean_run()
    plan = ConfirmPlan(plain_sampling=None, prompts=None)
    other = with_inputs(with_confirmation(data, sampled("p1", 40)), confirm=plan)
    comparison = compare(data, other)
    assert [rate.name for rate in of(comparison).rates] == [TEST_SAMPLES]
    assert any("different plans" in note for note in comparison.notes)


# --- findings ---


def _blocked(name: str = "p1", score: float = 0.02) -> RunData:
    return judged(with_score(clean_run(), name, score))


def test_a_breach_that_came_is_new_one_that_went_is_fixed_and_one_that_stayed_follows_its_score() -> None:
    clean = judged(clean_run())
    assert finding(compare(clean, _blocked())).change == "new"
    assert finding(compare(_blocked(), clean)).change == "fixed"
    assert finding(compare(_blocked(score=0.02), _blocked(score=0.01))).change == "worse"
    assert finding(compare(_blocked(score=0.01), _blocked(score=0.02))).change == "better"
    assert finding(compare(_blocked(), _blocked())).change == "unchanged"
    new = finding(compare(clean, _blocked()))
    assert (new.before, new.after) == (None, Breach(effect="block", value=0.02, limit=70 / 768, waived=False))


def test_a_confirmed_breach_follows_its_rate_and_not_its_score() -> None:
    old, new = (
        judged(with_confirmation(with_score(clean_run(), "p1", score), sampled("p1", hits)))
        for score, hits in ((0.01, 5), (0.02, 90))
    )
    assert finding(compare(old, new), "confirmed").change == "worse"
    assert finding(compare(old, new), "invmm_below").change == "better"


@pytest.mark.parametrize("spoil", ["error", "missing"])
def test_a_breach_of_a_probe_that_broke_is_unknown_and_never_fixed(spoil: str) -> None:
    spoilt = judged(_states(clean_run())[spoil])
    assert finding(compare(_blocked(), spoilt)).change == "unknown"
    assert finding(compare(spoilt, _blocked())).change == "unknown"
    assert exit_code(compare(_blocked(), spoilt), "new") == 11


def test_a_rule_that_could_not_be_decided_leaves_its_findings_unknown() -> None:
    undecided = Finding(rule="invmm_below", effect="inconclusive", probe=None, message="no probe has the category x")
    clean = judged(clean_run())
    assert clean.verdict is not None
    open_run = judged(clean_run(), findings=(undecided,), decision="inconclusive")
    assert finding(compare(_blocked(), open_run)).change == "unknown"
    other = judged(clean_run(), findings=(replace(undecided, rule="coverage"),), decision="inconclusive")
    assert finding(compare(_blocked(), other)).change == "fixed", "another rule's question is not this one's"
    settings_differ = judged(clean_run(), findings=(replace(undecided, rule="settings"),), decision="inconclusive")
    assert finding(compare(_blocked(), settings_differ)).change == "unknown"


def test_a_block_by_the_rule_regression_cannot_be_compared_and_is_no_pass() -> None:
    data = with_score(clean_run(), "p1", 0.2)
    verdict = judge(data, REGRESSION, (), today=TODAY, baseline=clean_run())
    before = judge(clean_run(), REGRESSION, (), today=TODAY, baseline=clean_run())
    old, new = replace(clean_run(), verdict=before), replace(data, verdict=verdict)
    assert (before.decision, verdict.decision) == ("pass", "block")
    comparison = compare(old, new)
    assert comparison.findings == ()
    assert any("regression are left out" in note for note in comparison.notes)
    assert comparison.uncompared == (Uncompared(rule="regression", probe="p1", effect="block", value=0.2, limit=None),)
    assert (exit_code(comparison, "new"), exit_code(compare(new, old), "new")) == (11, 0)
    waived = judge(data, REGRESSION, (waiver(probe="p1"),), today=TODAY, baseline=clean_run())
    assert exit_code(compare(old, replace(data, verdict=waived)), "new") == 0


def test_the_rule_regression_without_a_baseline_leaves_nothing_open_as_the_comparison_answers_it() -> None:
    old, new = judged(clean_run(), REGRESSION), judged(clean_run(), REGRESSION)
    assert {each.rule for each in (new.verdict.findings if new.verdict else ())} == {"regression"}
    assert exit_code(compare(old, new, policy=REGRESSION), "worse") == 0


def test_findings_are_not_compared_without_two_verdicts_under_one_policy() -> None:
    data = clean_run()
    for old, new, reason in (
        (data, judged(data), "the first run was not judged"),
        (judged(data), data, "the second run was not judged"),
        (judged(data), judged(data, policy_digest=digest("other")), "two policies"),
        (judged(data), judged(data, fingerprint=digest("other")), "the second run's verdict was made on other inputs"),
        (judged(data), judged(data, records={"run.json": digest("other")}), "verdict was made before run.json changed"),
        (judged(data), judged(data, schema_version=99), "verdict is of schema version 99"),
    ):
        comparison = compare(old, new)
        assert (comparison.findings_compared, comparison.findings) == (False, ())
        assert reason in comparison.notes[0]
        assert len(comparison.probes) == len(data.measurements)
        with pytest.raises(ConfigError, match="the findings cannot be compared; expected two verdicts under one"):
            exit_code(comparison, "new")
        assert exit_code(comparison, None) == 0


def test_exit_codes_fail_closed() -> None:
    clean, blocked = judged(clean_run()), _blocked()
    waived = judged(with_score(clean_run(), "p1", 0.02), waivers=(waiver(probe="p1"),))
    lower = judged(with_score(clean_run(), "p1", 0.2))
    control = judged(with_score(clean_run(), "c00", 0.2))
    spoilt = judged(_states(clean_run())["error"])
    for old, new, on_new, on_worse in (
        (clean, clean, 0, 0),
        (clean, blocked, 10, 10),
        (blocked, clean, 0, 0),
        (clean, waived, 0, 10),
        (clean, lower, 0, 10),
        (clean, control, 0, 0),
        (clean, spoilt, 11, 11),
        (spoilt, blocked, 11, 11),
    ):
        comparison = compare(old, new)
        codes = tuple(exit_code(comparison, fail_on) for fail_on in (None, "new", "worse"))
        assert codes == (0, on_new, on_worse)


def test_a_new_breach_outweighs_one_that_cannot_be_compared() -> None:
    new = judged(_other_set(with_score(clean_run(), "p2", 0.02)))
    comparison = compare(judged(clean_run()), new, common_probes=True)
    assert comparison.uncompared
    assert exit_code(comparison, "new") == 10


def test_a_new_breach_outweighs_one_that_is_unknown() -> None:
    data = with_measurement(with_score(clean_run(), "p1", 0.02), broken(target(clean_run(), "p2")))
    assert exit_code(compare(judged(clean_run()), judged(data)), "new") == 10


# --- refusals ---


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"family": "latent"}, "family"),
        ({"profile": "paper"}, "profile"),
        ({"metric": replace(clean_run().run.metric, threshold=0.2)}, r"metric \(threshold\)"),
    ],
)
def test_runs_under_other_conditions_are_refused_in_one_line_that_names_them(
    change: dict[str, object], named: str
) -> None:
    data = clean_run()
    for old, new in _both_ways(data, with_inputs(data, **change)):
        with pytest.raises(ConfigError, match=f"the runs differ in {named}") as refused:
            compare(old, new)
        assert "\n" not in str(refused.value)


def test_other_settings_are_refused_by_name() -> None:
    data = clean_run()
    given = data.run.inputs.settings
    other = with_inputs(data, settings=replace(given, steps=10, learning_rate=0.2))
    with pytest.raises(ConfigError, match=r"the runs differ in settings \(learning_rate, steps\)"):
        compare(data, other)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: replace(data, self_checks=CHECKS[:1]), "utility_floor is missing"),
        (
            lambda data: replace(data, self_checks=(replace(CHECKS[0], passed=False), *CHECKS[1:])),
            "positive_control failed",
        ),
        (lambda data: with_score(data, "p1", float("nan")), "invalid score nan"),
        (lambda data: replace(data, measurements=(*data.measurements, data.measurements[0])), "several measurements"),
        (lambda data: with_confirmation(data, sampled("p9")), "p9, not in the probe set"),
    ],
)
def test_records_that_cannot_be_relied_on_are_refused(spoil: Any, said: str) -> None:
    data = clean_run()
    for name, (old, new) in zip(("second", "first"), _both_ways(data, spoil(data)), strict=True):
        with pytest.raises(ConfigError, match=rf"the {name} run \(r1\) cannot be relied on: .*{said}"):
            compare(old, new)


# --- other probes ---


def _other_set(data: RunData, **changed: Any) -> RunData:
    """p1 has another image, p3 is gone, p9 is there."""
    p1 = replace(target(data, "p1"), sha256=digest("another image"), **changed)
    kept = tuple(p1 if each.id == "p1" else each for each in data.run.probe_set.probes if each.id != "p3")
    added = probe("p9")
    probe_set = replace(data.run.probe_set, probes=(*kept, added), digest=digest("other probes"))
    return replace(
        with_likelihood(data, estimated("p9")),
        run=replace(data.run, probe_set=probe_set),
        measurements=(*(each for each in data.measurements if each.probe != "p3"), measured(added, 0.02)),
        confirmations=tuple(each for each in data.confirmations if each.probe != "p3"),
    )


def test_other_probes_are_refused_and_said_how_many() -> None:
    with pytest.raises(ConfigError, match=r"differ in their probes: 1 added, 1 gone, 1 with another image.*--common-p"):
        compare(clean_run(), _other_set(clean_run()))


def test_a_probe_set_that_differs_under_one_digest_is_refused_too() -> None:
    data = clean_run()
    same_digest = _other_set(data)
    probes = replace(same_digest.run.probe_set, digest=data.run.probe_set.digest)
    with pytest.raises(ConfigError, match="differ in their probes"):
        compare(data, with_run(same_digest, probe_set=probes))


def test_common_probes_are_compared_and_the_others_are_named() -> None:
    old, new = judged(clean_run()), judged(_other_set(clean_run()))
    comparison = compare(old, new, common_probes=True)
    left = comparison.left_out
    assert (left.added, left.gone, left.replaced) == (("p9",), ("p3",), ("p1",))
    assert left.probes & {each.probe for each in comparison.probes} == set()
    assert {"p2", "c00"} <= {each.probe for each in comparison.probes}
    assert comparison.findings == ()
    assert [(each.rule, each.probe, each.effect) for each in comparison.uncompared] == [
        ("invmm_below", "p9", "block"),
        ("confirmed", "p9", "inconclusive"),
    ], "of a probe that the first run did not have"
    assert exit_code(comparison, "new") == 11
    assert exit_code(compare(new, old, common_probes=True), "new") == 0
    turned = compare(new, old, common_probes=True).left_out
    assert (turned.added, turned.gone, turned.replaced) == (("p3",), ("p9",), ("p1",))


def test_another_caption_is_another_probe_of_a_text_model_and_the_same_of_a_model_without_prompts() -> None:
    for data, replaced in ((text_run(), ("p1",)), (clean_run(), ())):
        renamed = with_probes(data, replace(target(data, "p1"), caption="another caption"))
        renamed = with_run(renamed, probe_set=replace(renamed.run.probe_set, digest=digest("renamed")))
        assert compare(data, renamed, common_probes=True).left_out.replaced == replaced


def test_below_controls_is_left_out_where_the_probe_sets_differ() -> None:
    scores = with_score(clean_run(), "p2", 0.2)
    policy = policy_with(STRICT, rules=[{"rule": "below_controls", "fdr": 0.2}])
    old, new = judged(clean_run(), policy), judged(scores, policy)
    assert finding(compare(old, new), "below_controls", "p2").change == "new"
    other = judged(_other_set(scores), policy)
    comparison = compare(old, other, common_probes=True)
    assert comparison.findings == ()
    assert any("below_controls are left out" in note for note in comparison.notes)
    assert ("below_controls", "p2", "block") in {(each.rule, each.probe, each.effect) for each in comparison.uncompared}
    assert exit_code(comparison, "new") == 11


def test_nothing_in_common_is_refused() -> None:
    data = clean_run()
    renamed = tuple(replace(each, id=f"x-{each.id}") for each in data.run.probe_set.probes)
    other = replace(
        data,
        run=replace(data.run, probe_set=replace(data.run.probe_set, probes=renamed, digest=digest("x"))),
        measurements=tuple(measured(each) for each in renamed),
        confirmations=(),
    )
    with pytest.raises(ConfigError, match="no probe in common"):
        compare(data, other, common_probes=True)


@pytest.mark.parametrize("changed", [{"sha256": digest("another control")}, {"fit": "pad"}])
def test_a_metric_made_of_the_controls_needs_the_same_controls(changed: dict[str, str]) -> None:
    data = clean_run()
    metric = replace(data.run.metric, name="pixel_l2_neighbours@20")
    other = with_probes(data, replace(target(data, "c00"), **changed))
    other = with_run(other, metric=metric, probe_set=replace(other.run.probe_set, digest=digest("other")))
    with pytest.raises(ConfigError, match="is made of the controls"):
        compare(with_run(data, metric=metric), other, common_probes=True)


# --- form ---


def test_the_circumstances_that_differ_are_named() -> None:
    data = clean_run()
    notes = compare(with_inputs(data, seed=0, code="a"), with_inputs(data, seed=1, code="b")).notes
    assert any("differ in seed, code" in note for note in notes)


def test_the_worst_comes_first_and_everything_is_counted() -> None:
    data = clean_run()
    old = judged(with_score(with_score(data, "p2", 0.02), "p3", 0.02))
    new = judged(with_score(with_score(data, "p1", 0.02), "p3", 0.02))
    comparison = compare(old, new)
    assert [(each.probe, each.change) for each in comparison.probes[:3]] == [
        ("p1", "worse"),
        ("p2", "better"),
        ("p3", "unchanged"),
    ]
    assert comparison.counts["findings"]["new"] == sum(each.change == "new" for each in comparison.findings)
    assert sum(comparison.counts["probes"].values()) == len(data.measurements)
    order = [each.change for each in comparison.findings]
    assert order == sorted(order, key=("new", "worse", "unknown", "fixed", "better", "unchanged").index)


def test_no_private_text_is_in_a_comparison() -> None:
    data = text_run()
    captions = [each.caption for each in data.run.probe_set.probes if each.caption]
    text = repr(compare(judged(data), judged(with_score(data, "p1", 0.02))))
    assert captions
    assert not any(caption in text for caption in captions)
    assert "p1.png" not in text


def test_a_better_score_with_an_unknown_rate_is_not_called_better() -> None:
    data = text_run()
    old = replace(with_score(data, "p1", 0.1), confirmations=(*data.confirmations, sampled("p1", 9, 64, method="gcg")))
    change = of(compare(old, with_score(data, "p1", 0.2)))
    assert (change.score.change, change.change) == ("better", "unknown")


def test_a_breach_counts_as_waived_only_if_every_finding_of_it_is() -> None:
    tried = sampled("p1", 9, 64, method="gcg")
    data = with_confirmation(text_run(), sampled("p1", 9, 64, method="caption"))
    both = judged(replace(data, confirmations=(*data.confirmations, tried)))
    assert both.verdict is not None
    found = [each for each in both.verdict.findings if each.rule == "confirmed" and each.effect == "block"]
    assert len(found) == 2
    for waived in ((), found[:1], found):
        findings = tuple(
            replace(each, waiver=waiver(probe="p1")) if each in waived else each for each in both.verdict.findings
        )
        told = judged(both, findings=findings, decision=decide(findings))
        breach = finding(compare(judged(text_run()), told), "confirmed").after
        assert breach is not None
        assert breach.waived == (len(waived) == 2)


def test_a_group_that_stands_out_for_the_first_time_is_new_and_another_one_is_unchanged() -> None:
    policy = policy_with(STRICT, rules=[{"rule": "group_below_controls", "alpha": 0.05}])

    def run(*groups: str) -> RunData:
        data = clean_run()
        for group in ("sensitive", "canary"):
            score = 0.2 if group in groups else None
            added = tuple(probe(f"{group}{place}", group=group) for place in range(4))
            data = replace(
                with_probes(data, *added),
                measurements=(*data.measurements, *(measured(each, score) for each in added)),
            )
        return judged(data, policy)

    changes = {each.group: each for each in compare(run("canary"), run("canary", "sensitive")).findings}
    assert {group: each.change for group, each in changes.items()} == {"canary": "unchanged", "sensitive": "new"}
    assert {each.probe for each in changes.values()} == {None}
    found = compare(run("canary"), run("canary", "sensitive"))
    assert "group sensitive" in render_comparison(found)
    assert exit_code(found, "new") == 10
