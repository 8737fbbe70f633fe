"""Cases of the verdict, each a function of the modules under test: run on the real ones and on every mutant."""

import datetime
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.intervals import clopper_pearson, replication_share
from invmm_gate.core.records import (
    CAPTION,
    GCG,
    LABEL,
    LABEL_ON_GRID,
    LABEL_SEARCH,
    PLAIN_SAMPLING,
    CurvePoint,
    Interval,
    Measurement,
    StretchedTest,
)
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Verdict
from invmm_gate.policy.confirm_schema import ConfirmChoice, PlainSampling
from invmm_gate.policy.field_types import guarded as end_of_band
from invmm_gate.policy.rules.confirmed import ConfirmedConfig
from invmm_gate.policy.rules.invmm_below import InvmmBelowConfig
from tests.policy.few_probes import PERMISSIVE, STANDARD, STRICT, clean_run, text_run
from tests.policy.policy_builders import (
    CAPTIONED,
    CHECKS,
    CONTROLS,
    LABELLED,
    SAMPLED,
    SEARCH_CHECK,
    TODAY,
    broken,
    estimated,
    label_run,
    measured,
    policy_with,
    probe,
    sampled,
    stopped,
    target,
    trial,
    waiver,
    with_confirmation,
    with_likelihood,
    with_measurement,
    with_probes,
    with_score,
    without,
)

