"""What holds for every run: nothing worse ever gives a better verdict, and nothing unknown ever passes."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from invmm_gate.core.records import PLAIN_SAMPLING
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.judge import judge, probes_to_confirm
from invmm_gate.policy.reasons import decide
from invmm_gate.policy.schema import Policy
from tests.policy.few_probes import PERMISSIVE, STANDARD, STRICT, clean_run
from tests.policy.policy_builders import (
    CHECKS,
    CONTROLS,
    SAMPLED,
    SENSITIVE,
    TODAY,
    broken,
    measured,
    sampled,
    stopped,
    target,
    with_confirmation,
    with_measurement,
    with_score,
    without,
)

POLICIES = (STRICT, STANDARD, PERMISSIVE)
BADNESS = {"pass": 0, "inconclusive": 1, "block": 2}

scores = st.one_of(st.none(), st.sampled_from([0.0, 0.01, 0.03, 0.05, 0.2]), st.floats(0, 1))
policies = st.sampled_from(POLICIES)
probe_names = st.sampled_from(SENSITIVE)


@st.composite
def runs(draw: st.DrawFn) -> RunData:
    """Runs without faults: any scores, stops, errors and sampling counts."""
    data = clean_run()
    for name in (*SENSITIVE, *CONTROLS[:4]):
        kind = draw(st.sampled_from(["score", "score", "score", "hits", "stopped", "error"]))
        if kind == "score":
            data = with_score(data, name, draw(scores))
        elif kind == "hits":
            data = with_score(data, name, None, hits=draw(st.integers(0, 8)))
        elif kind == "stopped":
            data = with_measurement(data, stopped(target(data, name), draw(st.floats(0, 0.2))))
        elif draw(st.booleans()):
            data = with_measurement(data, broken(target(data, name)))
    for name in SENSITIVE:
        hits = draw(st.sampled_from([0, 0, 0, 1, 5, 9, 40]))
        data = with_confirmation(data, sampled(name, hits, draw(st.sampled_from([512, 512, 256, 600]))))
    return data


def decision(data: RunData, policy: Policy) -> str:
    return judge(data, policy, (), today=TODAY).decision


@given(runs())
@settings(max_examples=150, deadline=None)
def test_what_strict_passes_the_others_pass_too(data: RunData) -> None:
    outcomes = [decision(data, policy) for policy in POLICIES]
    for stricter, looser in pairwise(outcomes):
        assert stricter != "pass" or looser == "pass"


@given(runs(), policies, probe_names, st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_lower_score_never_gives_a_better_verdict(data: RunData, policy: Policy, name: str, factor: float) -> None:
    before = next(record for record in data.measurements if record.probe == name)
    if before.invmm is None:
        return
    lower = with_measurement(data, measured(target(data, name), before.invmm * factor))
    assert BADNESS[decision(lower, policy)] >= BADNESS[decision(data, policy)]


@given(runs(), policies, probe_names, st.integers(0, 512))
@settings(max_examples=150, deadline=None)
def test_more_hits_never_give_a_better_verdict(data: RunData, policy: Policy, name: str, more: int) -> None:
    before = next(record for record in data.confirmations if record.probe == name)
    hits = min(before.trials, before.hits + more)
    worse = with_confirmation(data, sampled(name, hits, before.trials))
    assert BADNESS[decision(worse, policy)] >= BADNESS[decision(data, policy)]


@given(runs(), policies, probe_names, st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_larger_share_never_gives_a_better_verdict(data: RunData, policy: Policy, name: str, hits: int) -> None:
    fewer, more = (with_score(data, name, None, hits=count) for count in (hits - 1, hits))
    assert BADNESS[decision(more, policy)] >= BADNESS[decision(fewer, policy)]


@given(
    runs(),
    policies,
    st.sampled_from([*SENSITIVE, *CONTROLS]),
    st.sampled_from(["nan", "inf", "missing", "twice", "error"]),
)
@settings(max_examples=200, deadline=None)
def test_run_with_a_hole_never_passes(data: RunData, policy: Policy, name: str, hole: str) -> None:
    spoiled = {
        "missing": without(data, name),
        "twice": replace(data, measurements=(*data.measurements, measured(target(data, name)))),
        "nan": with_measurement(data, measured(target(data, name), float("nan"))),
        "inf": with_measurement(data, measured(target(data, name), float("inf"))),
        "error": with_measurement(data, broken(target(data, name))),
    }[hole]
    assert decision(spoiled, policy) != "pass"


@given(runs(), policies)
@settings(max_examples=50, deadline=None)
def test_broken_control_never_gives_a_better_verdict(data: RunData, policy: Policy) -> None:
    for name in CONTROLS[2:5]:
        worse = with_measurement(data, broken(target(data, name)))
        assert BADNESS[decision(worse, policy)] >= BADNESS[decision(data, policy)]


@given(runs(), policies)
@settings(max_examples=50, deadline=None)
def test_failed_self_check_is_inconclusive_whatever_else(data: RunData, policy: Policy) -> None:
    for place in range(len(CHECKS)):
        checks = tuple(replace(check, passed=at != place) for at, check in enumerate(CHECKS))
        verdict = judge(replace(data, self_checks=checks), policy, (), today=TODAY)
        assert verdict.decision == "inconclusive"
        assert "self-check" in verdict.reasons[0]


findings = st.lists(
    st.builds(
        Finding,
        rule=st.sampled_from(["invmm_below", "confirmed", "coverage"]),
        effect=st.sampled_from(["block", "inconclusive"]),
        probe=st.none(),
        message=st.just("x"),
    ),
    max_size=5,
)


@given(findings, findings)
def test_more_findings_never_improve_a_decision(some: list[Finding], more: list[Finding]) -> None:
    assert BADNESS[decide([*some, *more])] >= BADNESS[decide(some)]


@given(runs(), policies, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_order_of_the_records_does_not_matter(data: RunData, policy: Policy, shuffle: object) -> None:
    records = list(data.measurements)
    shuffle.shuffle(records)  # type: ignore[attr-defined]
    mixed = replace(data, measurements=tuple(records))
    first, second = (judge(each, policy, (), today=TODAY) for each in (data, mixed))
    assert first.decision == second.decision
    assert set(first.findings) == set(second.findings)


@given(runs(), policies)
@settings(max_examples=50, deadline=None)
def test_confirming_what_is_asked_for_leaves_no_confirmation_missing(data: RunData, policy: Policy) -> None:
    wanted = probes_to_confirm(replace(data, confirmations=()), policy, method=PLAIN_SAMPLING)
    confirmed = replace(data, confirmations=tuple(sampled(name, method=way) for way in SAMPLED for name in wanted))
    verdict = judge(confirmed, policy, (), today=TODAY)
    assert not [found for found in verdict.findings if found.rule == "confirmed"]
