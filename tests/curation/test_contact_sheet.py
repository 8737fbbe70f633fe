"""The contact sheet: private and marked so, without scripts, whatever the files are called."""

import base64
import dataclasses
import hashlib
import re
import shutil
import subprocess

import pytest

from invmm_gate.report.contact_sheet import Card, ContactSheet, CurveRow, Section, Thumb, render_contact_sheet
from tests.curation.pictures import picture, png

CHROMIUM = shutil.which("chromium")
HOSTILE = "\"><script>document.title='ran'</script>\u202egnp.\x1b"


def thumb(label="a.png"):
    return Thumb(label=label, data=png(picture(0)), kind="png", pixelated=True)


def sheet(label="a.png", **changes):
    plain = ContactSheet(
        title=label,
        facts=(("training images read", "1,234"),),
        metric="pixel_rmse",
        looser="higher",
        cards=(
            Card(
                name="duplicates-00001",
                multiplicity=1234,
                distinct=2,
                farthest="0.050",
                note="medoid is a duplicated probe",
                thumbs=(thumb(label), thumb()),
            ),
        ),
        more_cards=3,
        sensitive=Section(thumbs=(thumb(label),), more=0),
        sample=Section(thumbs=(thumb(label),), more=0),
        controls=Section(thumbs=(thumb(label),), more=7),
        curve=tuple(
            CurveRow(threshold=value, clusters=count, images=9, largest=4, chosen=value == 0.1)
            for value, count in ((0.05, 0), (0.1, 3), (0.12, 2))
        ),
        dimensions=((10, 12.34, 12.0, 2000),),
        left_out=(("control", label, label),),
        more_left_out=0,
        settings=(("training data", label),),
    )
    return dataclasses.replace(plain, **changes)


def test_the_page_says_that_it_is_private_and_shows_the_figures():
    page = render_contact_sheet(sheet())
    assert "<strong>PRIVATE.</strong>" in page
    assert "<title>PRIVATE: contact sheet" in page
    assert '<meta name="invmm-gate-redacted" content="no">' in page
    assert "× 1,234" in page
    assert "7 more controls are in the manifest" in page
    assert page.count("data:image/png;base64,") == 5
    assert page == render_contact_sheet(sheet())


def test_a_hostile_file_name_stays_text():
    page = render_contact_sheet(sheet(HOSTILE))
    assert "<script" not in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "\\u202egnp.\\x1b" in page


def test_the_policy_allows_the_page_s_own_style_and_data_images_alone():
    page = render_contact_sheet(sheet())
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert style is not None
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy[1].startswith(f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;")


def test_a_set_without_sensitive_images_clusters_or_dimension_has_a_page():
    nothing = Section(thumbs=(), more=0)
    page = render_contact_sheet(sheet(cards=(), sensitive=nothing, controls=nothing, dimensions=(), left_out=()))
    assert 'id="sensitive"' not in page
    assert "No cluster became a probe." in page
    assert "Not estimated: too few images, or all of them equally far apart." in page


@pytest.mark.parametrize("looser", ["higher", "lower"])
def test_thresholds_get_looser_to_the_right(looser):
    page = render_contact_sheet(sheet(looser=looser))
    points = re.search(r'<polyline class="line" points="([^"]*)"', page)
    assert points is not None
    across = [float(point.split(",")[0]) for point in points[1].split()]
    assert across == sorted(across, reverse=looser == "lower")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH")
def test_the_page_renders_in_a_browser_under_its_own_policy(tmp_path):
    path = tmp_path / "sheet.html"
    path.write_text(render_contact_sheet(sheet(HOSTILE)), encoding="utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert "<title>PRIVATE: contact sheet" in done.stdout
    assert "Content Security Policy" not in done.stderr
