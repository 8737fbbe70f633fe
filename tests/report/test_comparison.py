"""The comparison as Markdown: readable, bounded, and foreign text stays text."""

import re
from dataclasses import replace

import pytest

from invmm_gate.core.likelihood_record import Likelihood
from invmm_gate.core.run_records import RunData
from invmm_gate.policy.compare.compare import compare
from invmm_gate.policy.compare.comparison import Comparison
from invmm_gate.policy.judge import judge
from invmm_gate.report.comparison_markdown import (
    breach_text,
    counted,
    rate_text,
    render_comparison,
    score_text,
    shown_likelihoods,
)
from tests.policy.policy_builders import (
    STRICT,
    TODAY,
    broken,
    clean_run,
    estimated,
    measured,
    probe,
    sampled,
    stopped,
    target,
    text_run,
    with_confirmation,
    with_likelihood,
    with_measurement,
    with_probes,
    with_score,
)
from tests.policy.test_policy_compare_likelihoods import OFTEN, RARE, copied

HOSTILE = "<img src=x onerror=alert(1)> | `x` ::error::y \x1b[31m [a](javascript:b) @team"


def judged(data: RunData) -> RunData:
    return replace(data, verdict=judge(data, STRICT, (), today=TODAY))


@pytest.fixture
def comparison() -> Comparison:
    """p1 inverts now, p2 no longer, p3 broke; sampling brings p1 out."""
    data = clean_run()
    old = with_score(data, "p2", 0.02)
    new = with_measurement(with_score(data, "p1", 0.0123), broken(target(data, "p3")))
    return compare(judged(old), judged(with_confirmation(new, sampled("p1", 40))))


def test_the_summary_says_what_came_what_went_and_what_is_unknown(comparison: Comparison) -> None:
    text = render_comparison(comparison)
    plain = re.sub(r"&#(\d+);", lambda match: chr(int(match[1])), text)
    assert "Findings: 3 new, 2 unknown, 1 fixed. Probes: 1 worse, 1 unknown, 1 better, 25 unchanged." in plain
    assert "| NEW | <code>invmm_below</code> | <code>p1</code> | none | block 0.0123 (limit 0.0911) |" in plain
    assert "| FIXED | <code>invmm_below</code> | <code>p2</code> | block 0.0200 (limit 0.0911) | none |" in plain
    assert "| WORSE | <code>p1</code> | sensitive | not inverted | 0.0123 |" in plain
    rates = r"plain sampling 0 of 512 \(0\.0 to 0\.\d %\) → 40 of 512 \(5\.\d to 10\.\d %\), separate"
    assert re.search(rates, plain)
    assert "| UNKNOWN | <code>p3</code> | canary | not inverted | broke |" in plain
    assert "Rates are separate if their recorded intervals, which allow for stopping early" in plain
    assert "it is no verdict" in plain


def likely(record: Likelihood) -> RunData:
    return copied(record, clean_run())


def test_the_likelihoods_of_both_runs_stand_side_by_side_in_words() -> None:
    comparison = compare(likely(RARE), likely(OFTEN))
    plain = re.sub(r"&#(\d+);", lambda match: chr(int(match[1])), render_comparison(comparison))
    assert "| Replicating samples | How often it comes out |" in plain
    assert (
        "| at least one in 100 generations (at most one in 28) → at least 20 % of generations (at most 30 %) "
        "by plain sampling, separate |"
    ) in plain
    assert "if the lower bound of one run lies above the upper bound of the other" in plain


