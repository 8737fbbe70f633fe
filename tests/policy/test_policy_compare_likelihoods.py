"""Likelihoods of two runs side by side: only bounds that lie apart count, and a run that says nothing proves little."""

from dataclasses import replace
from math import log
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.intervals import upper_bound
from invmm_gate.core.likelihood_record import Likelihood, PromptKind
from invmm_gate.core.run_records import RunData
from invmm_gate.policy.compare.compare import compare, exit_code
from invmm_gate.policy.compare.comparison import Comparison, LikelihoodChange, LikelihoodState, ProbeChange
from tests.policy.few_probes import STRICT, clean_run, text_run
from tests.policy.policy_builders import (
    broken,
    estimated,
    measured,
    policy_with,
    sampled,
    target,
    with_confirmation,
    with_likelihood,
    with_measurement,
    with_score,
    without,
)
from tests.policy.test_policy_compare import MIRRORED, finding, judged, of, with_inputs

BY_LIKELIHOOD = policy_with(STRICT, rules=[{"rule": "extraction_likelihood", "one_in": 1000}])
EVERY_KIND = policy_with(
    STRICT, rules=[{"rule": "extraction_likelihood", "one_in": 1000, "kinds": ["none", "caption", "typed", "soft"]}]
)


def at_least(share: float, plain_copies: int, **changes: Any) -> Likelihood:
    """Of p1: at least this share, and at most what so many copies among 512 plain samples allow."""
    upper = upper_bound(plain_copies, 512, confidence=0.975)
    return estimated("p1", -log(share), plain_copies=plain_copies, upper=upper, **changes)


RARE, OFTEN, ALMOST_ALWAYS = at_least(0.01, 10), at_least(0.2, 130), at_least(0.7, 400)
"""Each one's lower bound lies above the upper bound of the one before."""


def copied(record: Likelihood | None, data: RunData | None = None) -> RunData:
    """A test made one copy of p1, and its likelihood is this; None = it was not estimated."""
    data = with_score(data or clean_run(), "p1", None, hits=1)
    return replace(data, likelihoods=() if record is None else (record,))


def change_of(comparison: Comparison, kind: PromptKind = "none") -> LikelihoodChange:
    return next(each for each in of(comparison).likelihoods if each.kind == kind)


def fates(before: RunData, after: RunData) -> tuple[str, str]:
    """Of the likelihood of p1, and of p1 as a whole."""
    comparison = compare(before, after)
    return change_of(comparison).change, of(comparison).change


# --- both runs have it ---


def test_a_probe_is_worse_by_its_likelihood_alone() -> None:
    found = compare(copied(RARE), copied(OFTEN))
    assert (change_of(found).change, of(found).change) == ("worse", "worse")
    assert (of(found).score.change, {rate.change for rate in of(found).rates}) == ("unchanged", {"unchanged"})
    assert exit_code(compare(judged(copied(RARE)), judged(copied(OFTEN))), "worse") == 10


def test_a_probe_is_better_by_its_likelihood_alone() -> None:
    assert fates(copied(OFTEN), copied(RARE)) == ("better", "better")


def test_bounds_with_a_likelihood_in_common_are_unchanged() -> None:
    upper = RARE.upper
    for share, change in ((upper * 0.999, "unchanged"), (upper * 1.001, "worse")):
        assert fates(copied(RARE), copied(at_least(share, 130)))[0] == change


def test_a_bound_above_the_other_runs_estimate_alone_shows_nothing() -> None:
    """The upper bound is that of the plain samples alone: far above what is estimated."""
    seldom = copied(estimated("p1", 1000.0)), copied(estimated("p1", 10.0))
    assert fates(*seldom)[0] == fates(*reversed(seldom))[0] == "unknown"
    near = copied(estimated("p1", 10.5)), copied(estimated("p1", 10.0))
    assert fates(*near)[0] == fates(*reversed(near))[0] == "unchanged"


def test_another_number_of_sampler_steps_is_another_likelihood() -> None:
    after = copied(OFTEN)
    plan = after.run.inputs.confirm
    assert plan.plain_sampling is not None
    fewer = replace(plan, plain_sampling=replace(plan.plain_sampling, sampler_steps=5))
    other = with_inputs(after, confirm=fewer)
    assert fates(copied(RARE), after)[0] == "worse"
    assert fates(copied(RARE), other)[0] == fates(other, copied(RARE))[0] == "unknown"


