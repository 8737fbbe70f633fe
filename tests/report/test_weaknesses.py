"""A reader sees where the policy is weaker than `strict`, in each format that says more than scores."""

from dataclasses import replace

import pytest

from invmm_gate.cli.show import show_verdict
from invmm_gate.report.formats import FORMATS, render_html
from invmm_gate.report.templates import ReportImages
from invmm_gate.report.to_markdown import inert, render_summary
from tests.report.conftest import verdict

WEAKER = tuple(f"coverage.part{number} is {number}, in strict 16: lower is weaker" for number in range(90))


@pytest.mark.parametrize("name", ["html", "markdown", "sarif", "junit"])
def test_each_setting_is_in_the_format(data, name):
    form = next(form for key, form in FORMATS.items() if name in key or name in form.file)
    text = str(form.render(data, ReportImages(), False))
    assert data.verdict.weaknesses
    assert all(said in text or inert(said) in text for said in data.verdict.weaknesses)


def test_the_report_leads_to_the_list_and_counts_it(data):
    page = render_html(data)
    assert 'weaker than strict in 2 settings; see <a href="#policy">' in page
    one = render_html(replace(data, verdict=verdict(weaknesses=WEAKER[:1])))
    assert "weaker than strict in 1 setting;" in one
    none = render_html(replace(data, verdict=verdict(weaknesses=())))
    assert "Policy strict is in no setting weaker than the shipped policy strict." in none
    assert 'id="policy"' not in render_html(replace(data, verdict=None))


def test_the_summary_cuts_a_long_list_with_its_rest_counted(data):
    text = render_summary(replace(data, verdict=verdict(weaknesses=WEAKER)))
    assert "### Where the policy is weaker than strict: 90" in text
    assert inert(WEAKER[19]) in text
    assert inert(WEAKER[20]) not in text
    assert "70 more settings in report.html." in text
    assert "weaker than strict" not in render_summary(replace(data, verdict=verdict(weaknesses=())))


@pytest.mark.parametrize(
    ("count", "folder", "words"),
    [
        (1, "run", "  the policy is weaker than strict in 1 setting; the report lists them\n"),
        (2, "", "  the policy is weaker than strict in 2 settings; `invmm-gate policy lint` lists them\n"),
    ],
)
def test_the_terminal_says_how_many_and_where_to_read_them(data, capsys, count, folder, words):
    said = verdict(weaknesses=WEAKER[:count], counts=dict.fromkeys(("probes", "controls", "missing", "inverted"), 0))
    said = replace(said, counts=said.counts | {"confirmed": 0})
    show_verdict(said, replace(data, verdict=said), folder=folder)
    assert words in capsys.readouterr().out
