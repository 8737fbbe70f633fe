import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from invmm_gate.report.to_markdown import SIZE_LIMIT, inert, render_summary
from tests.report.conftest import CAPTION, MEASUREMENTS, SOURCE, finding, verdict
from tests.report.test_to_html import HOSTILE, poisoned

OURS = re.compile(r"</?code>|<br>|&#\d+;")


def test_the_summary_leads_with_the_verdict_and_names_the_worst(data):
    text = render_summary(data)
    assert text.startswith("## ✕ BLOCK: <code>memorizing</code>\n")
    assert "1 of 17 private images can be drawn from this model&#58; it comes out of at least one in " in text
    assert (
        "| INCONCLUSIVE | <code>face-01</code> | no way was found | not sampled<br>no score | <code>coverage</code>"
        in text
    )
    assert "<br>1 probe could not be measured |" in text
    assert "| BLOCK | <code>planted32-00</code> | nothing but sampling | at least one in " in text
    assert "Waived by d&#46;okafor until 2026-12-31" in text
    assert "| <code>planted32-00</code> | duplicated | inverted | 0.0101 | confirmed, 6 of 512 |" in text
    assert "not proven safe" in text


@pytest.mark.parametrize(
    ("decision", "word"), [("pass", "✓ PASS"), ("inconclusive", "? INCONCLUSIVE"), (None, "– NOT")]
)
def test_each_decision_is_a_word(data, decision, word):
    text = render_summary(replace(data, verdict=verdict(decision) if decision else None))
    assert text.startswith(f"## {word}")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_cannot_form_markup(data, text):
    shown = render_summary(poisoned(data, text))
    foreign = OURS.sub("", shown)
    assert not re.search(r"[<>`\[\]]|https?:|javascript:|\x1b|\u202e", foreign)
    assert not any(line.lstrip("|> ").startswith("::") for line in shown.splitlines())
    rows = [OURS.sub("", line) for line in shown.splitlines() if line.startswith("| ")]
    assert {row.count("|") for row in rows} <= {5, 6, 9}


@given(st.text(alphabet=st.characters(), max_size=400))
def test_inert_text_is_letters_digits_and_entities(text):
    shown = inert(text)
    assert all(char.isalnum() or char in " ,-" for char in re.sub(r"&#\d+;", "", shown))
    assert "\n" not in shown


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 5000), char=st.sampled_from("<\U0001f426é\x1b"))
def test_the_summary_is_always_below_its_limit(data, size, char):
    long = char * size
    findings = tuple(finding(f"p-{n}", message=long, rule=long) for n in range(300))
    judged = verdict(findings=findings, reasons=(long,) * 300, policy=long)
    many = tuple(replace(MEASUREMENTS[0], probe=f"{long}-{n}") for n in range(100))
    run = replace(data.run, model=replace(data.run.model, name=long, pickles=(long,)), run_id=long)
    text = render_summary(replace(data, run=run, verdict=judged, measurements=many))
    assert len(text.encode("utf-8")) < SIZE_LIMIT
    assert "more images in report.html." in text


def test_a_short_list_is_cut_with_its_rest_counted(data):
    findings = tuple(finding(f"p-{n}") for n in range(50))
    text = render_summary(replace(data, verdict=verdict(findings=findings)))
    assert "more images in report.html." in text
    assert "12 more probes in report.html." in text


def test_no_caption_or_source_is_in_the_summary(data):
    leaky = f"{CAPTION} / {SOURCE}"
    judged = verdict(findings=(finding("face-00", message=leaky),), reasons=(leaky,))
    text = render_summary(replace(data, verdict=judged))
    assert inert(CAPTION) not in text
    assert inert(SOURCE) not in text
    assert "&#91;redacted&#93;" in text


def test_a_run_without_findings_or_probes_still_has_a_summary(data):
    passed = render_summary(replace(data, verdict=verdict("pass", findings=())))
    assert "No findings." in passed
    assert "Most memorized probes" not in render_summary(replace(data, measurements=(), verdict=None))