def test_both_sides_stand_in_the_comparison() -> None:
    change = change_of(compare(copied(RARE), copied(OFTEN)))
    assert change.before == LikelihoodState(
        nats=RARE.nats,
        lower=RARE.lower,
        estimate=RARE.estimate,
        upper=RARE.upper,
        confidence=0.95,
        guidance_scale=None,
    )
    assert (change.after and change.after.lower) == OFTEN.lower


def test_other_draws_and_another_confidence_leave_bounds_comparable() -> None:
    surer = replace(OFTEN, draws=1000, confidence=0.99, upper=upper_bound(130, 512, confidence=0.995))
    assert fates(copied(RARE), copied(surer)) == ("worse", "worse")


@given(*(st.tuples(st.floats(1e-6, 1), st.integers(0, 512)) for _ in range(2)))
def test_swapping_the_runs_swaps_worse_with_better(before: tuple[float, int], after: tuple[float, int]) -> None:
    old, new = (copied(at_least(*figures)) for figures in (before, after))
    there, back = fates(old, new)[0], fates(new, old)[0]
    assert back == MIRRORED.get(there, there)
    assert fates(old, old)[0] in ("unchanged", "unknown")


def test_bounds_that_contradict_each_other_say_nothing() -> None:
    impossible = at_least(0.02, 0)
    assert impossible.lower > impossible.upper
    for other in (RARE, OFTEN, impossible):
        assert fates(copied(impossible), copied(other)) == ("unknown", "unknown")
        assert fates(copied(other), copied(impossible)) == ("unknown", "unknown")


def test_another_guidance_scale_is_another_likelihood() -> None:
    rare, often, same = (
        copied(replace(record, prompt_kind="caption", guidance_scale=scale), text_run())
        for record, scale in ((RARE, 1.0), (OFTEN, 7.0), (RARE, 7.0))
    )
    assert change_of(compare(rare, often), "caption").change == "unknown"
    assert change_of(compare(often, rare), "caption").change == "unknown"
    assert change_of(compare(rare, same), "caption").change == "unchanged"
    assert change_of(compare(same, often), "caption").change == "worse"


def test_each_kind_of_prompt_has_a_change_of_its_own() -> None:
    both = (replace(RARE, prompt_kind="soft"), replace(OFTEN, prompt_kind="caption"))
    old = replace(copied(None, text_run()), likelihoods=both)
    new = replace(old, likelihoods=(replace(OFTEN, prompt_kind="soft"), both[1]))
    comparison = compare(old, new)
    assert [(each.kind, each.change) for each in of(comparison).likelihoods] == [
        ("caption", "unchanged"),
        ("soft", "worse"),
    ]
    assert of(comparison).change == "worse"
    assert of(comparison, "p2").likelihoods == ()


# --- one run has it ---


def test_copies_now_and_none_before_are_unknown() -> None:
    assert fates(clean_run(), copied(estimated("p1"))) == ("unknown", "unknown")
    assert fates(clean_run(), copied(OFTEN)) == ("unknown", "unknown")
    assert change_of(compare(clean_run(), copied(OFTEN))).before is None


def test_copies_before_and_none_now_leave_the_answer_to_score_and_rates() -> None:
    assert fates(copied(OFTEN), clean_run()) == ("not_compared", "unchanged")
    inverted = with_likelihood(with_score(clean_run(), "p1", 0.02), OFTEN)
    assert fates(inverted, clean_run()) == ("not_compared", "better")
    assert exit_code(compare(judged(inverted), judged(clean_run())), "worse") == 0


def _silent_runs() -> dict[str, RunData]:
    """Runs without a likelihood of p1, and none of them by looking as hard and seeing no copy."""
    clean = clean_run()
    plan = clean.run.inputs.confirm
    p1 = target(clean, "p1")
    return {
        "copied by a test": copied(None),
        "copied by a sample": replace(with_confirmation(clean, sampled("p1", 1)), likelihoods=()),
        "broke": with_measurement(clean, broken(p1)),
        "not measured": without(clean, "p1"),
        "another plan": with_inputs(clean, confirm=replace(plan, likelihood=None)),
    }


