"""The report in a real browser."""

import re
import shutil
import subprocess
from dataclasses import replace
from html import escape

import pytest

from invmm_gate.report.formats import render_html
from tests.report.likely_runs import blocked
from tests.report.test_first_screen import many

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH")


def browse(tmp_path, html, *options):
    page = tmp_path / "report.html"
    page.write_text(html, encoding="utf-8")
    quiet = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
    )  # fmt: skip
    command = [CHROMIUM, *quiet, *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def test_the_page_renders_under_its_own_policy(data, images, tmp_path):
    html = render_html(data, images=images, reveal=True)
    done = browse(tmp_path, html, "--enable-logging=stderr", "--dump-dom")
    assert '<h2 id="verdict-word">BLOCK</h2>' in done.stdout
    assert done.stdout.count("<details id=") == len(data.measurements)
    assert "Content Security Policy" not in done.stderr


def test_the_policy_stops_a_script_that_got_in(data, tmp_path):
    html = render_html(data).replace(
        "</body>", "<script>document.title = 'ran'</script><p style='color:red'></p></body>"
    )
    done = browse(tmp_path, html, "--enable-logging=stderr", "--dump-dom")
    assert "<title>BLOCK: memorizing" in done.stdout
    assert "Content Security Policy" in done.stderr


def pages(tmp_path, html):
    browse(tmp_path, html, f"--print-to-pdf={tmp_path / 'report.pdf'}", "--no-pdf-header-footer")
    return len(re.findall(rb"/Type /Page\b(?!s)", (tmp_path / "report.pdf").read_bytes()))


def test_printing_unfolds_the_evidence(data, tmp_path):
    html = render_html(data)
    folded = re.sub(r'<div class="inner">.*?</details>', "</details>", html, flags=re.DOTALL)
    assert pages(tmp_path, html) > pages(tmp_path, folded) + 10


def test_the_first_screen_fits_a_phone(tmp_path):
    data = blocked()
    long = replace(data, run=replace(data.run, model=replace(data.run.model, name="m" * 80)))
    page = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", render_html(long))
    asked = "<script>parent.document.title = innerWidth + ' ' + document.documentElement.scrollWidth</script></body>"
    page = escape(page.replace("</body>", asked))  # a window of its own is never narrower than 500 pixels
    frame = f'<title></title><iframe width=375 height=800 srcdoc="{page}"></iframe>'
    done = browse(tmp_path, frame, "--window-size=1200,900", "--dump-dom")
    inner, scrolled = map(int, re.search(r"<title>(\d+) (\d+)</title>", done.stdout).groups())
    assert scrolled <= inner == 375


def test_the_folded_images_are_printed_too(tmp_path):
    html = render_html(many(80))
    folded = re.sub('<details class="more">.*?</details>', "", html, count=1, flags=re.DOTALL)
    assert "30 more images" not in folded
    assert pages(tmp_path, html) > pages(tmp_path, folded)