Case = Callable[[SimpleNamespace], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def judged(gate: SimpleNamespace, data: RunData, policy: Any = STRICT, *waivers: Any, **extra: Any) -> Verdict:
    verdict: Verdict = gate.verdict.judge(data, policy, waivers, **({"today": TODAY} | extra))
    return verdict


def expect(verdict: Verdict, decision: str, *findings: tuple[str, str | None]) -> None:
    """The decision and exactly these (rule, probe) findings."""
    assert verdict.decision == decision, (verdict.decision, verdict.reasons)
    assert [(found.rule, found.probe) for found in verdict.findings] == list(findings), verdict.findings


def only(*rules: dict[str, Any], **changes: Any) -> Any:
    return policy_with(STRICT, rules=list(rules), **changes)


BELOW = {"rule": "invmm_below", "threshold": 0.05}
CONFIRMED = {"rule": "confirmed", "rate_limit": 0.0}
CONTROLLED = {"rule": "below_controls", "fdr": 0.1}
GROUPED = {"rule": "group_below_controls", "alpha": 0.05}
REGRESSION = {"rule": "regression", "margin": 0.01}
COVERAGE = {"min_probes": 1, "min_controls": 16}


@case
def clean_run_passes(gate: SimpleNamespace) -> None:
    for policy in (STRICT, STANDARD, PERMISSIVE):
        verdict = judged(gate, clean_run(), policy)
        expect(verdict, "pass")
        assert verdict.reasons == ("every probe was measured and no rule found a breach",)
        assert (verdict.policy, verdict.policy_digest) == (policy.name, policy.digest)
        assert verdict.judged_on == TODAY
    assert verdict.counts == {
        "probes": 3,
        "controls": 20,
        "inverted": 0,
        "not_inverted": 23,
        "above_threshold": 0,
        "error": 0,
        "missing": 0,
        "confirmations": 46,
        "confirmed": 0,
        "refuted": 3,
        "undecided": 0,
        "blocking": 0,
        "waived": 0,
        "inconclusive": 0,
    }


PARTLY = {"rule": "invmm_below", "threshold": 0.05, "share": 0.5}


def replicating(name: str, hits: int, level: float) -> RunData:
    """A run with one probe that is not inverted, `hits` of 8 samples of which replicate it at normality `level`."""
    data = clean_run()
    share = replication_share(hits, 8)
    point = CurvePoint(step=400, denoising_error=0.02, normality=level, weight=0.1, best_value=0.05)
    trials = (trial("not_inverted", share=share, curve=(point,)),)
    return with_measurement(data, measured(target(data, name), hits=hits, trials=trials))


def partly(gate: SimpleNamespace, hits: int, level: float, rule: dict[str, Any] = PARTLY) -> Verdict:
    """The verdict on p1, of which `hits` of 8 samples are copies."""
    return judged(gate, replicating("p1", hits, level), only(rule))


@case
def share_of_replicating_samples_blocks_without_an_inversion(gate: SimpleNamespace) -> None:
    for hits in (4, 5, 7):
        expect(partly(gate, hits, 0.02), "block", ("invmm_below", "p1"))
    expect(partly(gate, 3, 0.02), "pass")
    expect(partly(gate, 0, 0.02), "pass")
    found = partly(gate, 7, 0.02).findings[0]
    assert (found.value, found.limit) == (0.02, 0.05)
    assert "7 of 8 samples replicate it at normality 0.02 (22.2 bits), at or below 0.05 (55.4 bits)" in found.message


@case
def share_counts_only_at_a_normality_within_the_threshold(gate: SimpleNamespace) -> None:
    expect(partly(gate, 7, 0.05), "block", ("invmm_below", "p1"))
    expect(partly(gate, 7, 0.05 * (1 + 0.5e-4)), "block", ("invmm_below", "p1"))
    expect(partly(gate, 7, 0.051), "pass")


@case
def share_of_any_full_test_counts_at_its_own_normality(gate: SimpleNamespace) -> None:
    point = CurvePoint(step=50, denoising_error=0.1, normality=0.02, weight=1.0, best_value=0.2)

    def tests(*found: tuple[float, int] | tuple[float, int, int]) -> Verdict:
        full = tuple(
            StretchedTest(stretch=1.0, normality=level, share=replication_share(hits, *(samples or (8,))))
            for level, hits, *samples in found
        )
        trials = (trial("not_inverted", share=replication_share(8, 8), curve=(point,), tests=full),)
        data = clean_run()
        return judged(gate, with_measurement(data, measured(target(data, "p1"), hits=8, trials=trials)), only(PARTLY))

    expect(tests((0.02, 4), (0.2, 7)), "block", ("invmm_below", "p1"))
    expect(tests((0.02, 3), (0.2, 8)), "pass")
    found = tests((0.04, 6), (0.03, 5), (0.2, 8)).findings[0]
    assert (found.value, "5 of 8 samples replicate it" in found.message) == (0.03, True)
    (certified_not,) = tests((0.02, 8), (0.02, 34, 39), (0.04, 8)).findings
    assert "34 of 39 samples replicate it" in certified_not.message


@case
def share_below_the_threshold_blocks_a_probe_that_is_inverted_above_it(gate: SimpleNamespace) -> None:
    """A trainer would want just that: certified a little above the limit, and 21 of 25 a little below it."""
    nearer, certified = (
        StretchedTest(stretch=stretch, normality=level, share=replication_share(*share))
        for stretch, level, share in ((0.75, 0.03, (21, 25)), (1.0, 0.06, (55, 55)))
    )
    above = trial("inverted", invmm=0.06, tests=(certified, nearer))
    data = clean_run()
    inverted = measured(target(data, "p1"), score=0.06, trials=(above,))
    found = judged(gate, with_measurement(data, inverted), only(PARTLY))
    expect(found, "block", ("invmm_below", "p1"))
    assert "scores 0.06" in found.findings[0].message
    assert "21 of 25 samples replicate it at normality 0.03" in found.findings[0].message
    apart = tuple(trial("not_inverted", seed=seed) for seed in (1, 2))
    by_one_seed = replace(above, tests=(replace(certified, normality=0.04),))
    median = measured(target(data, "p1"), trials=(by_one_seed, *apart))
    expect(judged(gate, with_measurement(data, median), only(PARTLY)), "block", ("invmm_below", "p1"))
    expect(judged(gate, with_measurement(data, inverted), only(BELOW)), "pass")


@case
def share_counts_only_where_the_policy_asks_for_it(gate: SimpleNamespace) -> None:
    expect(partly(gate, 7, 0.02, BELOW), "pass")


@case
def share_of_several_trials_is_one_finding(gate: SimpleNamespace) -> None:
    data = clean_run()
    point = CurvePoint(step=400, denoising_error=0.02, normality=0.02, weight=0.1, best_value=0.05)
    trials = tuple(trial("not_inverted", seed=seed, share=replication_share(6, 8), curve=(point,)) for seed in range(3))
    record = measured(target(data, "p1"), hits=6, trials=trials)
    expect(judged(gate, with_measurement(data, record), only(PARTLY)), "block", ("invmm_below", "p1"))


@case
def trial_without_samples_or_without_a_test_replicates_nothing(gate: SimpleNamespace) -> None:
    data, point = clean_run(), CurvePoint(step=400, denoising_error=0.02, normality=0.02, weight=0.1, best_value=0.05)
    untested = trial("not_inverted", share=replication_share(6, 8), curve=())
    unsampled = trial("not_inverted", share=None, curve=(point,))
    record = measured(target(data, "p1"), hits=0, trials=(untested, unsampled))
    expect(judged(gate, with_measurement(data, record), only(PARTLY)), "pass")


@case
def share_at_the_very_end_of_the_guard_band_counts(gate: SimpleNamespace) -> None:
    expect(partly(gate, 7, end_of_band(0.05)), "block", ("invmm_below", "p1"))


@case
def counts_tell_what_happened(gate: SimpleNamespace) -> None:
    data = with_score(with_score(clean_run(), "p1", 0.01), "c00", 0.4)
    data = with_measurement(data, stopped(target(data, "p2"), 0.06), broken(target(data, "p3")))
    data = with_confirmation(without(data, "c01"), sampled("p1", 9), sampled("p2", status="undecided"))
    data = with_confirmation(data, sampled("c00", 9), sampled("c02", status="undecided"))  # controls are no probes
    verdict = judged(gate, data, only(BELOW, CONFIRMED), waiver(probe="p1", rule="confirmed"))
    wanted = {
        "inverted": 2,
        "not_inverted": 18,
        "above_threshold": 1,
        "error": 1,
        "missing": 1,
        "confirmed": 1,
        "refuted": 1,
        "undecided": 1,
        "blocking": 1,
        "waived": 1,
        "inconclusive": 4,
        "confirmations": 46,
        "controls": 20,
        "probes": 3,
    }
    assert verdict.counts == wanted, verdict.counts


# --- invmm_below


@case
def score_at_or_below_the_threshold_blocks(gate: SimpleNamespace) -> None:
    for score in (0.001, 0.01, 0.05, 0.05 * (1 + 0.99e-4)):
        verdict = judged(gate, with_score(clean_run(), "p1", score), only(BELOW))
        expect(verdict, "block", ("invmm_below", "p1"))
        assert (verdict.findings[0].value, verdict.findings[0].limit) == (score, 0.05)


@case
def rules_that_could_find_nothing_leave_the_run_open(gate: SimpleNamespace) -> None:
    expect(judged(gate, clean_run(), only(BELOW | {"threshold": 0})), "inconclusive", ("settings", None))
    sampling = {"trials": 512, "probes": "flagged"}
    flagged = only(CONFIRMED, confirm={"plain_sampling": sampling})
    expect(judged(gate, clean_run(), flagged), "inconclusive", ("settings", None))
    expect(judged(gate, clean_run(), only(BELOW, CONFIRMED, confirm={"plain_sampling": sampling})), "pass")


@case
def thresholds_and_their_guard_bands_are_included(gate: SimpleNamespace) -> None:
    for score, threshold in ((1e-3, 1e-3), (0.05 * (1 + 1e-4), 0.05)):
        policy = only(BELOW | {"threshold": threshold})
        expect(judged(gate, with_score(clean_run(), "p1", score), policy), "block", ("invmm_below", "p1"))
        data = clean_run()
        before = approved(measured(target(data, "p1"), 0.5))
        falls = only(REGRESSION | {"margin": 0.5 - threshold})
        score = (0.5 - (0.5 - threshold)) * (1 + 1e-4)
        expect(judged(gate, with_score(data, "p1", score), falls, baseline=before), "block", ("regression", "p1"))


@case
def score_above_the_guard_band_passes(gate: SimpleNamespace) -> None:
    for score in (0.05 * (1 + 1.01e-4), 0.06, 3.0):
        expect(judged(gate, with_score(clean_run(), "p1", score), only(BELOW)), "pass")


@case
def stopped_probe_passes_only_if_its_bound_decides(gate: SimpleNamespace) -> None:
    guarded = 0.05 * (1 + 1e-4)
    for bound, decision in ((guarded, "pass"), (0.2, "pass"), (0.05, "inconclusive"), (0.0, "inconclusive")):
        data = clean_run()
        verdict = judged(gate, with_measurement(data, stopped(target(data, "p1"), bound)), only(BELOW))
        expect(verdict, decision, *([("invmm_below", "p1")] if decision != "pass" else []))


@case
def rules_look_at_their_groups_and_categories(gate: SimpleNamespace) -> None:
    data = with_score(clean_run(), "p1", 0.01)
    expect(judged(gate, data, only(BELOW | {"groups": ["duplicated"]})), "pass")
    expect(judged(gate, data, only(BELOW | {"groups": ["sensitive"]})), "block", ("invmm_below", "p1"))
    low = with_score(data, "c00", 0.01)
    named = ("controls", "c00"), ("invmm_below", "c00")
    expect(judged(gate, low, only(BELOW | {"groups": ["control"]})), "block", *named)
    expect(judged(gate, data, only(BELOW | {"categories": ["faces"]})), "block", ("invmm_below", "p1"))
    other = with_probes(data, probe("p2", group="duplicated", category="flowers"))
    other = with_measurement(other, measured(target(other, "p2")))
    expect(judged(gate, other, only(BELOW | {"categories": ["flowers"]})), "pass")


@case
def rule_that_looks_at_nothing_is_inconclusive(gate: SimpleNamespace) -> None:
    data = with_probes(clean_run(), probe("p3", group="sensitive"))
    data = with_measurement(data, measured(target(data, "p3")))
    for rule in (BELOW, CONTROLLED, REGRESSION):
        name = (rule["rule"], None)
        empty = {"groups": ["canary"]}
        expect(judged(gate, data, only(rule | empty), baseline=approved()), "inconclusive", name)
        expect(
            judged(gate, data, only(rule | {"categories": ["faces", "nofaces"]}), baseline=approved()),
            "inconclusive",
            name,
        )
        expect(judged(gate, data, only(rule | {"categories": ["faces"]}), baseline=approved()), "pass")


# --- confirmed


@case
def one_replicating_sample_blocks_under_a_limit_of_zero(gate: SimpleNamespace) -> None:
    for hits, trials, status in (
        (1, 512, "confirmed"),
        (1, 512, "refuted"),
        (1, 512, "undecided"),
        (512, 512, "confirmed"),
        (1, 1, "confirmed"),
    ):
        data = with_confirmation(clean_run(), sampled("p1", hits, trials, status=status))
        verdict = judged(gate, data, only(CONFIRMED))
        expect(verdict, "block", ("confirmed", "p1"))
        assert (verdict.findings[0].value, verdict.findings[0].limit) == (hits / trials, 0.0)


@case
def rate_whose_lower_bound_exceeds_the_limit_blocks(gate: SimpleNamespace) -> None:
    policy = only({"rule": "confirmed", "rate_limit": 0.005})
    lows = {hits: clopper_pearson(hits, 512).low for hits in range(20)}
    for hits, low in lows.items():
        verdict = judged(gate, with_confirmation(clean_run(), sampled("p1", hits)), policy)
        expect(verdict, "block" if low > 0.005 else "pass", *([("confirmed", "p1")] if low > 0.005 else []))
    level = lows[7]
    data = with_confirmation(clean_run(), sampled("p1", 7))
    expect(judged(gate, data, only({"rule": "confirmed", "rate_limit": level})), "pass")


@case
def recorded_interval_never_makes_the_rate_more_lenient(gate: SimpleNamespace) -> None:
    policy = only({"rule": "confirmed", "rate_limit": 0.005})
    wide = Interval(low=0.0, high=1.0, confidence=0.999999, method="clopper_pearson")
    narrow = Interval(low=0.0051, high=0.2, confidence=0.5, method="wilson")
    blocked = [sampled("p1", 12, interval=wide), sampled("p1", 6, interval=narrow)]
    for record in blocked:
        expect(judged(gate, with_confirmation(clean_run(), record), policy), "block", ("confirmed", "p1"))


@case
def prompt_that_replicates_blocks(gate: SimpleNamespace) -> None:
    for hits, status in ((0, "undecided"), (3, "confirmed"), (3, "refuted"), (0, "refuted")):
        data = replace(clean_run(), self_checks=(*CHECKS, SEARCH_CHECK))
        extra = sampled("p1", hits, 8, method="gcg", status=status, interval=clopper_pearson(hits, 8))
        verdict = judged(gate, replace(data, confirmations=(*data.confirmations, extra)), only(CONFIRMED))
        if hits:
            expect(verdict, "block", ("confirmed", "p1"))
            assert verdict.findings[0].value == hits / 8
        elif status == "undecided":
            expect(verdict, "inconclusive", ("confirmed", "p1"))
        else:
            expect(verdict, "pass")


@case
def prompt_search_does_not_stand_for_sampling(gate: SimpleNamespace) -> None:
    data = replace(clean_run(), self_checks=(*CHECKS, SEARCH_CHECK))
    for way in SAMPLED:
        others = tuple(each for each in data.confirmations if (each.probe, each.method) != ("p1", way))
        searched = replace(data, confirmations=(*others, sampled("p1", method="gcg")))
        expect(judged(gate, searched, only(CONFIRMED)), "inconclusive", ("confirmed", "p1"))


@case
def rule_itself_does_not_rely_on_checked_records(gate: SimpleNamespace) -> None:
    rule = gate.rules.rule_for(STRICT.rules[1])
    record = sampled("p1", 0, 8, method="gcg", status="confirmed")
    evidence = gate.evidence.Evidence(
        probes=(), measured={}, confirmations=(record,), plan=STRICT.confirm.plain_sampling
    )
    assert [(found.effect, found.probe) for found in rule.findings(evidence)] == [("block", "p1")]
    (found,) = rule.findings(replace(evidence, plan=None))
    assert found.effect == "inconclusive"


@case
def missing_confirmation_is_inconclusive(gate: SimpleNamespace) -> None:
    data = clean_run()
    data = replace(data, confirmations=data.confirmations[1:])
    expect(judged(gate, data, only(CONFIRMED)), "inconclusive", ("confirmed", "p1"))
    assert gate.verdict.probes_to_confirm(data, STRICT, method=PLAIN_SAMPLING) == ("p1", "p2", "p3", *CONTROLS)


@case
def undecided_confirmation_is_inconclusive(gate: SimpleNamespace) -> None:
    data = with_confirmation(clean_run(), sampled("p2", status="undecided"))
    expect(judged(gate, data, only(CONFIRMED)), "inconclusive", ("confirmed", "p2"))


@case
def too_few_samples_are_inconclusive_unless_the_question_is_answered(gate: SimpleNamespace) -> None:
    def decision(hits: int, trials: int, limit: float) -> str:
        data = with_confirmation(clean_run(), sampled("p1", hits, trials, status="refuted"))
        return judged(gate, data, only({"rule": "confirmed", "rate_limit": limit})).decision

    assert decision(0, 511, 0.0) == "inconclusive"
    assert decision(0, 512, 0.0) == "pass"
    assert decision(0, 1000, 0.0) == "pass"
    assert decision(0, 508, 0.005) == "pass"  # four more hits could not exceed it
    assert decision(0, 400, 0.005) == "inconclusive"
    assert decision(0, 200, 0.02) == "pass"  # the whole interval lies below the limit
    assert decision(0, 100, 0.02) == "inconclusive"
    assert decision(0, 200, clopper_pearson(0, 200).high) == "pass"
    assert decision(5, 511, clopper_pearson(6, 512).low) == "pass"
    assert decision(5, 511, clopper_pearson(6, 512).low * 0.99) == "inconclusive"
    assert decision(5, 400, clopper_pearson(8, 512).low) == "inconclusive"


@case
def only_flagged_probes_need_confirmation_where_the_policy_says_so(gate: SimpleNamespace) -> None:
    plan = {"plain_sampling": {"trials": 512, "probes": "flagged"}}
    policy = only(BELOW, CONFIRMED, confirm=plan)
    data = with_score(replace(clean_run(), confirmations=()), "p2", 0.01)
    assert gate.verdict.probes_to_confirm(data, policy, method=PLAIN_SAMPLING) == ("p2", *CONTROLS)
    unseen = ("controls", None), ("invmm_below", "p2"), ("confirmed", "p2")
    expect(judged(gate, data, policy), "block", *unseen)
    nothing = with_score(data, "p2", 1.0)
    assert gate.verdict.probes_to_confirm(nothing, policy, method=PLAIN_SAMPLING) == ()
    expect(judged(gate, nothing, policy), "pass")
    no_plan = only(BELOW, confirm={})
    assert gate.verdict.probes_to_confirm(data, no_plan, method=PLAIN_SAMPLING) == ()
    blind = only(BELOW | {"groups": ["canary"], "categories": ["other"]}, confirm=plan)
    assert gate.verdict.probes_to_confirm(data, blind, method=PLAIN_SAMPLING) == ()


# --- controls that look as if they had been trained on


@case
def control_that_inverts_where_a_probe_blocks_is_named(gate: SimpleNamespace) -> None:
    named = ("controls", "c03")
    for score, policy, decision in (
        (0.05 * (1 + 0.9e-4), only(BELOW, CONFIRMED), "inconclusive"),
        (0.051, only(BELOW, CONFIRMED), "pass"),
        (0.02, only(BELOW | {"threshold": 0.01}), "pass"),
        (0.09, only(BELOW, BELOW | {"threshold": 0.1, "groups": ["canary"]}), "inconclusive"),
        (0.09, only(CONFIRMED), "inconclusive"),
        (0.092, only(CONFIRMED), "pass"),
        (0.01, only(CONTROLLED), "inconclusive"),
    ):
        verdict = judged(gate, with_score(clean_run(), "c03", score), policy)
        expect(verdict, decision, *([named] if decision != "pass" else []))
    verdict = judged(gate, with_score(clean_run(), "c03", 0.01), STRICT)
    expect(verdict, "inconclusive", named)
    assert verdict.reasons == (
        "c03 (control) scores 7.68 nats (11.1 bits), at or below 70 nats (101.0 bits): it looks as if it had been "
        "trained on; take it out of the controls, or make it a probe",
    )


@case
def control_that_replicates_partly_is_named(gate: SimpleNamespace) -> None:
    for hits, level, policy, decision in (
        (4, 0.04, STRICT, "inconclusive"),
        (3, 0.04, STRICT, "pass"),
        (4, 0.1, STRICT, "pass"),
        (4, 0.04, only(BELOW), "inconclusive"),
        (3, 0.04, only(BELOW, PARTLY | {"share": 0.25}), "inconclusive"),
        (4, 0.04, only(PARTLY, PARTLY | {"share": 0.75, "groups": ["canary"]}), "inconclusive"),
        (3, 0.04, only(PARTLY, PARTLY | {"share": 0.75, "groups": ["canary"]}), "pass"),
        (4, 0.04, only(CONFIRMED), "inconclusive"),
    ):
        verdict = judged(gate, replicating("c19", hits, level), policy)
        expect(verdict, decision, *([("controls", "c19")] if decision != "pass" else []))


@case
def memorized_controls_do_not_save_a_probe_that_blocks(gate: SimpleNamespace) -> None:
    data = with_score(with_score(clean_run(), "c00", 0.01), "p1", 0.01)
    expect(judged(gate, data, only(BELOW)), "block", ("controls", "c00"), ("invmm_below", "p1"))
    expect(judged(gate, data, only(BELOW), waiver(probe="c00")), "block", ("controls", "c00"), ("invmm_below", "p1"))


@case
def control_stopped_below_the_limit_leaves_the_run_open(gate: SimpleNamespace) -> None:
    data = with_measurement(clean_run(), stopped(target(clean_run(), "c00"), 0.02))
    expect(judged(gate, data, only(CONFIRMED)), "inconclusive", ("controls", "c00"))
    expect(judged(gate, data, only(BELOW | {"threshold": 0.02})), "inconclusive", ("controls", "c00"))
    expect(judged(gate, data, only(BELOW | {"threshold": 0.019})), "pass")


@case
def control_that_samples_copy_is_named_and_never_blocks(gate: SimpleNamespace) -> None:
    for status in ("confirmed", "refuted"):
        data = with_confirmation(clean_run(), sampled("c05", 1, status=status))
        for policy in (STRICT, STANDARD, PERMISSIVE, only(BELOW)):
            expect(judged(gate, data, policy), "inconclusive", ("controls", "c05"))
    assert "1 of 512 samples are copies of the control c05" in judged(gate, data).reasons[0]


@case
def controls_must_be_looked_for_in_the_samples(gate: SimpleNamespace) -> None:
    for way in SAMPLED:
        all_but_one = [each for each in clean_run().confirmations if (each.probe, each.method) != ("c00", way)]
        data = replace(clean_run(), confirmations=tuple(all_but_one))
        verdict = judged(gate, data, only(CONFIRMED))
        expect(verdict, "inconclusive", ("controls", None))
        assert verdict.reasons == ("1 controls were not looked for in the samples: c00",)
    expect(judged(gate, data, only(BELOW)), "pass")


@case
def control_far_nearer_to_a_sample_than_the_others_is_named(gate: SimpleNamespace) -> None:
    def nearest(values: list[float], **metric: Any) -> str | None:
        data = clean_run(controls=len(values))
        for name, value in zip(CONTROLS, values, strict=False):
            data = with_confirmation(data, *(sampled(name, method=way, closest=value) for way in SAMPLED))
        run = replace(data.run, metric=replace(data.run.metric, **metric))
        policy = only(BELOW, coverage={"min_controls": 0}, metric=[{"name": "pixel_rmse", "threshold": 0.1}])
        verdict = judged(gate, replace(data, run=run), policy)
        assert verdict.decision == ("inconclusive" if verdict.findings else "pass")
        return verdict.findings[0].probe if verdict.findings else None

    like = [0.25 + 0.005 * place for place in range(15)]  # of the others the nearest is 0.25, the middle 0.285
    assert nearest([*like, 0.14]) == "c15"
    assert nearest([*like, 0.15]) is None
    assert nearest([*like[:-1], 0.14]) is None  # too few
    assert nearest([1 - value for value in (*like, 0.14)], higher_is_copy=True) == "c15"
    assert nearest([*like, 0.40]) is None
    assert nearest([0.2] * 16) is None
    copied = with_confirmation(clean_run(), sampled("c00", 1, closest=0.01), sampled("c01", closest=None))
    expect(judged(gate, copied, only(BELOW)), "inconclusive", ("controls", "c00"))


# --- confirmed, text-to-image


def captioned(name: str, hits: int = 0, trials: int = 64, **changes: Any) -> Any:
    return sampled(name, hits, trials, **{"method": CAPTION} | changes)


PROMPTS = {"prompts": {"trials": 64, "probes": "all", "gcg": {}}}


@case
def every_caption_is_tried_and_a_prompt_is_searched_for_whom_a_rule_found(gate: SimpleNamespace) -> None:
    policy = only(BELOW, CONFIRMED, confirm=PROMPTS)
    data = text_run(policy)
    # p3 has no caption: the empty prompt is tried
    assert gate.verdict.probes_to_confirm(data, policy, method=CAPTION) == ("p1", "p2", "p3", *CONTROLS)
    assert gate.verdict.probes_to_confirm(data, policy, method=GCG) == ()
    assert gate.verdict.probes_to_confirm(data, policy, method=PLAIN_SAMPLING) == ()
    expect(judged(gate, data, policy), "pass")
    flagged = with_score(data, "p3", 0.01)
    assert gate.verdict.probes_to_confirm(flagged, policy, method=GCG)[0] == "p3"
    not_searched = ("invmm_below", "p3"), ("confirmed", "p3")
    expect(judged(gate, flagged, policy), "block", ("controls", None), *not_searched)
    without_search = only(BELOW, CONFIRMED, confirm={"prompts": {"probes": "flagged"}})
    assert gate.verdict.probes_to_confirm(flagged, without_search, method=GCG) == ()
    assert gate.verdict.probes_to_confirm(flagged, without_search, method=CAPTION) == ("p3",)
    both = with_score(flagged, "p1", 0.01)
    assert gate.verdict.probes_to_confirm(both, without_search, method=CAPTION) == ("p1", "p3")


@case
def captions_of_the_controls_are_tried_too(gate: SimpleNamespace) -> None:
    policy = only(CONFIRMED, confirm=PROMPTS)
    data = text_run(policy)
    for method in CAPTIONED:
        copied = with_confirmation(data, captioned("c05", 1, 3, method=method))
        expect(judged(gate, copied, policy), "inconclusive", ("controls", "c05"))
        for trials, decision in ((7, "inconclusive"), (8, "pass")):
            few = with_confirmation(data, captioned("c05", trials=trials, method=method))
            expect(judged(gate, few, policy), decision, *([("controls", None)] if decision != "pass" else []))
    assert "1 of 3 samples are copies of the control c05" in judged(gate, copied, policy).reasons[0]
    short = only(CONFIRMED, confirm={"prompts": {"trials": 4}})
    for trials, decision in ((3, "inconclusive"), (4, "pass")):
        few = with_confirmation(data, captioned("c05", trials=trials))
        expect(judged(gate, few, short), decision, *([("controls", None)] if decision != "pass" else []))


@case
def a_control_near_its_own_captions_samples_is_not_held_against_the_others(gate: SimpleNamespace) -> None:
    policy = only(CONFIRMED, confirm=PROMPTS)
    near = with_confirmation(text_run(policy), captioned("c05", closest=0.11))
    expect(judged(gate, near, policy), "pass")


@case
def captions_of_the_controls_are_not_tried_where_only_those_that_a_rule_found_are(gate: SimpleNamespace) -> None:
    policy = only(BELOW, CONFIRMED, confirm={"prompts": {"trials": 64, "probes": "flagged"}})
    data = replace(text_run(policy), confirmations=())
    expect(judged(gate, data, policy), "pass")
    flagged = with_score(data, "p3", 0.01)
    assert gate.verdict.probes_to_confirm(flagged, policy, method=CAPTION) == ("p3",)


@case
def captions_that_were_not_tried_or_too_little_are_inconclusive(gate: SimpleNamespace) -> None:
    policy = only(CONFIRMED, confirm=PROMPTS)
    data = text_run(policy)
    untried = replace(data, confirmations=data.confirmations[1:])
    expect(judged(gate, untried, policy), "inconclusive", ("confirmed", "p1"))
    short = with_confirmation(data, captioned("p2", trials=63))
    expect(judged(gate, short, policy), "inconclusive", ("confirmed", "p2"))
    undecided = with_confirmation(data, captioned("p2", status="undecided"))
    expect(judged(gate, undecided, policy), "inconclusive", ("confirmed", "p2"))
    more = with_confirmation(data, captioned("p2", trials=65))
    expect(judged(gate, more, policy), "pass")


@case
def one_replicating_sample_of_any_prompt_blocks(gate: SimpleNamespace) -> None:
    policy = only({"rule": "confirmed", "rate_limit": 0.5}, confirm=PROMPTS)
    data = text_run(policy)
    for method in (CAPTION, GCG, "cluster_prompt", "of a later version"):
        extra = sampled("p3", 1, 64, method=method)
        tried = with_searches(data, *SEARCHED) if method == GCG else data
        kept = tuple(each for each in tried.confirmations if (each.probe, each.method) != ("p3", method))
        verdict = judged(gate, replace(data, confirmations=(*kept, extra)), policy)
        expect(verdict, "block", ("confirmed", "p3"))
        assert verdict.findings[0].value == 1 / 64


@case
def no_search_is_missing_where_an_input_was_found(gate: SimpleNamespace) -> None:
    policy = only(BELOW, CONFIRMED, confirm=PROMPTS)
    data = with_confirmation(with_score(text_run(policy), "p1", 0.01), captioned("p1", 60))
    expect(judged(gate, data, policy), "block", ("invmm_below", "p1"), ("confirmed", "p1"))
    searched = with_searches(with_score(text_run(policy), "p1", 0.01), "p1", *SEARCHED)
    expect(judged(gate, searched, policy), "block", ("invmm_below", "p1"))  # refuted within its budget: never cleared


SEARCHED = ("c04", "c06", "c08", "c14")
"""The controls that the search of four is made on, in the probe set's order; c04 comes first."""


def with_searches(data: RunData, *names: str, **changes: Any) -> RunData:
    """The run with a search for each of these that found nothing."""
    return with_confirmation(data, *(captioned(name, **({"method": GCG} | changes)) for name in names))


def searched_policy(controls: int = 4, *rules: dict[str, Any], **changes: Any) -> Any:
    return only(*(rules or (BELOW, CONFIRMED)), confirm={"prompts": {"gcg": {"controls": controls}}}, **changes)


@case
def a_search_is_made_on_a_few_controls_wherever_it_is_made(gate: SimpleNamespace) -> None:
    def asked(data: RunData, policy: Any) -> tuple[str, ...]:
        found: tuple[str, ...] = gate.verdict.probes_to_confirm(data, policy, method=GCG)
        return found

    policy = searched_policy()
    data = text_run(policy)
    assert asked(data, policy) == ()
    flagged = with_score(data, "p3", 0.01)
    assert asked(flagged, policy) == ("p3", *SEARCHED)
    assert asked(flagged, searched_policy(1)) == ("p3", "c04")
    assert asked(flagged, searched_policy(0)) == ("p3",)
    assert asked(flagged, searched_policy(100)) == ("p3", *CONTROLS)
    by_caption = with_confirmation(flagged, captioned("p3", 60))
    assert asked(by_caption, policy) == ("p3",), "as an input was found, nothing is searched"
    assert asked(with_score(by_caption, "p1", 0.01), policy) == ("p1", "p3", *SEARCHED)
    by_search = with_searches(flagged, "p3", hits=1, interval=clopper_pearson(1, 64), status="confirmed")
    assert asked(by_search, policy) == ("p3", *SEARCHED)
    assert asked(with_searches(data, "p1"), policy) == SEARCHED, "made under a policy that found p1"
    assert asked(with_searches(data, "c05"), policy) == ()
    assert asked(with_score(clean_run(), "p3", 0.01), policy) == ()
    without_search = only(BELOW, CONFIRMED, confirm={"prompts": {}})
    assert asked(with_searches(flagged, "p3"), without_search) == ()
    flagged_control = searched_policy(4, BELOW | {"groups": ["control"]}, CONFIRMED)
    assert asked(with_score(data, "c05", 0.01), flagged_control) == ("c05",)


@case
def model_and_images_say_which_controls_a_search_is_made_on(gate: SimpleNamespace) -> None:
    policy = searched_policy(1)
    data = with_score(text_run(policy), "p3", 0.01)

    def image(data: RunData) -> str:
        (chosen,) = set(gate.verdict.probes_to_confirm(data, policy, method=GCG)) - {"p3"}
        return target(data, chosen).sha256

    def with_set(*probes: Any) -> RunData:
        return replace(data, run=replace(data.run, probe_set=replace(data.run.probe_set, probes=probes)))

    chosen, probes = image(data), data.run.probe_set.probes
    assert image(with_set(*reversed(probes))) == chosen
    assert image(with_set(*(replace(each, caption="other", path=f"{each.id}.jpg") for each in probes))) == chosen
    controls = [each.id for each in probes if each.group == "control"]
    renamed = dict(zip(controls, reversed(controls), strict=True))
    assert image(with_set(*(replace(each, id=renamed.get(each.id, each.id)) for each in probes))) == chosen
    models = [replace(data.run.model, digest=f"{number:064x}") for number in range(8)]
    assert len({image(replace(data, run=replace(data.run, model=model))) for model in models}) > 2
    first = next(each for each in probes if each.sha256 == chosen)
    copied = with_set(*probes, replace(first, id="c99"), replace(first, id="b"))
    assert set(gate.verdict.probes_to_confirm(copied, searched_policy(2), method=GCG)) > {"p3", "b"}
    assert len(gate.verdict.probes_to_confirm(copied, searched_policy(2), method=GCG)) == 3, "copies count once"


@case
def a_prompt_that_is_found_for_a_control_leaves_the_run_open(gate: SimpleNamespace) -> None:
    policy = searched_policy(4)
    data = with_searches(with_score(text_run(policy), "p3", 0.01), "p3", *SEARCHED)
    waived = waiver(probe="p3")
    accepted = ("invmm_below", "p3")
    verdict = judged(gate, data, policy, waived)
    expect(verdict, "pass", accepted)
    assert (verdict.base_rate.controls, verdict.base_rate.found, round(verdict.base_rate.upper, 3)) == (4, 0, 0.527)
    assert judged(gate, with_searches(text_run(policy), "p3"), policy).base_rate is None
    hit = with_searches(data, "c08", hits=3, interval=clopper_pearson(3, 64), status="confirmed")
    verdict = judged(gate, hit, policy, waived)
    expect(verdict, "inconclusive", ("controls", "c08"), accepted)
    said = verdict.reasons[0]
    assert said.startswith("the prompt search brought out the control c08 in 3 of 64 samples, 1 of 4 controls that it")
    assert "makes copies of images that the model cannot have seen" in said
    assert said.endswith("take it out of the controls, or make it a probe; if they do not, calibrate the copy metric")
    odd = with_searches(data, "c08", hits=3, interval=clopper_pearson(3, 64))  # "refuted", and yet with hits
    expect(judged(gate, odd, policy, waived), "inconclusive", ("controls", "c08"), accepted)
    once = with_searches(hit, "c06", status="undecided")
    verdict = judged(gate, once, policy, waived)
    expect(verdict, "inconclusive", ("controls", "c06"), ("controls", "c08"), accepted)
    assert "brought out the control c06 while it went on, but in 0 of 64 samples" in verdict.reasons[0]
    assert "2 of 4 controls" in verdict.reasons[0]
    assert (verdict.base_rate.controls, verdict.base_rate.found) == (4, 2)
    expect(judged(gate, hit, searched_policy(0), waived), "inconclusive", ("controls", "c08"), accepted)
    expect(judged(gate, hit, policy), "block", ("controls", "c08"), accepted)


@case
def a_search_that_was_not_made_on_the_controls_leaves_the_run_open(gate: SimpleNamespace) -> None:
    policy, waived, accepted = searched_policy(4), waiver(probe="p3"), ("invmm_below", "p3")
    data = with_searches(with_score(text_run(policy), "p3", 0.01), "p3")
    for made, left in (((), 4), (SEARCHED[:3], 1), (CONTROLS[:9], 1), (CONTROLS[:4], 4)):
        verdict = judged(gate, with_searches(data, *made), policy, waived)
        expect(verdict, "inconclusive", ("controls", None), accepted)
        assert f"not made on {left} controls (" in verdict.reasons[0], verdict.reasons
    assert verdict.reasons[0].endswith("how often it brings out images that the model cannot have seen is unknown")
    for trials, decision in ((63, "inconclusive"), (64, "pass")):
        few = with_searches(data, *SEARCHED, trials=trials)
        expect(judged(gate, few, policy, waived), decision, *([("controls", None)] if trials < 64 else []), accepted)
    by_caption = with_confirmation(with_searches(data, *SEARCHED[:3]), captioned(SEARCHED[3], 8, 8))
    expect(judged(gate, by_caption, policy, waived), "inconclusive", ("controls", SEARCHED[3]), accepted)
    unjudged = searched_policy(4, BELOW)
    expect(judged(gate, data, unjudged, waived), "pass", accepted)


@case
def a_search_on_fewer_controls_than_the_policy_asks_for_leaves_the_run_open(gate: SimpleNamespace) -> None:
    few, waived, accepted = {"coverage": {"min_controls": 0}}, waiver(probe="p3"), ("invmm_below", "p3")
    for controls, lacking in ((20, ()), (21, (("controls", None),)), (23, (("controls", None),))):
        policy = searched_policy(controls, **few)
        data = text_run(policy)
        expect(judged(gate, data, policy), "pass")
        data = with_searches(with_score(data, "p3", 0.01), "p3", *CONTROLS)
        verdict = judged(gate, data, policy, waived)
        expect(verdict, "inconclusive" if lacking else "pass", *lacking, accepted)
    assert verdict.reasons[0].startswith(
        "the policy asks for a prompt search on 23 controls, and the probe set has 20: "
    )
    without = searched_policy(4, **few)
    probes = tuple(each for each in data.run.probe_set.probes if each.group != "control")
    alone = replace(
        text_run(without), run=replace(text_run(without).run, probe_set=replace(data.run.probe_set, probes=probes))
    )
    alone = replace(
        alone,
        measurements=tuple(each for each in alone.measurements if each.group != "control"),
        confirmations=tuple(each for each in alone.confirmations if each.probe not in CONTROLS),
    )
    expect(judged(gate, alone, without), "pass")
    alone = with_searches(with_score(alone, "p3", 0.01), "p3")
    expect(judged(gate, alone, without, waived), "inconclusive", ("controls", None), accepted)
    expect(judged(gate, alone, searched_policy(0, **few), waived), "pass", accepted)
    expect(judged(gate, alone, searched_policy(4, BELOW, **few), waived), "pass", accepted)


@case
def a_class_conditional_model_is_tried_under_labels_where_a_text_model_is_given_prompts(gate: SimpleNamespace) -> None:
    policy = only(BELOW, CONFIRMED, confirm=PROMPTS)
    data = label_run(policy)
    expect(judged(gate, data, policy), "pass")
    everybody = ("p1", "p2", "p3", *CONTROLS)
    for method, asked in ((LABEL, everybody), (LABEL_ON_GRID, everybody), (CAPTION, ()), (LABEL_SEARCH, ()), (GCG, ())):
        assert gate.verdict.probes_to_confirm(data, policy, method=method) == asked, method
    untried = replace(data, confirmations=data.confirmations[1:])
    expect(judged(gate, untried, policy), "inconclusive", ("confirmed", "p1"))
    for method in LABELLED:
        copied = with_confirmation(data, labelled("p2", 1, method=method))
        verdict = judged(gate, copied, policy)
        expect(verdict, "block", ("confirmed", "p2"))
        assert "an input found by its label" in verdict.findings[0].message
        short = with_confirmation(data, labelled("p2", trials=63, method=method))
        verdict = judged(gate, short, policy)
        expect(verdict, "inconclusive", ("confirmed", "p2"))
        assert "sampled 63 times by label, fewer than the 64" in verdict.findings[0].message
        control = with_confirmation(data, labelled("c05", 1, 3, method=method))
        expect(judged(gate, control, policy), "inconclusive", ("controls", "c05"))


def labelled(name: str, hits: int = 0, trials: int = 64, **changes: Any) -> Any:
    return sampled(name, hits, trials, **{"method": LABEL, "label": 3, "guidance_scale": 1.0} | changes)


@case
def labels_that_were_not_tried_leave_a_probe_open_and_no_control(gate: SimpleNamespace) -> None:
    policy = only(BELOW, CONFIRMED, confirm=PROMPTS)
    left = {"status": "undecided", "labels_left": 985}
    open_probe = with_confirmation(label_run(policy), labelled("p3", **left))
    verdict = judged(gate, open_probe, policy)
    expect(verdict, "inconclusive", ("confirmed", "p3"))
    assert verdict.findings[0].message == (
        "985 of the model's labels were not tried for p3: give its label in the manifest"
    )
    expect(judged(gate, with_confirmation(label_run(policy), labelled("c05", trials=8, **left)), policy), "pass")
    plain = with_confirmation(label_run(policy), labelled("p3", status="undecided"))
    assert judged(gate, plain, policy).findings[0].message == "the confirmation of p3 is undecided"
    for wrong in ({"labels_left": 1}, {"labels_left": -1, "status": "undecided"}):
        odd = with_confirmation(label_run(policy), labelled("p3", **wrong))
        expect(judged(gate, odd, policy), "inconclusive", ("records", "p3"), ("confirmed", "p3"))
    found = with_confirmation(label_run(policy), labelled("p3", 2, labels_left=3))
    expect(judged(gate, found, policy), "block", ("confirmed", "p3"))


@case
def a_drawn_image_of_which_labels_are_left_was_not_searched_in_full(gate: SimpleNamespace) -> None:
    policy = only(CONFIRMED, confirm=PROMPTS)
    data = label_run(policy)
    probes = tuple(replace(each, group="sample") if each.id == "p3" else each for each in data.run.probe_set.probes)
    measured = tuple(replace(each, group="sample") if each.probe == "p3" else each for each in data.measurements)
    drawn = replace(with_probes(data, *probes), measurements=measured)

    def share(found: RunData) -> tuple[int, int]:
        said = judged(gate, found, policy).extractable
        return said.found, said.unsearched

    assert share(drawn) == (0, 0)
    assert share(with_confirmation(drawn, labelled("p3", status="undecided", labels_left=1))) == (0, 1)
    assert share(with_confirmation(drawn, labelled("p3", 2))) == (1, 0)


@case
def a_search_through_labels_needs_no_control_of_its_own_and_is_made_on_controls(gate: SimpleNamespace) -> None:
    policy, waived, accepted = searched_policy(4), waiver(probe="p3"), ("invmm_below", "p3")
    flagged = with_score(label_run(policy), "p3", 0.01)
    assert gate.verdict.probes_to_confirm(flagged, policy, method=LABEL_SEARCH) == ("p3", *SEARCHED)
    assert gate.verdict.probes_to_confirm(flagged, policy, method=GCG) == ()
    verdict = judged(gate, flagged, policy)
    expect(verdict, "block", ("controls", None), ("invmm_below", "p3"), ("confirmed", "p3"))
    assert "p3 was not confirmed by label search" in verdict.findings[2].message
    assert verdict.findings[0].message.startswith("the label search was not made on 4 controls")
    searches = {"method": LABEL_SEARCH, "trials": 8}
    made = with_confirmation(flagged, *(labelled(name, **searches) for name in ("p3", *SEARCHED)))
    verdict = judged(gate, made, policy, waived)
    expect(verdict, "pass", accepted)
    assert (verdict.base_rate.controls, verdict.base_rate.found) == (4, 0)
    budget = labelled("c08", status="undecided", labels_left=4, **searches)
    assert judged(gate, with_confirmation(made, budget), policy, waived).base_rate.found == 0
    hit = with_confirmation(made, labelled("c08", 3, **searches))
    verdict = judged(gate, hit, policy, waived)
    expect(verdict, "inconclusive", ("controls", "c08"), accepted)
    assert verdict.reasons[0].startswith("the label search brought out the control c08 in 3 of 8 samples, 1 of 4")
    little = with_confirmation(made, labelled("p3", status="undecided", labels_left=4, **searches))
    verdict = judged(gate, little, policy, waived)
    assert [found.message for found in verdict.findings if found.rule == "confirmed"] == [
        "4 of the model's labels were not tried for p3: raise confirm.prompts.gcg.max_evaluations"
    ]
    brought = with_confirmation(flagged, labelled("p3", 2), *(labelled(name, **searches) for name in SEARCHED))
    found = judged(gate, brought, policy)
    assert not any("label search" in finding.message for finding in found.findings)


@case
def a_label_counts_as_a_caption_does_and_another_label_as_a_prompt_that_was_found(gate: SimpleNamespace) -> None:
    def decision(kinds: list[str], found: Any) -> str:
        likely = {"rule": "extraction_likelihood", "one_in": 10**6, "kinds": kinds}
        policy = only(likely, confirm=PROMPTS | {"likelihood": {}})
        data = with_confirmation(label_run(policy), found)
        return judged(gate, with_likelihood(data, estimated("p2", prompt_kind="label")), policy).decision

    own, other = labelled("p2", 60), labelled("p2", 8, 8, method=LABEL_SEARCH)
    assert decision(["none", "caption", "typed"], own) == "block"
    assert decision(["caption"], own) == "block"
    assert decision(["caption"], other) == "pass"
    assert decision(["typed", "caption"], other) == "block"


@case
def a_label_makes_another_test_for_class_conditional_models_alone(gate: SimpleNamespace) -> None:
    one, other = probe("p1"), replace(probe("p1"), label=3)
    captioned_one = replace(one, caption="a cat")
    same = gate.evidence.same_probe
    assert not same(one, other, prompts=True, labels=True)
    assert same(one, other, prompts=True)
    assert same(one, other, prompts=False)
    assert same(one, captioned_one, prompts=True, labels=True)
    assert not same(one, captioned_one, prompts=True)
    assert not same(one, replace(one, fit="crop"), prompts=True, labels=True)


def confirmed_by(data: RunData, confirm: dict[str, Any]) -> RunData:
    """The run as if it had been confirmed by another plan."""
    plan = ConfirmChoice.model_validate(confirm).plan()
    return replace(data, run=replace(data.run, inputs=replace(data.run.inputs, confirm=plan)))


@case
def confirmations_by_weaker_means_leave_the_run_open(gate: SimpleNamespace) -> None:
    asked = {"prompts": {"guidance_scales": [1.0, 7.0], "sampler_steps": 50, "gcg": {"steps": 100, "top_k": 64}}}
    policy = only(CONFIRMED, confirm=asked)
    data = text_run(policy)
    expect(judged(gate, data, policy), "pass")

    def decision(**prompts: Any) -> str:
        given = {"prompts": {**policy.confirm.prompts.model_dump(mode="json"), **prompts}}
        return judged(gate, confirmed_by(data, given), policy).decision

    search = policy.confirm.prompts.gcg.model_dump()
    assert decision(guidance_scales=[1.0, 3.0, 7.0], gcg=search | {"steps": 101, "max_evaluations": None}) == "pass"
    assert decision(gcg=search | {"controls": 5}) == "pass"
    for weaker in ({"guidance_scales": [7.0]}, {"sampler_steps": 49}, {"sampler_steps": 51}, {"gcg": None}):
        assert decision(**weaker) == "inconclusive", weaker
    for change in ({"steps": 99}, {"top_k": 65}, {"noises": 15}, {"candidates": 127}, {"max_evaluations": 10**9}):
        assert decision(gcg=search | change) == "inconclusive", change
    for controls in (0, 3):
        assert decision(gcg=search | {"controls": controls}) == "inconclusive", controls
    plain = clean_run()
    weaker_plan = confirmed_by(plain, {"plain_sampling": {"trials": 512, "sampler_steps": 5}})
    expect(judged(gate, weaker_plan, only(CONFIRMED)), "inconclusive", ("settings", None))
    expect(judged(gate, weaker_plan, only(BELOW)), "pass")
    for confirm in ({}, {"plain_sampling": None}, {"prompts": asked["prompts"]}):
        found = judged(gate, confirmed_by(plain, confirm), only(CONFIRMED, BELOW))
        expect(found, "inconclusive", ("settings", None))
    expect(judged(gate, plain, only(CONFIRMED, BELOW, confirm=asked)), "inconclusive", ("confirmed", None))
    expect(judged(gate, confirmed_by(data, {"prompts": None}), policy), "inconclusive", ("settings", None))
    no_search = only(CONFIRMED, confirm={"prompts": {"guidance_scales": [7.0]}})
    expect(judged(gate, data, no_search), "pass")


@case
def policy_without_prompts_leaves_a_text_model_open(gate: SimpleNamespace) -> None:
    policy = only(CONFIRMED)
    silent = only(CONFIRMED, confirm={"plain_sampling": {"trials": 512}})
    expect(judged(gate, text_run(policy), silent), "inconclusive", ("confirmed", None))
    assert gate.verdict.probes_to_confirm(text_run(policy), silent, method=CAPTION) == ()


# --- below_controls


@case
def outliers_against_the_controls_block(gate: SimpleNamespace) -> None:
    data = with_score(clean_run(), "p1", 0.4)
    data = with_score(data, "p2", None, hits=1)
    verdict = judged(gate, data, only(CONTROLLED))
    expect(verdict, "block", ("below_controls", "p1"), ("below_controls", "p2"))
    # p = 1/21 for both of three probes, so both are flagged at 1/21 * 3 / 2
    assert abs(verdict.findings[0].value - 1 / 14) < 1e-12
    assert verdict.findings[0].limit == 0.1


@case
def random_draw_and_the_other_probes_are_held_against_the_controls_apart(gate: SimpleNamespace) -> None:
    samples = [probe(f"s{number:02}", group="sample") for number in range(40)]
    data = with_probes(clean_run(), *samples)
    data = replace(data, measurements=(*data.measurements, *map(measured, samples)))
    policy = only(CONTROLLED | {"groups": ["sensitive", "sample"]})
    expect(judged(gate, data, policy), "pass")
    expect(judged(gate, with_score(data, "p1", 0.4), policy), "block", ("below_controls", "p1"))
    low = with_measurement(data, *(measured(each, 0.4) for each in samples))
    expect(judged(gate, low, policy), "block", *(("below_controls", each.id) for each in samples))
    expect(judged(gate, low, only(CONTROLLED | {"groups": ["sensitive"]})), "pass")


@case
def ties_with_controls_count_against_the_finding(gate: SimpleNamespace) -> None:
    single = CONTROLLED | {"groups": ["sensitive"]}
    data = with_score(clean_run(), "p1", 0.4)
    expect(judged(gate, data, only(single)), "block", ("below_controls", "p1"))
    expect(judged(gate, with_score(data, "c00", 0.5), only(single)), "block", ("below_controls", "p1"))
    expect(judged(gate, with_score(data, "c00", 0.4), only(single)), "block", ("below_controls", "p1"))
    tied = with_score(with_score(data, "c00", 0.4), "c01", 0.4)
    expect(judged(gate, tied, only(single)), "pass")
    expect(judged(gate, with_score(tied, "c01", 0.41), only(single)), "block", ("below_controls", "p1"))


@case
def fdr_is_met_exactly(gate: SimpleNamespace) -> None:
    data = with_score(clean_run(controls=19), "p1", 0.4)
    for fdr, decision in ((0.05, "block"), (0.049, "inconclusive")):
        policy = only(CONTROLLED | {"fdr": fdr, "groups": ["sensitive"]})
        expect(judged(gate, data, policy), decision, ("below_controls", "p1" if decision == "block" else None))


@case
def share_of_replicating_samples_ranks_probes_without_a_score(gate: SimpleNamespace) -> None:
    single = only(CONTROLLED | {"groups": ["sensitive"]})
    for hits, controls_hits, decision in ((0, 0, "pass"), (1, 0, "block"), (1, 1, "pass"), (2, 1, "block")):
        data = with_score(clean_run(), "p1", None, hits=hits)
        for name in CONTROLS:
            data = with_score(data, name, None, hits=controls_hits)
        expect(judged(gate, data, single), decision, *([("below_controls", "p1")] if decision == "block" else []))


@case
def probe_without_score_or_share_is_never_an_outlier(gate: SimpleNamespace) -> None:
    policy = only(CONTROLLED, coverage=COVERAGE | {"min_controls": 0})
    narrow = only(CONTROLLED | {"groups": ["sensitive"]}, coverage=COVERAGE | {"min_controls": 0})
    data = clean_run()
    data = with_measurement(data, *(broken(target(data, name)) for name in CONTROLS))
    some = with_score(data, "p1", None, hits=8)
    broke = [("coverage", name) for name in CONTROLS]
    expect(judged(gate, data, policy), "inconclusive", *broke)
    expect(judged(gate, some, policy), "inconclusive", *broke)
    expect(judged(gate, some, narrow), "block", *broke, ("below_controls", "p1"))


@case
def broken_control_never_helps(gate: SimpleNamespace) -> None:
    policy = only(CONTROLLED | {"fdr": 0.05, "groups": ["sensitive"]}, coverage=COVERAGE)
    data = with_score(clean_run(controls=19), "p1", 0.4)
    data = with_measurement(data, broken(target(data, "c00")))
    verdict = judged(gate, data, policy)
    expect(verdict, "block", ("coverage", "c00"), ("below_controls", "p1"))
    assert "c00 broke: NaN from the network" in verdict.findings[0].message


@case
def copies_of_a_control_count_once(gate: SimpleNamespace) -> None:
    data = clean_run()
    same = with_probes(data, *(probe(name, group="control", image="one") for name in CONTROLS))
    policy = only(CONTROLLED, coverage=COVERAGE | {"min_controls": 0})
    expect(judged(gate, same, policy), "inconclusive", ("below_controls", None))
    expect(judged(gate, same, only(BELOW)), "inconclusive", ("coverage", None))
    twins = with_probes(
        data, *(probe(name, group="control", image=f"i{place // 2}") for place, name in enumerate(CONTROLS))
    )
    twins = with_score(with_score(twins, "p1", 0.4), "c00", 0.3)
    wide = only(CONTROLLED | {"groups": ["sensitive"]}, coverage=COVERAGE | {"min_controls": 10})
    expect(judged(gate, twins, wide), "block", ("below_controls", "p1"))


@case
def probe_without_share_leaves_the_comparison_open(gate: SimpleNamespace) -> None:
    data = clean_run()
    data = with_measurement(data, measured(target(data, "p1"), share=None))
    expect(judged(gate, data, only(CONTROLLED)), "inconclusive", ("below_controls", "p1"))
    scored = with_measurement(data, measured(target(data, "p1"), 5.0, share=None))
    for name in CONTROLS:
        scored = with_score(scored, name, 0.1)
    expect(judged(gate, scored, only(CONTROLLED)), "pass")
    low = with_measurement(data, measured(target(data, "p1"), 0.4, share=None))
    expect(judged(gate, low, only(CONTROLLED | {"groups": ["sensitive"]})), "block", ("below_controls", "p1"))


# --- thresholds in nats and bits

NATS = 768 * 0.02
"""What 0.02 a dimension is for the 3 x 16 x 16 dimensions of the runs here, in nats over all of them."""


def in_all(unit: str, nats: float, **changes: Any) -> dict[str, Any]:
    return {"rule": "invmm_below", f"threshold_{unit}": nats / (math.log(2) if unit == "bits" else 1)} | changes


@case
def threshold_in_nats_or_bits_is_that_of_the_whole_latent(gate: SimpleNamespace) -> None:
    for unit in ("nats", "bits"):
        policy = only(in_all(unit, NATS))
        for score, decision in ((0.0199, "block"), (0.02 * (1 + 0.9e-4), "block"), (0.0201, "pass"), (None, "pass")):
            data = with_score(clean_run(), "p1", score)
            expect(judged(gate, data, policy), decision, *([("invmm_below", "p1")] if decision == "block" else []))
        larger = of_latent(with_score(clean_run(), "p1", 0.0199), (4, 32, 32), "latent", policy)
        expect(judged(gate, larger, policy), "pass")
        smaller = of_latent(with_score(clean_run(), "p1", 0.07), (3, 8, 8), "latent", policy)
        expect(judged(gate, smaller, policy), "block", ("invmm_below", "p1"))


def of_latent(data: RunData, shape: tuple[int, ...], family: Any, policy: Any) -> RunData:
    """The run as one of a model with a latent of this shape."""
    settings = policy.resolve_settings(family, dimensions=math.prod(shape) or None)
    inputs = replace(data.run.inputs, latent_shape=shape, family=family, settings=settings)
    return replace(data, run=replace(data.run, inputs=inputs))


@case
def finding_says_score_and_threshold_in_the_threshold_s_unit_and_in_bits(gate: SimpleNamespace) -> None:
    data = with_score(clean_run(), "p1", 0.01)
    for rule, said in (
        (BELOW, "p1 (sensitive) scores 0.01 (11.1 bits), at or below 0.05 (55.4 bits)"),
        (in_all("nats", NATS), "p1 (sensitive) scores 7.68 nats (11.1 bits), at or below 15.36 nats (22.2 bits)"),
        ({"rule": "invmm_below", "threshold_bits": 22}, "p1 (sensitive) scores 11.1 bits, at or below 22 bits"),
    ):
        (found,) = judged(gate, data, only(rule)).findings
        assert found.message == said
        assert found.value == 0.01, "figures stay per dimension, as the records have them"
    assert abs(found.limit - 22 * math.log(2) / 768) < 1e-12
    policy = only(in_all("nats", NATS))
    early = judged(gate, with_measurement(data, stopped(target(data, "p1"), 0.01)), policy)
    assert (
        early.findings[0].message
        == "p1 was stopped above 7.68 nats (11.1 bits), too low to compare with 15.36 nats (22.2 bits)"
    )
    point = CurvePoint(step=400, denoising_error=0.02, normality=0.01, weight=0.1, best_value=0.05)
    nearly = trial("not_inverted", share=replication_share(7, 8), curve=(point,))
    partly = with_measurement(data, measured(target(data, "p1"), hits=7, trials=(nearly,)))
    (found,) = judged(gate, partly, only(in_all("nats", NATS, share=0.5))).findings
    assert "7 of 8 samples replicate it at normality 7.68 nats (11.1 bits), at or below 15.36 nats" in found.message


@case
def controls_are_held_against_the_highest_threshold_whatever_its_unit(gate: SimpleNamespace) -> None:
    data = with_score(clean_run(), "c03", 0.015)
    low = BELOW | {"threshold": 0.01}
    for rules, decision in (
        ((low,), "pass"),
        ((low, in_all("bits", NATS)), "inconclusive"),
        ((in_all("nats", 7.68),), "pass"),
    ):
        expect(judged(gate, data, only(*rules)), decision, *([("controls", "c03")] if decision != "pass" else []))


@case
def latent_that_cannot_be_leaves_the_run_open(gate: SimpleNamespace) -> None:
    for rule in (BELOW, in_all("nats", NATS)):
        policy = only(rule)
        for shape, family in (
            ((3, 0, 16), "latent"),
            ((-3, 16, -16), "latent"),
            ((), "latent"),
            ((3, 32, 32), "class_pixel"),
            ((3, 32, 32), "pixel"),
        ):
            data = replace(clean_run(), run=clean_run().run)
            inputs = replace(data.run.inputs, latent_shape=shape, family=family)
            verdict = judged(gate, replace(data, run=replace(data.run, inputs=inputs)), policy)
            assert verdict.decision == "inconclusive"
            assert any("says that its latent has the shape" in found.message for found in verdict.findings)
    unknown = [each for each in verdict.findings if each.rule == "invmm_below"]
    assert unknown == [], "the shape of a pixel model is known, if wrong"
    inputs = replace(data.run.inputs, latent_shape=(3, 0, 16), family="latent")
    verdict = judged(gate, replace(data, run=replace(data.run, inputs=inputs)), policy)
    assert "the run does not say how many dimensions its latent has" in {found.message for found in verdict.findings}


@case
def number_of_controls_that_one_outlier_takes_is_known(gate: SimpleNamespace) -> None:
    numbers = [gate.conformal.controls_for_one(probes, 0.1) for probes in (0, 1, 100)]
    assert numbers == [0, 9, 999]
    assert [gate.conformal.fewest_outliers(100, count, 0.1) for count in (16, 998, 999)] == [59, 2, 1]


# --- group_below_controls


def group_of(*scores: float | None, group: str = "sensitive", data: RunData | None = None, **changes: Any) -> RunData:
    """The clean run with more probes of a group, at these scores; None = not inverted, and no sample replicates it."""
    base = clean_run() if data is None else data
    added = tuple(probe(f"{group}{place}", group=group, **changes) for place, _ in enumerate(scores))
    records = tuple(measured(each, score) for each, score in zip(added, scores, strict=True))
    return replace(with_probes(base, *added), measurements=(*base.measurements, *records))


def groups_found(verdict: Verdict) -> list[tuple[str, str | None, str | None]]:
    return [(found.effect, found.group, found.probe) for found in verdict.findings]


@case
def group_that_stands_out_blocks_and_is_named(gate: SimpleNamespace) -> None:
    # p1 and seven more are eight sensitive images beside 20 controls: P(4 lie below all) = 0.0034, and 2 x that at most
    few, enough = group_of(*[0.4] * 2, *[None] * 5), group_of(*[0.4] * 4, *[None] * 3)
    expect(judged(gate, few, only(GROUPED)), "pass")
    verdict = judged(gate, enough, only(GROUPED))
    assert groups_found(verdict) == [("block", "sensitive", None)]
    (found,) = verdict.findings
    assert found.rule == "group_below_controls"
    assert found.message.startswith("the group sensitive as a whole is more memorized than the controls: 4 of its 8 im")
    assert "images lie below all 20 controls, adjusted p 0.006838" in found.message
    assert abs(found.value - 2 * 70 / 20475) < 1e-12
    assert found.limit == 0.05
    assert verdict.decision == "block"


@case
def every_group_that_could_be_flagged_is_a_question_of_its_own(gate: SimpleNamespace) -> None:
    both = group_of(*[0.4] * 4, *[None] * 3, data=group_of(*[0.4] * 4, *[None] * 3, group="canary"))
    found = judged(gate, both, only(GROUPED)).findings
    assert [(each.group, each.value) for each in found] == [
        ("sensitive", 2 * found[0].value / 2),
        ("canary", found[1].value),
    ]
    assert abs(found[0].value - 2 * 2 * 70 / 20475) < 1e-12, "Holm: two questions; that of one image is none"
    narrow = only(GROUPED | {"groups": ["canary"]})
    assert groups_found(judged(gate, both, narrow)) == [("block", "canary", None)]
    alpha = only(GROUPED | {"alpha": 0.007})
    assert groups_found(judged(gate, group_of(*[0.4] * 4, *[None] * 3), alpha)) == [("block", "sensitive", None)]
    expect(judged(gate, both, alpha), "pass")


@case
def alpha_is_met_exactly(gate: SimpleNamespace) -> None:
    data = with_score(group_of(0.4, data=clean_run(controls=3)), "p1", 0.4)  # 2 of 2 below 3 controls: 2 x 1/10
    for alpha, found in ((0.2, ("block", "sensitive", None)), (0.199, ("inconclusive", None, None))):
        policy = only(GROUPED | {"alpha": alpha}, coverage=COVERAGE | {"min_controls": 0})
        assert groups_found(judged(gate, data, policy)) == [found]


@case
def lucky_control_hides_no_group(gate: SimpleNamespace) -> None:
    data = with_score(group_of(*[0.4] * 7), "c03", 0.3)
    (found,) = judged(gate, data, only(GROUPED)).findings
    assert "7 of its 8 images lie below all but 1 of the 20 controls" in found.message
    many = data
    for name in CONTROLS:
        many = with_score(many, name, 0.3)
    expect(judged(gate, many, only(GROUPED)), "pass")


@case
def group_ties_with_controls_count_against_the_finding(gate: SimpleNamespace) -> None:
    data = group_of(*[0.4] * 7)
    for name in CONTROLS:
        data = with_score(data, name, 0.4)
    expect(judged(gate, data, only(GROUPED)), "pass")
    for name in CONTROLS:
        data = with_score(data, name, 0.41)
    assert groups_found(judged(gate, data, only(GROUPED))) == [("block", "sensitive", None)]


@case
def images_that_say_nothing_are_no_evidence_for_a_group_even_beside_broken_controls(gate: SimpleNamespace) -> None:
    data = group_of(*[None] * 7)
    data = with_measurement(data, *(broken(target(data, name)) for name in CONTROLS))
    policy = only(GROUPED, coverage=COVERAGE | {"min_controls": 0})
    expect(judged(gate, data, policy), "inconclusive", *(("coverage", name) for name in CONTROLS))
    shares = with_measurement(
        group_of(*[None] * 7), *(measured(probe(f"sensitive{n}"), None, hits=1) for n in range(4))
    )
    assert groups_found(judged(gate, shares, only(GROUPED))) == [("block", "sensitive", None)]


@case
def broken_control_never_helps_a_group(gate: SimpleNamespace) -> None:
    data = with_score(group_of(*[0.4] * 4, *[None] * 3), "c00", 0.3)
    expect(judged(gate, data, only(GROUPED)), "pass")
    verdict = judged(gate, with_measurement(data, broken(target(data, "c00"))), only(GROUPED))
    assert ("block", "sensitive", None) in groups_found(verdict)


@case
def copies_and_clusters_count_once_for_a_group(gate: SimpleNamespace) -> None:
    loose = group_of(*[0.4] * 4, *[None] * 3)
    assert groups_found(judged(gate, loose, only(GROUPED))) == [("block", "sensitive", None)]
    for same in ({"image": "one"}, {"cluster": "k"}):
        tied = with_probes(
            loose, *(replace(probe(f"sensitive{n}", image=same.get("image", "")), **_cluster(same)) for n in range(4))
        )
        expect(judged(gate, tied, only(GROUPED)), "pass")
    first = with_probes(loose, *(replace(probe(f"sensitive{n}"), cluster="k") for n in (0, 4)))
    assert "4 of its 7 images" in judged(gate, first, only(GROUPED)).findings[0].message
    last = with_probes(loose, *(replace(probe(f"sensitive{n}"), cluster="k") for n in (3, 4, 5, 6)))
    assert "4 of its 5 images" in judged(gate, last, only(GROUPED)).findings[0].message, "the first listed one counts"
    few = with_probes(loose, *(replace(probe(name, group="control"), cluster="k") for name in CONTROLS[3:]))
    expect(judged(gate, few, only(GROUPED)), "pass")


def _cluster(same: dict[str, str]) -> dict[str, str]:
    return {"cluster": same["cluster"]} if "cluster" in same else {}


@case
def images_whose_findings_are_all_waived_are_left_out_of_their_group(gate: SimpleNamespace) -> None:
    data, policy = group_of(*[0.04] * 4, *[None] * 3), only(GROUPED, BELOW)
    every = [waiver(probe=f"sensitive{place}") for place in range(4)]
    assert judged(gate, data, policy).decision == "block"
    verdict = judged(gate, data, policy, *every)
    assert (verdict.decision, [found.group for found in verdict.findings]) == ("pass", [None] * 4)
    # three of eight are left, and still stand out: 2 x 8 of 7 + 20
    assert ("block", "sensitive", None) in groups_found(judged(gate, data, policy, every[0]))
    expired = [replace(each, expires=datetime.date(2026, 1, 1)) for each in every]
    assert ("block", "sensitive", None) in groups_found(judged(gate, data, policy, *expired))
    one_rule = only(GROUPED, BELOW, CONTROLLED | {"fdr": 0.2})
    partly = [replace(each, rule="invmm_below") for each in every]
    assert ("block", "sensitive", None) in groups_found(judged(gate, data, one_rule, *partly)), "not all of them"
    whole = with_score(group_of(*[0.04] * 7), "p1", 0.04)
    everyone = [waiver(probe=each.id) for each in whole.run.probe_set.probes if each.group == "sensitive"]
    assert judged(gate, whole, policy, *everyone).decision == "pass"


@case
def group_with_a_probe_that_broke_stays_open(gate: SimpleNamespace) -> None:
    data = group_of(*[None] * 7)
    p1 = target(data, "p1")
    for spoiled in (broken(p1), measured(p1, share=None)):
        verdict = judged(gate, with_measurement(data, spoiled), only(GROUPED))
        assert ("inconclusive", "sensitive", None) in groups_found(verdict)
        assert verdict.decision == "inconclusive"
        assert "no result of p1" in verdict.findings[-1].message
    low = group_of(*[0.4] * 4, *[None] * 3)
    both = groups_found(judged(gate, with_measurement(low, broken(target(low, "p1"))), only(GROUPED)))
    assert both[-2:] == [("inconclusive", "sensitive", None), ("block", "sensitive", None)]
    scored = with_measurement(data, measured(p1, 5.0, share=None))
    expect(judged(gate, scored, only(GROUPED)), "pass")
    missing = judged(gate, without(data, "sensitive3"), only(GROUPED))
    assert missing.findings[-1].message.endswith("no result of sensitive3")


@case
def groups_too_small_to_be_flagged_leave_the_run_open(gate: SimpleNamespace) -> None:
    verdict = judged(gate, clean_run(), only(GROUPED))
    expect(verdict, "inconclusive", ("group_below_controls", None))
    assert verdict.reasons == ("no group has enough images to be flagged at alpha 0.05 beside 20 controls",)
    nobody = judged(gate, group_of(None), only(GROUPED | {"categories": ["cats"]}))
    expect(nobody, "inconclusive", ("group_below_controls", None), ("group_below_controls", None))
    expect(judged(gate, group_of(None), only(GROUPED)), "pass")


# --- regression


def approved(*measurements: Measurement) -> RunData:
    """The clean run as a baseline, with these measurements alone."""
    return replace(clean_run(), measurements=measurements)


@case
def fallen_score_blocks(gate: SimpleNamespace) -> None:
    data = clean_run()
    before = approved(*(measured(target(data, name), 0.5) for name in ("p1", "p2", "p3")))
    verdicts = {
        0.4: "block",
        0.49: "block",
        0.49 * (1 + 0.9e-4): "block",
        0.4902: "pass",
        0.5: "pass",
        0.7: "pass",
        None: "pass",
    }
    for score, decision in verdicts.items():
        verdict = judged(gate, with_score(data, "p1", score), only(REGRESSION), baseline=before)
        expect(verdict, decision, *([("regression", "p1")] if decision == "block" else []))
    low = approved(measured(target(data, "p1"), 0.005))
    expect(judged(gate, with_score(data, "p1", 0.004), only(REGRESSION), baseline=low), "pass")


@case
def newly_inverted_probe_blocks(gate: SimpleNamespace) -> None:
    data = clean_run()
    befores = (
        approved(measured(target(data, "p1"))),
        approved(),
        approved(broken(target(data, "p1"))),
        approved(stopped(target(data, "p1"), 0.2)),
    )
    for before in befores:
        verdict = judged(gate, with_score(data, "p1", 3.0), only(REGRESSION), baseline=before)
        expect(verdict, "block", ("regression", "p1"))
        expect(judged(gate, data, only(REGRESSION), baseline=before), "pass")


@case
def stopped_probe_is_compared_by_its_bound(gate: SimpleNamespace) -> None:
    data = clean_run()
    before = approved(measured(target(data, "p1"), 0.5))
    for bound, decision in ((0.6, "pass"), (0.4, "inconclusive"), (0.49, "inconclusive"), (0.49 * (1 + 1e-4), "pass")):
        verdict = judged(
            gate, with_measurement(data, stopped(target(data, "p1"), bound)), only(REGRESSION), baseline=before
        )
        expect(verdict, decision, *([("regression", "p1")] if decision != "pass" else []))


@case
def missing_or_bad_baseline_is_inconclusive(gate: SimpleNamespace) -> None:
    data = clean_run()
    verdict = judged(gate, data, only(REGRESSION))
    expect(verdict, "inconclusive", ("regression", None))
    assert "--baseline RUN" in verdict.reasons[0]
    twice = [measured(target(data, "p1"))] * 2
    for bad in (approved(measured(target(data, "p1"), float("nan"))), approved(*twice)):
        expect(judged(gate, data, only(REGRESSION), baseline=bad), "inconclusive", ("records", None))
    expect(judged(gate, data, only(BELOW), baseline=approved()), "pass")


@case
def another_image_under_the_same_id_is_no_baseline(gate: SimpleNamespace) -> None:
    data = clean_run()
    high = with_score(data, "p1", 0.5)
    expect(judged(gate, high, only(REGRESSION), baseline=high), "pass")
    other = with_probes(high, replace(target(data, "p1"), sha256="f" * 64))
    verdict = judged(gate, high, only(REGRESSION), baseline=other)
    expect(verdict, "block", ("regression", "p1"))
    assert "the baseline has no score of this very probe" in verdict.reasons[0]
    fitted = with_probes(high, replace(target(data, "p1"), fit="squeeze"))
    expect(judged(gate, high, only(REGRESSION), baseline=fitted), "block", ("regression", "p1"))
    renamed = with_probes(high, replace(target(data, "p1"), caption="a heron"))
    expect(judged(gate, high, only(REGRESSION), baseline=renamed), "pass")


@case
def another_caption_is_no_baseline_for_a_model_with_prompts(gate: SimpleNamespace) -> None:
    data = with_score(text_run(), "p1", 0.5)
    policy = only(REGRESSION)
    expect(judged(gate, data, policy, baseline=data), "pass")
    other = with_probes(data, replace(target(data, "p1"), caption="another caption"))
    expect(judged(gate, data, policy, baseline=other), "block", ("regression", "p1"))


# --- coverage, self-checks, metric, settings


@case
def missing_measurement_is_inconclusive(gate: SimpleNamespace) -> None:
    for name in ("p1", "c19"):
        expect(judged(gate, without(clean_run(), name), only(BELOW)), "inconclusive", ("coverage", None))
    all_three = only(BELOW, coverage=COVERAGE | {"min_probes": 3})
    expect(judged(gate, without(clean_run(), "p1"), all_three), "inconclusive", ("coverage", None), ("coverage", None))
    loose = only(BELOW, coverage={"min_controls": 0})
    five = judged(gate, without(clean_run(), *CONTROLS[:5]), loose).findings[0].message
    assert five == "5 of 23 probes were not measured: c00, c01, c02, c03, c04"
    seven = judged(gate, without(clean_run(), *CONTROLS[:7]), loose).findings[0].message
    assert seven == "7 of 23 probes were not measured: c00, c01, c02, c03, c04 and 2 more"


@case
def error_of_a_probe_is_inconclusive(gate: SimpleNamespace) -> None:
    data = clean_run()
    data = with_measurement(data, broken(target(data, "p1")))
    verdict = judged(gate, data, only(BELOW))
    expect(verdict, "inconclusive", ("coverage", "p1"))
    assert "NaN from the network" in verdict.findings[0].message


@case
def error_of_a_control_is_inconclusive_however_many_controls_are_left(gate: SimpleNamespace) -> None:
    data = clean_run()
    data = with_measurement(data, broken(target(data, "c00")), replace(broken(target(data, "c01")), reason=""))
    verdict = judged(gate, data, only(BELOW))
    expect(verdict, "inconclusive", ("coverage", "c00"), ("coverage", "c01"))
    assert "no reason given" in verdict.findings[1].message
    expect(
        judged(gate, data, only(BELOW, coverage={"min_controls": 0})),
        "inconclusive",
        ("coverage", "c00"),
        ("coverage", "c01"),
    )


@case
def too_few_probes_or_controls_are_inconclusive(gate: SimpleNamespace) -> None:
    data = clean_run()
    for changes, decision in (
        ({"min_probes": 3}, "pass"),
        ({"min_probes": 4}, "inconclusive"),
        ({"min_controls": 20}, "pass"),
        ({"min_controls": 21}, "inconclusive"),
    ):
        verdict = judged(gate, data, only(BELOW, coverage=COVERAGE | changes))
        expect(verdict, decision, *([("coverage", None)] if decision != "pass" else []))


@case
def planted_ladder_is_found_without_a_breach_and_hides_none(gate: SimpleNamespace) -> None:
    planted = [replace(probe(f"x{number}", group="canary"), multiplicity=64) for number in range(40)]
    data = with_probes(clean_run(), *planted)
    data = replace(
        with_likelihood(data, *(estimated(each.id, 8.0) for each in planted)),
        measurements=(*data.measurements, *(measured(each, 0.001) for each in planted)),
        confirmations=(*data.confirmations, *(sampled(each.id, 9, method=way) for way in SAMPLED for each in planted)),
    )
    verdict = judged(gate, data)
    expect(verdict, "pass")
    assert [(rung.multiplicity, rung.found) for rung in verdict.power.rungs] == [(64, 40)]
    expect(judged(gate, with_score(data, "p1", 0.04)), "block", ("invmm_below", "p1"))
    unstated = with_probes(data, *(replace(each, multiplicity=0) for each in planted[:1]))
    assert {found.probe for found in judged(gate, unstated).findings} == {"x0"}
    found = {found.rule for found in judged(gate, unstated).findings}
    assert {"invmm_below", "confirmed", "extraction_likelihood"} <= found
    for group in ("sensitive", "control"):  # whatever a record says of its multiplicity
        other = with_probes(data, replace(planted[0], group=group))
        other = with_measurement(other, replace(measured(planted[0], 0.001), group=group))
        assert "x0" in {found.probe for found in judged(gate, other).findings}
    lacking = replace(data, confirmations=tuple(each for each in data.confirmations if each.probe != "x0"))
    expect(judged(gate, lacking), "inconclusive", ("confirmed", "x0"))


@case
def planted_ladder_does_not_stand_in_for_probes(gate: SimpleNamespace) -> None:
    planted = [replace(probe(f"x{number}", group="canary"), multiplicity=1) for number in range(9)]
    data = with_probes(clean_run(), *planted)
    data = replace(data, measurements=(*data.measurements, *map(measured, planted)))
    expect(judged(gate, data, only(BELOW, coverage=COVERAGE | {"min_probes": 3})), "pass")
    expect(judged(gate, data, only(BELOW, coverage=COVERAGE | {"min_probes": 4})), "inconclusive", ("coverage", None))


@case
def self_checks_come_before_everything(gate: SimpleNamespace) -> None:
    blocked = with_score(clean_run(), "p1", 0.01)
    failed = replace(CHECKS[0], passed=False, detail="the memorizing model did not invert")
    without_one = (CHECKS[:place] + CHECKS[place + 1 :] for place in range(len(CHECKS)))
    for checks in ((), *without_one, (failed, *CHECKS[1:]), (*CHECKS, replace(failed, name="extra"))):
        verdict = judged(gate, replace(blocked, self_checks=checks), only(BELOW))
        assert verdict.decision == "inconclusive"
        assert "self-check" in verdict.reasons[0]
        assert verdict.findings[-1].effect == "block"
        assert any("scores" in finding.message for finding in verdict.findings)
    for spoiled in (
        replace(CHECKS[0], value=float("nan")),
        replace(CHECKS[0], limit=float("inf")),
        replace(CHECKS[0], passed=1),
    ):
        verdict = judged(gate, replace(clean_run(), self_checks=(spoiled, *CHECKS[1:])), only(BELOW))
        expect(verdict, "inconclusive", ("self_check", None))
    bare = tuple(replace(check, value=None, limit=None) for check in CHECKS)
    expect(judged(gate, replace(clean_run(), self_checks=bare), only(BELOW)), "pass")
    of_measuring = tuple(check for check in CHECKS if not check.name.endswith("_in_confirm"))
    unconfirmed = replace(clean_run(), confirmations=(), self_checks=of_measuring)
    expect(judged(gate, unconfirmed, only(BELOW)), "pass")


@case
def a_search_counts_only_where_it_was_shown_to_find_what_is_there(gate: SimpleNamespace) -> None:
    failed = replace(SEARCH_CHECK, passed=False, detail="the search found no prompt")
    for method, checks, said in (
        ("gcg", CHECKS, "the self-check search_control is missing"),
        ("gcg", (*CHECKS, failed), "the self-check search_control failed: the search found no prompt"),
        ("caption", (*CHECKS, failed), "the self-check search_control failed: the search found no prompt"),
        ("gcg", (*CHECKS, SEARCH_CHECK), ""),
        ("caption", CHECKS, ""),
        ("cluster_prompt", CHECKS, ""),
    ):
        data = clean_run()
        searched = replace(data, confirmations=(*data.confirmations, sampled("p1", method=method)), self_checks=checks)
        verdict = judged(gate, searched, only(BELOW))
        assert [item.message for item in verdict.findings] == ([said] if said else []), method
        assert verdict.decision == ("inconclusive" if said else "pass")


@case
def a_failed_self_check_that_stopped_the_run_is_told_without_what_follows_from_it(gate: SimpleNamespace) -> None:
    failed = replace(CHECKS[0], passed=False, detail="the memorizing model did not invert")
    stopped = replace(clean_run(), measurements=(), confirmations=(), self_checks=(failed,))
    verdict = judged(gate, stopped, only(BELOW, CONFIRMED, CONTROLLED))
    expect(verdict, "inconclusive", ("self_check", None), ("coverage", None))
    assert verdict.reasons[1] == "no probe was measured, as a self-check failed"
    for more in ({"measurements": clean_run().measurements}, {"confirmations": clean_run().confirmations}):
        judged_anew = judged(gate, replace(stopped, **more), only(BELOW))
        assert judged_anew.decision == "inconclusive"
        assert any("is missing" in finding.message for finding in judged_anew.findings), "all is told that was found"


@case
def metric_that_is_unfit_or_not_asked_for_is_inconclusive(gate: SimpleNamespace) -> None:
    data = clean_run()
    for change in ({"unfit": "too small"}, {"name": "other"}, {"threshold": 0.2}, {"threshold": 0.5}):
        spoiled = replace(data, run=replace(data.run, metric=replace(data.run.metric, **change)))
        expect(judged(gate, spoiled, only(BELOW)), "inconclusive", ("metric", None))
    pinned = {"name": "sscd_m", "threshold": 0.3, "sha256": "a" * 64}
    for name, digest, decision in (
        ("sscd_m@16", "a" * 64, "pass"),
        ("sscd_m@16", "b" * 64, "inconclusive"),
        ("sscd@16", "a" * 64, "inconclusive"),
    ):
        record = replace(data.run.metric, name=name, threshold=0.3, digest=digest)
        verdict = judged(gate, replace(data, run=replace(data.run, metric=record)), only(BELOW, metric=[pinned]))
        assert verdict.decision == decision
    loose = {"name": "sscd_m", "threshold": 0.3}
    record = replace(data.run.metric, name="sscd_m@16", threshold=0.3, digest="b" * 64)
    expect(judged(gate, replace(data, run=replace(data.run, metric=record)), only(BELOW, metric=[loose])), "pass")


@case
def run_with_other_settings_is_inconclusive(gate: SimpleNamespace) -> None:
    data = clean_run()
    settings = data.run.inputs.settings
    for change, decision in (
        ({"settings": replace(settings, stop_above=0.7)}, "pass"),
        ({"settings": replace(settings)}, "pass"),
        ({"settings": replace(settings, steps=50)}, "inconclusive"),
        ({"family": "latent"}, "inconclusive"),
        ({"family": "other"}, "inconclusive"),
        ({"settings": replace(settings, learning_rate=float("nan"))}, "inconclusive"),
    ):
        run = replace(data.run, inputs=replace(data.run.inputs, **change))
        verdict = judged(gate, replace(data, run=run), only(BELOW))
        expect(verdict, decision, *([("settings", None)] if decision != "pass" else []))


@case
def soft_prompts_that_no_t5_is_there_to_read_are_those_of_clip(gate: SimpleNamespace) -> None:
    data, pipeline = text_run(), "StableDiffusion3Pipeline"
    asked = STRICT.resolve_settings("stable_diffusion_3")
    t5 = replace(data.run.model.files[0], path="text_encoder_3/model.safetensors")
    for files, encoders, decision in (
        (data.run.model.files, "clip", "pass"),
        (data.run.model.files, "all", "inconclusive"),
        ((t5,), "all", "pass"),
        ((t5,), "clip", "inconclusive"),
    ):
        settings = replace(asked, soft_encoders=encoders)
        inputs = replace(data.run.inputs, pipeline=pipeline, family="stable_diffusion_3", settings=settings)
        run = replace(data.run, model=replace(data.run.model, pipeline=pipeline, files=files), inputs=inputs)
        verdict = judged(gate, replace(data, run=run), only(BELOW))
        expect(verdict, decision, *([("settings", None)] if decision != "pass" else []))


# --- records that cannot be trusted


@case
def invalid_measurements_are_inconclusive(gate: SimpleNamespace) -> None:
    data = clean_run()
    p1 = target(data, "p1")
    nan, inf = float("nan"), float("inf")
    wrong = replication_share(0, 8)
    point = trial("not_inverted").curve[0]
    bad_trials = [
        trial("error"),
        trial("inverted"),
        trial("inverted", invmm=-1.0),
        trial("not_inverted", share=replace(wrong, hits=9)),
        trial("not_inverted", confirmation=replace(wrong, trials=0)),
        *(
            trial("not_inverted", curve=(replace(point, **{name: nan}),))
            for name in ("denoising_error", "control_loss", "normality", "weight")
        ),
        trial("not_inverted", curve=(replace(point, denoising_error=None),)),
        trial("not_inverted", curve=(replace(point, step=0, denoising_error=nan),)),
    ]
    interval = wrong.interval
    for spoiled in (
        measured(p1, nan),
        measured(p1, inf),
        measured(p1, -inf),
        measured(p1, -0.01),
        measured(p1, True),
        measured(p1, "0.3"),
        measured(p1, outcome="inverted"),
        measured(p1, outcome="unheard_of"),
        measured(p1, invmm=0.3),
        measured(p1, 0.3, invmm_above=0.1),
        measured(p1, outcome="above_threshold"),
        stopped(p1, nan),
        stopped(p1, -0.1),
        measured(p1, 0.3, outcome="above_threshold", invmm_above=0.1),
        measured(p1, 0.3, invmm_spread=(0.4, 0.3)),
        measured(p1, 0.3, invmm_spread=(nan, 0.3)),
        measured(p1, 0.3, invmm_spread=(-0.1, 0.3)),
        measured(p1, share=replace(wrong, hits=9)),
        measured(p1, share=replace(wrong, hits=-1)),
        measured(p1, share=replace(wrong, trials=0)),
        measured(p1, share=replace(wrong, hits=True)),
        measured(p1, share=replace(wrong, trials=8.0)),
        measured(p1, share=replace(wrong, interval=replace(interval, low=nan))),
        measured(p1, share=replace(wrong, interval=replace(interval, high=1.1))),
        measured(p1, share=replace(wrong, interval=replace(interval, low=-0.1))),
        measured(p1, share=replace(wrong, interval=replace(interval, confidence=nan))),
        measured(p1, share=replace(wrong, hits=5)),
        measured(p1, share=replace(wrong, hits=0, interval=replace(interval, low=0.1))),
        measured(p1, group="control"),
        measured(p1, category="other"),
        measured(p1, steps=-1),
        measured(p1, evaluations=0),
        measured(p1, share=replace(wrong, interval=replace(interval, confidence=95.0))),
        *(measured(p1, trials=(trial("not_inverted"), bad)) for bad in bad_trials),
    ):
        verdict = judged(gate, with_measurement(data, spoiled), only(BELOW))
        assert verdict.decision == "inconclusive", spoiled
        assert {(found.rule, found.probe) for found in verdict.findings} == {("records", "p1")}, spoiled


@case
def invalid_confirmations_are_inconclusive(gate: SimpleNamespace) -> None:
    for changes in (
        {"hits": 600},
        {"hits": -1},
        {"trials": 0},
        {"status": "fine"},
        {"status": "confirmed"},
        {"closest": float("nan")},
        {"evaluations": 0},
        {"interval": Interval(low=0.2, high=0.4, confidence=0.95, method="wilson")},
        {"interval": Interval(low=0.0, high=float("nan"), confidence=0.95, method="wilson")},
    ):
        data = with_confirmation(clean_run(), sampled("p1", **changes))
        expect(judged(gate, data, only(BELOW)), "inconclusive", ("records", "p1"))
        expect(judged(gate, data, only(CONFIRMED)), "inconclusive", ("records", "p1"), ("confirmed", "p1"))
    expect(judged(gate, with_confirmation(clean_run(), sampled("p1", closest=None)), only(CONFIRMED)), "pass")


@case
def unexpected_and_repeated_records_are_inconclusive(gate: SimpleNamespace) -> None:
    data = clean_run()
    records = ("records", None)
    extra = (*data.measurements, measured(probe("ghost"), 0.01))
    expect(judged(gate, replace(data, measurements=extra), only(BELOW)), "inconclusive", records)
    twice = (*data.measurements, measured(target(data, "p1")))
    expect(judged(gate, replace(data, measurements=twice), only(BELOW)), "inconclusive", records)
    ghost = (*data.confirmations, sampled("ghost", 9))
    expect(judged(gate, replace(data, confirmations=ghost), only(CONFIRMED)), "inconclusive", records)
    again = (*data.confirmations, sampled("p1", 9))
    expect(judged(gate, replace(data, confirmations=again), only(CONFIRMED)), "block", records, ("confirmed", "p1"))
    listed = replace(data.run.probe_set, probes=(*data.run.probe_set.probes, target(data, "p1")))
    repeated = replace(data, run=replace(data.run, probe_set=listed))
    expect(judged(gate, repeated, only(CONFIRMED)), "inconclusive", records)


@case
def empty_probe_set_is_inconclusive(gate: SimpleNamespace) -> None:
    data = clean_run()
    empty = replace(data.run.probe_set, probes=())
    spoiled = replace(data, run=replace(data.run, probe_set=empty), measurements=(), confirmations=())
    verdict = judged(gate, spoiled, only(CONFIRMED, coverage={"min_controls": 0}))
    expect(verdict, "inconclusive", ("records", None), ("coverage", None))


@case
def image_that_is_probe_and_control_is_inconclusive(gate: SimpleNamespace) -> None:
    data = with_probes(clean_run(), probe("c00", group="control", image="p1"))
    expect(judged(gate, data, only(BELOW)), "inconclusive", ("records", "p1"))
    twins = with_probes(clean_run(), probe("p2", group="duplicated", category="faces", image="p1"))
    expect(judged(gate, twins, only(BELOW)), "pass")


@case
def run_without_a_date_is_inconclusive(gate: SimpleNamespace) -> None:
    data = clean_run()
    for text in ("", "yesterday", None):
        spoiled = replace(data, run=replace(data.run, created_at=text))
        expect(judged(gate, spoiled, only(BELOW)), "inconclusive", ("records", None))


@case
def block_stands_before_open_questions(gate: SimpleNamespace) -> None:
    data = with_measurement(with_score(clean_run(), "p1", 0.01), broken(target(clean_run(), "p2")))
    verdict = judged(gate, data, only(BELOW))
    expect(verdict, "block", ("coverage", "p2"), ("invmm_below", "p1"))
    assert "scores 0.01" in verdict.reasons[0]
    assert "p2 broke" in verdict.reasons[1]
    assert (verdict.counts["blocking"], verdict.counts["waived"], verdict.counts["inconclusive"]) == (1, 0, 1)
    waived = judged(gate, with_score(data, "p3", 0.02), only(BELOW), waiver(probe="p1"))
    assert (waived.counts["blocking"], waived.counts["waived"]) == (1, 1)
    assert ["p3" in waived.reasons[0], "p2 broke" in waived.reasons[1], len(waived.reasons)] == [True, True, 2]


@case
def long_lists_of_reasons_are_cut(gate: SimpleNamespace) -> None:
    data = clean_run()
    probes = tuple(probe(f"q{number:02}") for number in range(12))
    data = replace(with_probes(data, *probes), measurements=(*data.measurements, *(measured(each) for each in probes)))
    for count, last in (
        (10, "q09 (sensitive) scores 0.01 (11.1 bits), at or below 0.05 (55.4 bits)"),
        (12, "and 2 more findings"),
    ):
        for each in probes[:count]:
            data = with_score(data, each.id, 0.01)
        verdict = judged(gate, data, only(BELOW))
        assert len(verdict.findings) == count
        assert verdict.reasons[-1] == last
        assert len(verdict.reasons) == min(count, 11)


@case
def another_probe_set_than_the_policy_names_leaves_the_run_open(gate: SimpleNamespace) -> None:
    data = clean_run()
    pinned = {"min_controls": 16, "probe_set": data.run.probe_set.digest}
    expect(judged(gate, data, only(BELOW, coverage=pinned)), "pass")
    pinned["probe_set"] = "0" * 64
    verdict = judged(gate, data, only(BELOW, coverage=pinned))
    expect(verdict, "inconclusive", ("coverage", None))
    assert verdict.findings[0].message == f"the run is of another probe set than {'0' * 64}, which the policy names"


# --- waivers


@case
def waived_block_passes_and_stays_in_the_verdict(gate: SimpleNamespace) -> None:
    data = with_score(clean_run(), "p1", 0.01)
    for fits in ({"probe": "p1"}, {"rule": "invmm_below"}, {"probe": "p1", "rule": "invmm_below"}):
        verdict = judged(gate, data, only(BELOW), waiver(**fits))
        expect(verdict, "pass", ("invmm_below", "p1"))
        assert verdict.findings[0].waiver == waiver(**fits)
        assert [state.state for state in verdict.waivers] == ["used"]
        assert verdict.reasons == ("every probe was measured and no rule found a breach that is not waived (1 waived)",)


@case
def waiver_for_something_else_does_not_help(gate: SimpleNamespace) -> None:
    data = with_score(clean_run(), "p1", 0.01)
    for other, state in (
        ({"probe": "p2"}, "unused"),
        ({"rule": "confirmed"}, "unused"),
        ({"probe": "p1", "rule": "confirmed"}, "unused"),
        ({"probe": "p2", "rule": "invmm_below"}, "unused"),
        ({"probe": "ghost"}, "unknown_probe"),
        ({}, "expired"),
        ({"probe": "p1", "reason": " "}, "expired"),
        ({"probe": "p1", "owner": ""}, "expired"),
    ):
        verdict = judged(gate, data, only(BELOW), waiver(**other))
        expect(verdict, "block", ("invmm_below", "p1"))
        assert [each.state for each in verdict.waivers] == [state], other
        assert verdict.findings[0].waiver is None
        assert len(verdict.reasons) == 2


@case
def waiver_for_one_model_does_nothing_for_another(gate: SimpleNamespace) -> None:
    data = with_score(clean_run(), "p1", 0.01)
    own = waiver(probe="p1", model=data.run.model.digest)
    expect(judged(gate, data, only(BELOW), own), "pass", ("invmm_below", "p1"))
    for other in (waiver(probe="p1", model="0" * 64), waiver(probe="ghost", model="0" * 64)):
        verdict = judged(gate, data, only(BELOW), other)
        expect(verdict, "block", ("invmm_below", "p1"))
        assert [each.state for each in verdict.waivers] == ["other_model"]
        assert verdict.findings[0].waiver is None
        assert verdict.reasons[-1] == f"the waiver of ann for {other.probe} is for another model and does nothing"


@case
def waiver_for_one_image_does_nothing_once_the_probe_shows_another(gate: SimpleNamespace) -> None:
    data = with_score(clean_run(), "p1", 0.01)
    shown = next(probe.sha256 for probe in data.run.probe_set.probes if probe.id == "p1")
    expect(judged(gate, data, only(BELOW), waiver(probe="p1", image=shown)), "pass", ("invmm_below", "p1"))
    for other in (waiver(probe="p1", image="0" * 64), waiver(rule="invmm_below", image=shown)):
        verdict = judged(gate, data, only(BELOW), other)
        expect(verdict, "block", ("invmm_below", "p1"))
        assert [each.state for each in verdict.waivers] == ["other_image"]
        assert verdict.reasons[-1].endswith("is for another image than the probe shows and does nothing")


@case
def waiver_that_no_reviewer_approved_counts_only_where_the_policy_says_so(gate: SimpleNamespace) -> None:
    data = with_score(clean_run(), "p1", 0.01)
    mine = waiver(probe="p1", approved_by=None)
    verdict = judged(gate, data, only(BELOW), mine)
    expect(verdict, "block", ("invmm_below", "p1"))
    assert [each.state for each in verdict.waivers] == ["unapproved"]
    assert verdict.reasons[-1] == (
        "the waiver of ann for p1 is approved by no reviewer who was named, and does nothing"
    )
    owned = policy_with(only(BELOW), waivers="owned")
    for either in (mine, waiver(probe="p1")):
        verdict = judged(gate, data, owned, either)
        expect(verdict, "pass", ("invmm_below", "p1"))
        assert [each.state for each in verdict.waivers] == ["used"]


@case
def waiver_counts_through_its_last_day(gate: SimpleNamespace) -> None:
    data = with_score(clean_run(), "p1", 0.01)
    day = datetime.timedelta(days=1)
    verdict = judged(gate, data, only(BELOW), waiver(probe="p1", expires=TODAY))
    expect(verdict, "pass", ("invmm_below", "p1"))
    verdict = judged(gate, data, only(BELOW), waiver(probe="p1", expires=TODAY - day))
    expect(verdict, "block", ("invmm_below", "p1"))
    assert verdict.waivers[0].state == "expired"
    assert verdict.reasons[-1] == "the waiver of ann for p1 expired on 2026-02-28 and does nothing"


@case
def clock_set_back_does_not_revive_a_waiver(gate: SimpleNamespace) -> None:
    data = with_score(clean_run(), "p1", 0.01)  # the run is of 2026-02-28
    old = waiver(probe="p1", expires=datetime.date(2026, 2, 27))
    past = datetime.date(2026, 1, 1)
    verdict = judged(gate, data, only(BELOW), old, today=past)
    expect(verdict, "block", ("invmm_below", "p1"))
    assert verdict.judged_on == past
    undated = replace(data, run=replace(data.run, created_at=""))
    assert judged(gate, undated, only(BELOW), old, today=past).findings[-1].waiver == old


@case
def open_questions_cannot_be_waived(gate: SimpleNamespace) -> None:
    data = clean_run()
    cases = (
        (with_measurement(data, broken(target(data, "p1"))), waiver(probe="p1")),
        (with_measurement(data, stopped(target(data, "p1"), 0.01)), waiver(probe="p1", rule="invmm_below")),
        (replace(data, self_checks=()), waiver(rule="self_check")),
        (without(data, "p1"), waiver(rule="coverage")),
    )
    for spoiled, exception in cases:
        verdict = judged(gate, spoiled, only(BELOW), exception)
        assert verdict.decision == "inconclusive"
        assert all(found.waiver is None for found in verdict.findings)
        assert verdict.waivers[0].state == "unused"
        assert verdict.reasons[-1] == f"the waiver of ann for {exception.probe or exception.rule} covers no finding"


@case
def first_waiver_that_covers_a_finding_is_shown(gate: SimpleNamespace) -> None:
    data = with_score(with_score(clean_run(), "p1", 0.01), "p2", 0.02)
    late = waiver(probe="p1", expires=datetime.date(2020, 1, 1))
    first, second = waiver(probe="p1", line=5), waiver(rule="invmm_below", line=9)
    verdict = judged(gate, data, only(BELOW), late, first, second)
    expect(verdict, "pass", ("invmm_below", "p1"), ("invmm_below", "p2"))
    assert [found.waiver for found in verdict.findings] == [first, second]
    assert [state.state for state in verdict.waivers] == ["expired", "used", "used"]


@case
def only_blocks_by_rules_can_be_waived(gate: SimpleNamespace) -> None:
    finding = judged(gate, with_score(clean_run(), "p1", 0.01), only(BELOW)).findings[0]
    covers = gate.waivers.covers
    assert covers(waiver(probe="p1"), finding)
    assert not covers(waiver(probe="p1"), replace(finding, rule="coverage"))
    assert not covers(waiver(probe="p1"), replace(finding, effect="inconclusive"))
    assert not covers(waiver(probe="p1"), replace(finding, probe=None))


@case
def decision_follows_from_the_findings(gate: SimpleNamespace) -> None:
    finding = judged(gate, with_score(clean_run(), "p1", 0.01), only(BELOW)).findings[0]
    waived, unknown = replace(finding, waiver=waiver(probe="p1")), replace(finding, effect="unheard_of")
    question = replace(finding, effect="inconclusive", rule="coverage")
    check = replace(question, rule="self_check")
    decide = gate.verdict.decide
    assert decide([]) == "pass"
    assert decide([waived]) == "pass"
    assert decide([waived, question]) == decide([question]) == decide([unknown]) == "inconclusive"
    assert decide([waived, finding]) == decide([question, finding]) == "block"
    assert decide([finding, check]) == decide([check]) == "inconclusive"


# --- conformal


@case
def p_values_and_adjustment_are_exact(gate: SimpleNamespace) -> None:
    controls = [(0.5, 0.0), (1.0, 0.0), (1.0, -0.5)]
    keys = [(0.4, 0.0), (0.5, 0.0), (0.5, 1.0), (1.0, -0.5), (1.0, 0.0), (2.0, 0.0)]
    wanted = [Fraction(part, 4) for part in (1, 2, 2, 3, 4, 4)]
    assert list(gate.conformal.p_values(keys, controls)) == wanted
    adjusted = gate.conformal.benjamini_hochberg([Fraction(1, 10), Fraction(1, 100), Fraction(1, 20), Fraction(9, 10)])
    assert list(adjusted) == [Fraction(2, 15), Fraction(1, 25), Fraction(1, 10), Fraction(9, 10)]
    assert gate.conformal.benjamini_hochberg([]) == ()
    assert gate.conformal.exact(0.1) == Fraction(1, 10)
    fewest = gate.conformal.fewest_outliers
    assert fewest(1, 9, 0.1) == 1
    assert fewest(1, 8, 0.1) is None
    assert fewest(100, 16, 0.1) == 59
    assert fewest(10, 99, 0.1) == 1
    assert fewest(20, 99, 0.1) == 2
    assert fewest(5, 0, 0.1) is None


# --- waiver files

GOOD_WAIVERS = """\
- probe: p1
  reason: licensed picture
  owner: ann
  expires: 2026-12-31
- rule: confirmed
  probe: p2
  reason: "public domain"
  owner: bob
  expires: "2027-01-01"
"""


def load_text(gate: SimpleNamespace, text: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "waivers.yaml"
        path.write_text(text)
        return gate.waivers.load_waivers(path)


def refused(gate: SimpleNamespace, text: str) -> str:
    try:
        load_text(gate, text)
    except ConfigError as error:
        return str(error)
    raise AssertionError(f"accepted: {text}")


@case
def waiver_file_is_read_with_its_lines(gate: SimpleNamespace) -> None:
    first, second = load_text(gate, GOOD_WAIVERS)
    assert (first.probe, first.rule, first.owner, first.reason, first.line) == (
        "p1",
        None,
        "ann",
        "licensed picture",
        1,
    )
    assert (first.expires, second.expires) == (datetime.date(2026, 12, 31), datetime.date(2027, 1, 1))
    assert (second.probe, second.rule, second.line) == ("p2", "confirmed", 5)
    assert load_text(gate, "[]") == ()
    assert load_text(gate, GOOD_WAIVERS.replace("- probe: p1", "- rule: regression"))[0].probe is None


@case
def waiver_file_with_a_mistake_is_refused_with_its_line(gate: SimpleNamespace) -> None:
    for old, new, line, words in (
        ("  owner: ann\n", "", 1, "[0].owner: this key is missing"),
        ("  reason: licensed picture\n", "", 1, "[0].reason: this key is missing"),
        ("  expires: 2026-12-31\n", "", 1, "[0].expires: this key is missing"),
        ("- probe: p1\n  reason", "- reason", 1, "must name a probe, a rule, or both"),
        ("owner: ann", "owner: '  '", 3, "[0].owner"),
        ("owner: ann", "ownr: ann", 3, "did you mean 'owner'?"),
        ("2026-12-31", "2026-02-30", 4, "a date YYYY-MM-DD that exists"),
        ("2026-12-31", "20261231", 4, "expected a date YYYY-MM-DD"),
        ("2026-12-31", "'20261231'", 4, "expected a date YYYY-MM-DD"),
        ("2026-12-31", "2026-W05-6", 4, "expected a date YYYY-MM-DD"),
        ("2026-12-31", "2026-12-31T10:00:00", 4, "expected a date YYYY-MM-DD"),
        ("2026-12-31", "never", 4, "expected a date YYYY-MM-DD"),
        ("rule: confirmed", "rule: confirmd", 5, "did you mean 'confirmed'?"),
        ("rule: confirmed", "rule: coverage", 5, "is no rule that can be waived"),
    ):
        assert old in GOOD_WAIVERS
        message = refused(gate, GOOD_WAIVERS.replace(old, new))
        assert f"waivers.yaml:{line}: " in message, message
        assert words in message, message


@case
def score_that_no_search_reaches_is_a_fault_of_the_policy(gate: SimpleNamespace) -> None:
    settings = STRICT.resolve_settings("pixel")
    slow, slower = (replace(settings, learning_rate=rate) for rate in (2e-6, 1e-6))
    moved = 2.25 * settings.steps * slow.learning_rate * ((1 - 0.9) / math.sqrt(1 - 0.999))
    reached = 0.5 * (moved * moved + math.exp(moved) - moved - 1)

    def faults(threshold: float, *tried: Any) -> list[str]:
        return list(gate.invmm_below.faults(InvmmBelowConfig(rule="invmm_below", threshold=threshold), tried))

    assert [len(faults(threshold, settings)) for threshold in (0, 0.9 * 2**-23, 2**-23, 0.05, 1e9)] == [1, 1, 0, 0, 0]
    assert [len(faults(0.05, *tried)) for tried in ((), (slow,), (slow, settings))] == [0, 1, 0]
    assert f"reach a normality of at most {reached:.3g}, so" in faults(0.05, slow, slower)[0]
    assert [len(faults(threshold, slow)) for threshold in (reached, 1.01 * reached)] == [0, 1]
    assert faults(1e9, replace(settings, learning_rate=5e-4)) == []
    unstretched = replace(slow, certify_at="success")
    assert [len(faults(0.9 * reached, each)) for each in (slow, unstretched)] == [0, 1]


@case
def sampling_too_few_to_exceed_the_rate_limit_is_a_fault_of_the_policy(gate: SimpleNamespace) -> None:
    plan = PlainSampling(trials=10)
    best = clopper_pearson(10, 10, confidence=plan.confidence).low

    def faults(limit: float, plan: PlainSampling | None) -> list[str]:
        return list(gate.confirmed.faults(ConfirmedConfig(rule="confirmed", rate_limit=limit), plan))

    assert [len(faults(limit, plan)) for limit in (best, 1.01 * best, 0.99 * best)] == [1, 1, 0]
    assert faults(best, None) == []


@case
def verdict_names_the_scope_of_its_scores(gate: SimpleNamespace) -> None:
    digests = {"model": clean_run().run.model.digest, "probe_set": clean_run().run.probe_set.digest}
    seed = gate.evidence.content_seed(**digests, policy=STRICT.digest)
    assert gate.evidence.content_seed(model="a" * 64, probe_set="b" * 64, policy="c" * 64) == 6783905175078705

    def tested(data: RunData, **inputs: Any) -> Any:
        inputs = {"image_size": (16, 24), "seed": seed} | inputs
        run = replace(data.run, inputs=replace(data.run.inputs, **inputs))
        return gate.evidence.scope_of(replace(data, run=run), STRICT.digest)

    said = tested(clean_run())
    assert (said.image_size, said.seed, said.seed_chosen, said.guidance_scales) == ((16, 24), seed, False, (1.0,))
    assert tested(clean_run(), seed=seed + 1).seed_chosen
    confirm = ConfirmChoice.model_validate({"prompts": {"guidance_scales": [7.5, 1.0]}}).plan()
    settings = replace(text_run().run.inputs.settings, guidance_scales=(3.0,))
    assert tested(clean_run(), confirm=confirm).guidance_scales == (1.0,)
    assert tested(text_run(), confirm=confirm, settings=settings).guidance_scales == (1.0, 3.0, 7.5)
    assert tested(label_run(), confirm=confirm).guidance_scales == (1.0,)
    tried = with_confirmation(label_run(), labelled("p1", guidance_scale=4.0), labelled("p2", guidance_scale=None))
    assert tested(tried, confirm=confirm).guidance_scales == (1.0, 4.0)
