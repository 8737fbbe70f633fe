"""Cases of the verdict about likelihoods, as those of policy_cases.py."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from invmm_gate.core.intervals import lower_bound, replication_share, upper_bound
from invmm_gate.core.likelihood_record import Likelihood
from invmm_gate.core.records import (
    CAPTION,
    CAPTION_ON_GRID,
    CLUSTER_PROMPT,
    GCG,
    PLAIN_SAMPLING_ON_GRID,
    CurvePoint,
    StretchedTest,
    Trial,
)
from invmm_gate.core.run_records import RunData
from invmm_gate.policy.rules.extraction_likelihood import ExtractionLikelihoodConfig
from invmm_gate.policy.schema import Policy
from tests.policy.few_probes import STRICT, clean_run, text_run
from tests.policy.policy_builders import (
    estimated,
    measured,
    sampled,
    target,
    trial,
    with_confirmation,
    with_likelihood,
    with_measurement,
    with_probes,
    with_score,
    without,
)
from tests.policy.policy_cases import BELOW, Case, expect, judged, only

CASES: dict[str, Case] = {}
LIKELY: dict[str, Any] = {"rule": "extraction_likelihood", "one_in": 1000}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def often(name: str, nats: float) -> Likelihood:
    """Of a probe that plain samples copy often, too."""
    return estimated(name, nats, plain_copies=150, upper=upper_bound(150, 512, confidence=0.975))


def with_test(hits: int) -> Trial:
    test = StretchedTest(stretch=1.5, normality=0.2, share=replication_share(hits, 8))
    return trial("not_inverted", tests=(test,))


def with_certificate(hits: int) -> Trial:
    return trial("not_inverted", confirmation=replication_share(hits, 39))


@case
def likelihood_blocks_from_its_limit_on(gate: SimpleNamespace) -> None:
    named = ("extraction_likelihood", "p1")
    limit = math.log(1000)
    for nats, decision in ((limit, "block"), (limit + 1e-9, "pass"), (2.0, "block"), (None, "pass")):
        record = estimated("p1", nats) if nats is None else often("p1", nats)
        data = with_likelihood(clean_run(), record)
        expect(judged(gate, data, only(LIKELY)), decision, *([named] if decision == "block" else []))
    verdict = judged(gate, with_likelihood(clean_run(), estimated("p1", math.log(360.5))), only(LIKELY))
    assert verdict.findings[0].message == (
        "p1 (sensitive) comes out of at least one in 370 generations by plain sampling, and the policy allows it less "
        "than once in 1,000"
    )
    assert (verdict.findings[0].value, verdict.findings[0].limit) == (
        math.exp(-math.log(360.5)),
        math.exp(-limit),
    )
    other = only(LIKELY | {"groups": ["duplicated"]})
    expect(judged(gate, with_likelihood(clean_run(), often("p1", 2.0)), other), "pass")


@case
def likelihood_counts_the_kinds_of_prompt_that_the_policy_names(gate: SimpleNamespace) -> None:
    soft = with_likelihood(text_run(), estimated("p1", 6.0, prompt_kind="soft"))
    expect(judged(gate, soft, only(LIKELY)), "pass")
    expect(judged(gate, soft, only(LIKELY | {"kinds": ["soft"]})), "block", ("extraction_likelihood", "p1"))
    ways = ((GCG, "typed"), (CLUSTER_PROMPT, "typed"), (CAPTION, "caption"), (CAPTION_ON_GRID, "caption"))
    for method, kind in ways:
        found = with_confirmation(text_run(), sampled("p1", 3, 64, method=method, prompt="a cat"))
        for kinds in (["none", "caption", "typed"], ["none", "soft"], ["none", kind]):
            counts = kind in kinds
            verdict = judged(gate, found, only(LIKELY | {"kinds": kinds, "groups": ["sensitive"]}))
            expect(verdict, "block" if counts else "pass", *([("extraction_likelihood", "p1")] if counts else []))
    uncaptioned = with_confirmation(text_run(), sampled("p3", 3, 64, method=CAPTION, prompt=""))
    by_sampling = only(LIKELY | {"kinds": ["none", "soft"]})
    expect(judged(gate, uncaptioned, by_sampling), "block", ("extraction_likelihood", "p3"))
    expect(judged(gate, uncaptioned, only(LIKELY | {"kinds": ["caption", "soft"]})), "pass")


@case
def likelihood_with_kinds_of_prompt_that_were_not_tried_is_no_pass(gate: SimpleNamespace) -> None:
    """60 of 64 samples under its caption are copies of p1, and a rule that looks elsewhere sees none of them."""
    leaks = with_confirmation(text_run(), sampled("p1", 60, 64, method=CAPTION, prompt="a cat on a mat"))
    verdict = judged(gate, leaks, only(LIKELY | {"kinds": ["none"], "groups": ["sensitive"]}))
    expect(verdict, "inconclusive", ("settings", None))
    assert verdict.findings[0].message.endswith("and so says nothing of p1")
    expect(judged(gate, leaks, only(LIKELY | {"kinds": ["none"], "groups": ["canary"]})), "pass")
    verdict = judged(gate, leaks, only(LIKELY | {"kinds": ["typed"]}))
    assert verdict.decision == "inconclusive", "no other rule finds a probe to search a prompt for"
    prompts = {name: value for name, value in STRICT.confirm.model_dump()["prompts"].items() if name != "gcg"}
    unsearched = only(LIKELY | {"kinds": ["typed"]}, BELOW, confirm=STRICT.confirm.model_dump() | {"prompts": prompts})
    assert judged(gate, leaks, unsearched).decision == "inconclusive"
    searched = only(LIKELY | {"kinds": ["typed"]}, BELOW)
    expect(judged(gate, text_run(), searched), "pass")


@case
def likelihood_takes_the_highest_bound_of_all_records(gate: SimpleNamespace) -> None:
    data = with_confirmation(clean_run(), sampled("p1", 9))
    value = judged(gate, data, only(LIKELY)).findings[0].value
    assert value is not None
    assert math.isclose(value, lower_bound(9, 512, confidence=1 - 0.05 / 4))
    likelier = with_likelihood(data, often("p1", 2.0))
    assert judged(gate, likelier, only(LIKELY)).findings[0].value == math.exp(-2.0)


@case
def likelihood_that_is_missing_leaves_the_run_open(gate: SimpleNamespace) -> None:
    named = ("extraction_likelihood", "p1")
    copies: tuple[RunData, ...] = (
        with_score(clean_run(), "p1", None, hits=1),
        with_measurement(clean_run(), measured(target(clean_run(), "p1"), None, trials=(with_test(1),))),
        with_measurement(clean_run(), measured(target(clean_run(), "p1"), None, trials=(with_certificate(30),))),
    )
    for data in copies:
        expect(judged(gate, with_likelihood(data, estimated("p1")), only(LIKELY)), "pass")
        expect(judged(gate, replace(data, likelihoods=()), only(LIKELY)), "inconclusive", named)
    often_enough = replace(with_confirmation(clean_run(), sampled("p1", 9)), likelihoods=())
    expect(judged(gate, often_enough, only(LIKELY)), "block", named)
    rare = replace(with_confirmation(clean_run(), sampled("p1", 1)), likelihoods=())
    expect(judged(gate, rare, only(LIKELY)), "inconclusive", named)
    weaker = only(LIKELY, confirm=STRICT.confirm.model_dump() | {"likelihood": {"draws": 64}})
    expect(judged(gate, clean_run(weaker), weaker), "pass")
    expect(judged(gate, clean_run(weaker), only(LIKELY)), "inconclusive", ("settings", None))
    surer = only(LIKELY, confirm=STRICT.confirm.model_dump() | {"likelihood": {"confidence": 0.5}})
    expect(judged(gate, clean_run(surer), only(LIKELY)), "inconclusive", ("settings", None))


def confirming(**changes: dict[str, Any]) -> Policy:
    """LIKELY alone, with keys of parts of `confirm` replaced."""
    confirm = STRICT.confirm.model_dump()
    return only(LIKELY, confirm=confirm | {name: confirm[name] | part for name, part in changes.items()})


@case
def likelihoods_by_weaker_means_leave_the_run_open(gate: SimpleNamespace) -> None:
    plain, prompts = {"plain_draws": 512}, {"trials": 32}
    fewer_steps = {"plain_sampling": {"sampler_steps": 5}, "prompts": {"sampler_steps": 5}}
    for make, weaker, stronger in (
        (clean_run, {"likelihood": plain}, {"likelihood": {"plain_draws": 4096, "draws": 256}}),
        (text_run, {"prompts": prompts}, {"prompts": {"trials": 128}, "likelihood": plain}),
    ):
        for means in (weaker, fewer_steps):
            expect(judged(gate, make(confirming(**means)), only(LIKELY)), "inconclusive", ("settings", None))
        for means in ({}, stronger):
            expect(judged(gate, make(confirming(**means)), only(LIKELY)), "pass")
        sampling = "prompts" if make is text_run else "plain_sampling"
        for left_out in ("likelihood", sampling):
            none = only(BELOW, confirm=STRICT.confirm.model_dump() | {left_out: None})
            expect(judged(gate, make(none), only(LIKELY)), "inconclusive", ("settings", None))
        unasked = only(LIKELY, confirm=STRICT.confirm.model_dump() | {sampling: None})
        said = [each.message for each in judged(gate, make(unasked), unasked).findings]
        assert not any("weaker means" in message for message in said)


@case
def likelihood_of_a_control_leaves_the_run_open(gate: SimpleNamespace) -> None:
    data = with_likelihood(clean_run(), estimated("c03", 6.0))
    verdict = judged(gate, data, only(LIKELY))
    expect(verdict, "inconclusive", ("controls", "c03"))
    assert "it looks as if it had been trained on" in verdict.findings[0].message
    expect(judged(gate, with_likelihood(clean_run(), estimated("c03", 7.0)), only(LIKELY)), "pass")
    unknown = replace(with_score(clean_run(), "c03", None, hits=1), likelihoods=())
    expect(judged(gate, unknown, only(LIKELY)), "inconclusive", ("controls", "c03"))


@case
def likelihood_above_what_plain_samples_allow_is_a_failed_self_check(gate: SimpleNamespace) -> None:
    highest = -math.log(upper_bound(0, 512, confidence=1 - 1e-4))
    named = ("extraction_likelihood", "p1")
    above = judged(gate, with_likelihood(clean_run(), estimated("p1", highest - 1e-6)), only(LIKELY))
    expect(above, "inconclusive", ("self_check", "p1"), named)
    expect(judged(gate, with_likelihood(clean_run(), estimated("p1", highest + 1e-6)), only(LIKELY)), "block", named)


@case
def likelihood_with_figures_that_do_not_fit_is_not_believed(gate: SimpleNamespace) -> None:
    faults: tuple[dict[str, Any], ...] = (
        *({"lower": value} for value in (-0.1, 1.1, math.nan, 1e-3)),
        *({"estimate": value} for value in (-0.1, 1.1, math.nan)),
        *({"upper": value} for value in (-0.1, 1.1, math.nan, 0.5)),
        *({"confidence": value} for value in (-0.1, 0.9, 1.1, math.nan)),
        *({"nats": value} for value in (-1.0, math.nan, math.inf, None, 90.0)),
        *({"copies": value} for value in (-1, 129, 0, 40.0)),
        *({"plain_copies": value} for value in (-1, 513)),
        *({"draws": value} for value in (-1, 39, 128.0)),
        {"plain_draws": 0},
        {"nats": None, "lower": 0.0},
    )
    for changes in faults:
        data = with_likelihood(clean_run(), replace(estimated("p1"), **changes))
        verdict = judged(gate, data, only(BELOW))
        assert verdict.decision == "inconclusive"
        assert {(found.rule, found.probe) for found in verdict.findings} == {("records", "p1")}
    for records in ((estimated("p1"), estimated("p1")), (estimated("nobody"),)):
        expect(judged(gate, replace(clean_run(), likelihoods=records), only(BELOW)), "inconclusive", ("records", None))
    both = replace(text_run(), likelihoods=(estimated("p1"), estimated("p1", prompt_kind="soft")))
    expect(judged(gate, both, only(BELOW)), "pass")


@case
def likelihood_by_prompts_alone_is_a_fault_for_a_model_without_prompts(gate: SimpleNamespace) -> None:
    faults = gate.extraction_likelihood.faults
    for kinds, prompt, count in (
        (("caption", "typed"), "none", 1),
        (("caption", "typed"), "joint", 0),
        (("none", "typed"), "none", 0),
        (("none",), "joint", 0),
        (("none", "soft"), "caption", 1),
        (("none", "soft"), "prompt_only", 0),
        (("caption", "typed"), "caption", 0),
        (("typed",), "joint", 0),
    ):
        config = ExtractionLikelihoodConfig.model_validate(LIKELY | {"kinds": kinds})
        assert len(tuple(faults(config, prompt=prompt, searched=True))) == count, (kinds, prompt)
        unsearched = tuple(faults(config, prompt=prompt, searched=False))
        assert len(unsearched) == count + (kinds == ("typed",)), (kinds, prompt)


@case
def likelihood_is_asked_for_by_each_kind_of_prompt_that_the_rule_names(gate: SimpleNamespace) -> None:
    """A test copied p1, which has a caption: caption and soft prompt have likelihoods, and no typed prompt has one."""
    data = with_score(text_run(), "p1", None, hits=1)
    open_ = ("extraction_likelihood", "p1")
    caption, soft = estimated("p1", prompt_kind="caption"), estimated("p1", prompt_kind="soft")
    for kinds, records, decided in (
        (["none", "caption", "typed"], (caption,), True),
        (["none", "caption", "typed"], (soft,), False),
        (["caption", "soft"], (caption,), False),
        (["caption", "soft"], (caption, soft), True),
        (["soft"], (soft,), True),
        (["typed"], (), True),
        (["caption", "typed"], (), False),
    ):
        verdict = judged(gate, replace(data, likelihoods=records), only(LIKELY | {"kinds": kinds}, BELOW))
        expect(verdict, "pass" if decided else "inconclusive", *([] if decided else [open_]))
    uncaptioned = replace(with_score(text_run(), "p3", None, hits=1), likelihoods=(estimated("p3"),))
    expect(judged(gate, uncaptioned, only(LIKELY)), "pass")
    by_samples = with_confirmation(text_run(), sampled("p1", 1, 64, method=CAPTION, prompt="a cat on a mat"))
    expect(judged(gate, replace(by_samples, likelihoods=()), only(LIKELY | {"kinds": ["soft"]})), "pass")


@case
def likelihood_by_plain_sampling_is_all_that_is_asked_for_of_a_model_without_prompts(gate: SimpleNamespace) -> None:
    captioned = replace(target(clean_run(), "p1"), caption="a cat on a mat")
    data = with_measurement(with_probes(clean_run(), captioned), measured(captioned, None, hits=1))
    policy = only(LIKELY | {"kinds": ["none", "caption", "soft"]})
    expect(judged(gate, replace(data, likelihoods=(estimated("p1"),)), policy), "pass")
    expect(judged(gate, replace(data, likelihoods=()), policy), "inconclusive", ("extraction_likelihood", "p1"))


@case
def likelihood_of_a_soft_prompt_is_asked_for_where_one_of_the_trials_made_a_copy(gate: SimpleNamespace) -> None:
    policy, caption = only(LIKELY | {"kinds": ["caption", "soft"]}), estimated("p1", prompt_kind="caption")
    open_ = ("extraction_likelihood", "p1")
    one_of_two = measured(target(text_run(), "p1"), None, trials=(with_test(1), with_test(0)))
    data = replace(with_measurement(text_run(), one_of_two), likelihoods=(caption,))
    expect(judged(gate, data, policy), "inconclusive", open_)
    by_caption = with_confirmation(text_run(), sampled("p1", 1, 64, method=CAPTION, prompt="a cat on a mat"))
    unmeasured = without(replace(by_caption, likelihoods=(caption,)), "p1")
    expect(judged(gate, unmeasured, policy), "inconclusive", ("coverage", None))


@case
def copy_in_a_test_that_ended_early_asks_for_a_likelihood(gate: SimpleNamespace) -> None:
    """The search saw a copy at step 50, and none at the end."""
    for value, seen in ((0.1, True), (0.05, True), (0.1001, False), (None, False)):
        point = CurvePoint(step=50, denoising_error=0.02, normality=0.08, weight=0.5, best_value=value)
        last = replace(point, step=100, best_value=0.3)
        target_ = target(clean_run(), "p1")
        data = with_measurement(
            clean_run(), measured(target_, None, trials=(trial("not_inverted", curve=(point, last)),))
        )
        named = [("extraction_likelihood", "p1")] if seen else []
        expect(judged(gate, data, only(LIKELY)), "inconclusive" if seen else "pass", *named)
        expect(judged(gate, with_likelihood(data, estimated("p1")), only(LIKELY)), "pass")


@case
def image_without_its_likelihood_counts_as_unsearched_in_the_share_that_comes_out(gate: SimpleNamespace) -> None:
    drawn = replace(target(clean_run(), "p1"), group="sample")
    data = with_measurement(with_probes(clean_run(), drawn), measured(drawn, None, hits=1))
    for records, unsearched in ((data.likelihoods, 0), ((), 1)):
        share = judged(gate, replace(data, likelihoods=records), only(LIKELY)).extractable
        assert share is not None
        assert (share.drawn, share.found, share.unsearched) == (1, 0, unsearched)


@case
def score_that_plain_samples_refute_leaves_the_run_open(gate: SimpleNamespace) -> None:
    """At 0.1 nats from N(0, I) a share of 8 of 8, and at 2 nats one of 53 of 53, shows among 512 plain samples."""
    inverted = trial("inverted", invmm=2.0 / 768, confirmation=replication_share(53, 53))
    for nats, changes, refuted in (
        (0.1, {}, True),
        (2.0, {}, False),
        (2.0, {"trials": (inverted,)}, True),
        (4.0, {"trials": (replace(inverted, invmm=4.0 / 768),)}, False),
    ):
        data = with_measurement(clean_run(), measured(target(clean_run(), "p1"), nats / 768, **changes))
        verdict = judged(gate, data, only(BELOW | {"threshold": 1e-5}))
        expect(verdict, "inconclusive" if refuted else "pass", *([("coverage", "p1")] if refuted else []))
        seen = with_confirmation(data, sampled("p1", 150, method=PLAIN_SAMPLING_ON_GRID))
        expect(judged(gate, seen, only(BELOW | {"threshold": 1e-5})), "pass")
    finer = only(BELOW | {"threshold": 1e-5}, measure={"profile": "gate", "settings": {"sampler_steps": 200}})
    other = with_score(clean_run(finer), "p1", 2e-5)
    expect(judged(gate, other, finer), "pass")  # the samples were drawn in 50 steps, so another image is another noise
    lucky = with_score(clean_run(), "p1", 1e-5)
    expect(judged(gate, lucky, only(BELOW)), "block", ("coverage", "p1"), ("invmm_below", "p1"))
