"""What the reports say of the Great Expectations suites."""

from dataclasses import replace

import pytest

from invmm_gate.core.records import ExpectationRecord, SuiteRecord
from invmm_gate.report.file_list import RUN_FILES
from invmm_gate.report.formats import FORMATS
from invmm_gate.report.to_html import render_html
from invmm_gate.report.to_markdown import render_summary
from tests.report.hostile import ALL
from tests.report.test_to_html import Page, assert_inert

HELD = ExpectationRecord(name="the outcome is known", kind="ExpectColumnValuesToBeInSet", success=True, failing=0)
BROKEN = ExpectationRecord(
    name="the score is a number from 0 on",
    kind="ExpectColumnValuesToBeBetween",
    success=False,
    failing=23,
    rows=("face-00", "face-01"),
)
SOUND = SuiteRecord(name="probe_set", success=True, rows=32, expectations=(HELD,))
UNSOUND = SuiteRecord(name="measurements", success=False, rows=32, expectations=(HELD, BROKEN))


def test_the_report_shows_each_suite_each_expectation_and_the_probes_that_fail(data):
    page = Page(render_html(replace(data, suites=(SOUND, UNSOUND))))
    assert page.bad == []
    assert "Suite probe_set" in page.text
    assert "the score is a number from 0 on" in page.text
    assert "ExpectColumnValuesToBeBetween" in page.text
    assert "face-00, face-01 and 21 more" in page.text


def test_a_suite_that_fails_is_unfolded(data):
    html = render_html(replace(data, suites=(SOUND, UNSOUND)))
    folded, unfolded = html.index("<h3>Suite probe_set"), html.index("<h3>Suite measurements")
    assert "<details>" in html[folded - 40 : folded]
    assert "<details open>" in html[unfolded - 40 : unfolded]


def test_the_summary_counts_the_expectations_in_one_line(data):
    lines = render_summary(replace(data, suites=(SOUND,))).splitlines()
    assert "Data checks: 1 of 1 expectations hold." in lines
    lines = render_summary(replace(data, suites=(SOUND, UNSOUND))).splitlines()
    assert "Data checks: 2 of 3 expectations hold; **broken**: <code>measurements</code>." in lines


def test_suites_that_were_not_run_on_these_records_are_not_called_passed(data):
    page = Page(render_html(data))
    assert "Not run on these records." in page.text
    assert "Data checks: not run on these records." in render_summary(data)


@pytest.mark.parametrize("text", [text for text in ALL if len(text) < 1000], ids=lambda text: ascii(text[:20]))
def test_hostile_text_in_the_results_stays_text(data, text):
    odd = replace(BROKEN, name=text, kind=text, rows=(text,))
    suite = SuiteRecord(name=text, success=False, rows=1, expectations=(odd,))
    assert_inert(render_html(replace(data, suites=(suite,))), text)


def test_the_report_lists_every_file_that_is_rendered(data):
    page = Page(render_html(data))
    assert {made.file for made in FORMATS.values()} - {name for name, _ in RUN_FILES} == {"report.html"}
    assert all(name in page.text and what in page.text for name, what in RUN_FILES)