@pytest.mark.parametrize("silent", _silent_runs())
def test_silence_that_no_search_explains_is_unknown(silent: str) -> None:
    run = _silent_runs()[silent]
    assert fates(copied(OFTEN), run) == ("unknown", "unknown")
    assert fates(run, copied(OFTEN))[0] == "unknown"


def test_no_copies_on_either_side_are_not_compared() -> None:
    none = copied(estimated("p1", None))
    assert fates(none, clean_run()) == ("not_compared", "unchanged")
    assert fates(clean_run(), none) == ("not_compared", "unchanged")
    assert fates(none, none) == ("unchanged", "unchanged")
    assert of(compare(clean_run(), clean_run())).likelihoods == ()


def test_a_soft_prompt_is_missed_only_where_a_test_made_a_copy() -> None:
    soft = copied(replace(OFTEN, prompt_kind="soft"), text_run())
    by_caption = with_confirmation(text_run(), sampled("p1", 1, 64, method="caption", prompt="a cat on a mat"))
    by_caption = replace(by_caption, likelihoods=(replace(RARE, prompt_kind="caption"),))
    assert change_of(compare(soft, by_caption), "soft").change == "not_compared"
    assert change_of(compare(soft, copied(None, text_run())), "soft").change == "unknown"


def test_a_record_whose_figures_do_not_fit_is_refused() -> None:
    spoilt = copied(replace(OFTEN, lower=0.9))
    for old, new, name in ((copied(RARE), spoilt, "second"), (spoilt, copied(RARE), "first")):
        with pytest.raises(ConfigError, match=rf"the {name} run .* cannot be relied on: p1 has a likelihood"):
            compare(old, new)


# --- findings ---


def _breaches(before: RunData, after: RunData, policy: Any = BY_LIKELIHOOD) -> Comparison:
    return compare(judged(before, policy), judged(after, policy))


def test_a_breach_of_the_likelihood_follows_the_likelihood() -> None:
    rare, often = copied(RARE), copied(OFTEN)
    for before, after, change in ((rare, often, "worse"), (often, rare, "better"), (often, often, "unchanged")):
        assert finding(_breaches(before, after), "extraction_likelihood").change == change


def test_a_breach_that_draws_show_and_no_sample_is_not_unknown() -> None:
    without_samples = (replace(copied(record), confirmations=()) for record in (RARE, OFTEN))
    assert finding(_breaches(*without_samples), "extraction_likelihood").change == "worse"


def test_a_breach_of_the_likelihood_is_worse_where_only_the_samples_are() -> None:
    old, new = (
        replace(with_confirmation(clean_run(), sampled("p1", hits)), likelihoods=(OFTEN,)) for hits in (100, 400)
    )
    assert finding(_breaches(old, new), "extraction_likelihood").change == "worse"
    assert change_of(compare(old, new)).change == "unchanged"


def test_a_breach_does_not_follow_the_likelihood_of_another_kind() -> None:
    caption, soft = (
        {record: replace(record, prompt_kind=kind) for record in (RARE, OFTEN, ALMOST_ALWAYS)}
        for kind in ("caption", "soft")
    )
    old, new = (
        replace(copied(None, text_run()), likelihoods=(caption[OFTEN], soft[record]))
        for record in (RARE, ALMOST_ALWAYS)
    )
    assert of(compare(old, new)).change == "worse"
    assert finding(_breaches(old, new), "extraction_likelihood").change == "unchanged", "no user can give a soft prompt"
    assert finding(_breaches(old, new, EVERY_KIND), "extraction_likelihood").change == "worse"


def test_a_breach_by_counted_copies_alone_follows_their_rate() -> None:
    old, new = (
        replace(with_confirmation(clean_run(), sampled("p1", hits)), likelihoods=(estimated("p1"),))
        for hits in (40, 200)
    )
    assert finding(_breaches(old, new), "extraction_likelihood").change == "worse"
    assert finding(_breaches(new, old), "extraction_likelihood").change == "better"


def test_other_rules_do_not_follow_the_likelihood() -> None:
    old, new = (
        with_likelihood(with_measurement(clean_run(), measured(target(clean_run(), "p1"), 0.02)), record)
        for record in (RARE, OFTEN)
    )
    change: ProbeChange = of(compare(old, new))
    assert change.change == "worse"
    assert finding(compare(judged(old), judged(new)), "invmm_below").change == "unchanged"
