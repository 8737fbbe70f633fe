"""The report in a real browser."""

import re
import shutil
import subprocess

import pytest

from invmm_gate.report.formats import render_html

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


def test_printing_unfolds_the_evidence(data, tmp_path):
    def pages(html):
        browse(tmp_path, html, f"--print-to-pdf={tmp_path / 'report.pdf'}", "--no-pdf-header-footer")
        return len(re.findall(rb"/Type /Page\b(?!s)", (tmp_path / "report.pdf").read_bytes()))

    html = render_html(data)
    folded = re.sub(r'<div class="inner">.*?</details>', "</details>", html, flags=re.DOTALL)
    assert pages(html) > pages(folded) + 10
