"""A reader is told in each report what the run says of images that are no probes, in words that round no bound away."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invmm_gate.cli.show import show_verdict, summary
from invmm_gate.core.intervals import clopper_pearson, upper_bound
from invmm_gate.core.verdict_records import ExtractableShare, Power, Rung, SearchBaseRate, Verdict
from invmm_gate.report.formats import render_html
from invmm_gate.report.public_records import PublicNames, public
from invmm_gate.report.reach import at_least, at_most, reach_lines
from invmm_gate.report.studied import Studied
from invmm_gate.report.to_markdown import inert, render_summary
from tests.report.conftest import verdict

UNKNOWN = "What this run could have found in this model is unknown: no canary was planted a known number of times."
STUDY = Studied(
    models=("a", "b"),
    trained_on=1516,
    planted=((1, 0, 16), (8, 9, 16), (64, 16, 16)),
    never_seen=(0, 128),
    smaller=None,
    prompts=False,
)
COUNTS = dict.fromkeys(("probes", "controls", "missing", "inverted", "confirmed"), 0)


def share(found: int, drawn: int, unsearched: int = 0) -> ExtractableShare:
    upper = upper_bound(found + unsearched, drawn)
    return ExtractableShare(drawn=drawn, found=found, unsearched=unsearched, upper=upper, confidence=0.95)


def rung(often: int, found: int, planted: int) -> Rung:
    return Rung(multiplicity=often, found=found, planted=planted, interval=clopper_pearson(found, planted))


def searched(found: int, controls: int) -> SearchBaseRate:
    upper = upper_bound(found, controls)
    return SearchBaseRate(controls=controls, found=found, upper=upper, confidence=0.95)


def lines_of(said: Verdict) -> tuple[str, ...]:
    return reach_lines(said, None)


LADDER = Power(rungs=(rung(1, 0, 20), rung(8, 13, 20), rung(64, 60, 60)), found_from=64)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            share(0, 300),
            "At most 1.0 % of the training images are extractable by this search (95 % confidence): "
            "0 of 300 that were drawn at random were found.",
        ),
        (
            share(2, 1000, 1),
            "At most 0.78 % of the training images are extractable by this search (95 % confidence): 2 of 1,000 that "
            "were drawn at random were found, and 1 that were not searched in full count as found.",
        ),
        (
            share(5, 5),
            "At most 100 % of the training images are extractable by this search (95 % confidence): "
            "5 of 5 that were drawn at random were found.",
        ),
    ],
)
def test_the_bound_is_one_sentence(found: ExtractableShare, said: str) -> None:
    assert lines_of(verdict(extractable=found)) == (said, UNKNOWN)


def test_canaries_are_a_ladder_and_a_claim() -> None:
    assert lines_of(verdict(power=LADDER)) == (
        "Canaries found, by how often they were planted (95 % intervals): once: 0 of 20 (0 % to 17 %); "
        "8 times: 13 of 20 (41 % to 85 %); 64 times: 60 of 60 (94.0 % to 100 %).",
        "Of images that were trained on 64 times or more, like these canaries, this search finds at least 95 % "
        "(95 % confidence).",
    )
    unshown = lines_of(verdict(power=replace(LADDER, found_from=None)))[1]
    assert unshown == (
        "At no multiplicity do the canaries show that 95 % of such images are found; that takes at least 59 canaries "
        "planted that often or more, all of them found."
    )
    assert "trained on once or more" in lines_of(verdict(power=replace(LADDER, found_from=1)))[1]


def test_canaries_that_do_not_say_how_often_they_were_planted_show_no_power() -> None:
    assert lines_of(verdict(power=Power(unstated=3, unstated_found=2))) == (
        UNKNOWN,
        "2 of 3 canaries of which nobody said how often they were planted were found.",
    )


def test_canaries_that_were_not_searched_in_full_are_told_of() -> None:
    lines = lines_of(verdict(power=replace(LADDER, unsearched=4)))
    assert lines[2] == "4 canaries that were not searched in full count as not found."


def test_without_canaries_the_study_is_told_of() -> None:
    said = (
        "Elsewhere, in 2 small models that this project trained on 1,516 images each, this search certified that "
        "an image comes out once in a million generations or more, by how often the image was planted: once: 0 of 16; "
        "8 times: 9 of 16; 64 times: 16 of 16; never: 0 of 128. This model may give its images out more readily, or "
        "less."
    )
    assert reach_lines(verdict(), STUDY) == (UNKNOWN, said)
    one = replace(STUDY, models=("a",), planted=((8, 9, 16),), smaller=16, prompts=True)
    assert next(one.sentences()) == (
        "Elsewhere, in a small model that this project trained on 1,516 images, this search certified that an image "
        "comes out once in a million generations or more with a prompt that can be typed, by how often the image was "
        "planted: 8 times: 9 of 16; never: 0 of 128. Images have at most 16 pixels a side there. This model may give "
        "its images out more readily, or less."
    )
    assert reach_lines(verdict(power=LADDER), STUDY) == lines_of(verdict(power=LADDER))


def test_how_often_the_prompt_search_is_wrong_is_one_sentence() -> None:
    for found, most in ((0, "53 %"), (1, "76 %"), (4, "100 %")):
        assert lines_of(verdict(base_rate=searched(found, 4))) == (
            UNKNOWN,
            f"The prompt search brought out {found} of 4 controls, so at most {most} of images that the model cannot "
            "have seen (95 % confidence).",
        )


def test_a_long_ladder_is_cut_with_its_rest_counted() -> None:
    many = Power(rungs=tuple(rung(often, 0, 1) for often in range(1, 31)))
    assert lines_of(verdict(power=many))[0].endswith("; 12 times: 0 of 1 (0 % to 97.5 %); and 18 more multiplicities.")


@given(st.floats(0, 1))
def test_a_bound_is_never_rounded_to_the_better_side(value: float) -> None:
    upper, lower = (float(said(value).removesuffix(" %")) / 100 for said in (at_most, at_least))
    assert lower <= value * (1 + 1e-12)
    assert upper >= value * (1 - 1e-12)
    assert upper - lower <= 0.101 * value + 1e-300


def test_every_report_says_it_and_the_public_ones_too(data, capsys) -> None:
    said = verdict(extractable=share(1, 300), power=LADDER, base_rate=searched(0, 4))
    told = replace(data, verdict=said)
    shown = public(told, PublicNames.under(bytes(32), data.run.probe_set.probes))
    assert shown.verdict is not None
    assert (shown.verdict.extractable, shown.verdict.power) == (said.extractable, said.power)
    assert shown.verdict.base_rate == said.base_rate
    lines = lines_of(said)
    assert len(lines) == 4
    for page in (told, shown):
        assert all(line in render_html(page) for line in lines)
        assert all(inert(line, 1000) in render_summary(page) for line in lines)
    judged = replace(said, counts=COUNTS)
    show_verdict(judged, replace(data, verdict=judged))
    printed = capsys.readouterr().out
    assert all(f"  {line}\n" in printed for line in lines)


def test_json_has_the_figures(data, tmp_path) -> None:
    printed = summary(tmp_path, verdict(extractable=share(0, 300), power=LADDER), data)
    assert printed["extractable"]["upper"] == pytest.approx(0.00994, abs=1e-5)
    assert [(each["multiplicity"], each["found"], each["planted"]) for each in printed["power"]["rungs"]] == [
        (1, 0, 20),
        (8, 13, 20),
        (64, 60, 60),
    ]
    assert printed["power"]["found_from"] == 64
    nothing = summary(tmp_path, verdict(), data)
    assert nothing["extractable"] is nothing["base_rate"] is None
    assert summary(tmp_path, verdict(base_rate=searched(1, 4)), data)["base_rate"]["found"] == 1


def test_the_page_limits_its_claim_to_the_probes_only_without_a_sample(data) -> None:
    without = render_html(replace(data, verdict=verdict()))
    drawn = render_html(replace(data, verdict=verdict(extractable=share(0, 300))))
    assert "Nothing follows for other training images." in without
    assert "Nothing follows for other training images." not in drawn
    assert "the images that were drawn at random give a bound and no more" in drawn


def test_the_table_of_the_page_on_probe_sets_is_that_of_the_bound() -> None:
    page = (Path(__file__).parents[2] / "docs/probe-sets.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([0-9,]+) \| ([^|]+ %) \| ([^|]+ %) \| ([^|]+ %) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == ["60", "300", "3,000"]
    for drawn, *said in rows:
        assert said == [at_most(upper_bound(found, int(drawn.replace(",", "")))) for found in (0, 1, 3)]


def test_the_sentences_of_the_page_on_probe_sets_are_those_of_the_verdict() -> None:
    page = (Path(__file__).parents[2] / "docs/probe-sets.md").read_text(encoding="utf-8")
    found = (0, 0, 7, 20, 20, 20, 20)
    ladder = Power(rungs=tuple(rung(2**place, hit, 20) for place, hit in enumerate(found)), found_from=8)
    for line in lines_of(verdict(extractable=share(0, 300), power=ladder)):
        assert line in page