def test_every_likelihood_has_its_words() -> None:
    scaled = replace(OFTEN, prompt_kind="soft", guidance_scale=7.5)
    rare, often = "at least one in 100 generations (at most one in 28)", "at least 20 % of generations (at most 30 %)"
    unlikely = "at least one in 10^44 generations (at most one in 130)"
    for before, after, said in (
        (likely(OFTEN), clean_run(), f"{often} → not estimated by plain sampling"),
        (clean_run(), likely(OFTEN), f"not estimated → {often} by plain sampling"),
        (likely(OFTEN), likely(RARE), f"{often} → {rare} by plain sampling, separate"),
        (likely(estimated("p1")), likely(RARE), f"{unlikely} → {rare} by plain sampling, separate"),
        (likely(RARE), likely(RARE), f"{rare} → {rare} by plain sampling, not separate"),
        (
            likely(estimated("p1", None)),
            likely(RARE),
            f"no bound (at most one in 130) → {rare} by plain sampling, separate",
        ),
        (
            text_run(),
            copied(scaled, text_run()),
            "not estimated → at least 20 % of generations (at most 30 %, guidance scale 7.5) with tools: a soft prompt",
        ),
    ):
        (change,) = (each for each in compare(before, after).probes if each.probe == "p1")
        assert shown_likelihoods(change) == said
    none = likely(estimated("p1", None))
    (change,) = (each for each in compare(none, none).probes if each.probe == "p1")
    assert (len(change.likelihoods), shown_likelihoods(change)) == (1, "")


def test_a_finding_that_only_this_run_could_have_is_shown() -> None:
    data = clean_run()
    more = with_probes(data, probe("p9"))
    changed = replace(more.run, probe_set=replace(more.run.probe_set, digest="f" * 64))
    new = replace(more, run=changed, measurements=(*data.measurements, measured(probe("p9"), 0.02)))
    text = render_comparison(compare(judged(data), judged(new), common_probes=True))
    plain = re.sub(r"&#(\d+);", lambda match: chr(int(match[1])), text)
    assert "### Findings now that the first run says nothing about" in plain
    assert "| <code>invmm_below</code> | <code>p9</code> | block 0.0200 (limit 0.0911) |" in plain


def test_unchanged_runs_have_no_tables(comparison: Comparison) -> None:
    data = judged(clean_run())
    text = render_comparison(compare(data, data))
    assert "###" not in text
    assert "Findings: none. Probes: 28 unchanged." in text


def test_scores_without_verdicts_say_so() -> None:
    text = render_comparison(compare(clean_run(), clean_run()))
    assert "Findings: not compared" in text
    assert "NOT JUDGED" in text
    assert "the first run was not judged" in text.replace("&#46;", ".")


def test_foreign_text_stays_text() -> None:
    data = clean_run()
    probes = replace(data.run.probe_set, probes=(*data.run.probe_set.probes, probe(HOSTILE)))
    run = replace(data.run, model=replace(data.run.model, name=HOSTILE), probe_set=probes)
    old, new = (
        judged(
            replace(
                with_likelihood(data, estimated(HOSTILE)),
                run=run,
                measurements=(*data.measurements, measured(probe(HOSTILE), score)),
            )
        )
        for score in (None, 0.02)
    )
    text = render_comparison(compare(old, new))
    for mark in ("<img", "`x`", "::error", "\x1b", "](javascript", "@team"):
        assert mark not in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "onerror" in line]
    assert [line.count("|") for line in rows] == [6, 6, 8], "two findings and a probe, and no cell was added"


def test_thousands_of_changes_stay_below_what_a_merge_request_shows() -> None:
    data = clean_run()
    many = tuple(probe(f"a-rather-long-name-of-a-probe-{number:05}") for number in range(2000))
    probes = replace(data.run.probe_set, probes=(*data.run.probe_set.probes, *many))
    old, new = (
        replace(
            data,
            run=replace(data.run, probe_set=probes),
            measurements=(*data.measurements, *(measured(each, score) for each in many)),
        )
        for score in (None, 0.02)
    )
    text = render_comparison(compare(old, new))
    assert len(text.encode()) < 60_000
    assert re.search(r"1,9\d\d more probes\.", text)


def test_every_state_has_its_words() -> None:
    data = clean_run()
    p1 = target(data, "p1")
    runs = {
        "0.0200": with_score(data, "p1", 0.02),
        "above 0.0600": with_measurement(data, stopped(p1, 0.06)),
        "not inverted": data,
        "broke": with_measurement(data, broken(p1)),
        "not measured": replace(data, measurements=data.measurements[1:]),
    }
    for said, run in runs.items():
        (change,) = (each for each in compare(data, run).probes if each.probe == "p1")
        assert score_text(change.score.after) == said
        rate = next(each for each in change.rates if each.name == "test_samples")
        assert ("not tried" in rate_text(rate)) == (said in ("broke", "not measured"))
    assert breach_text(None) == "none"
    assert counted({}) == "none"
