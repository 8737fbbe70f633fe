import base64
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from invmm_gate.core.errors import GateError
from invmm_gate.report import templates
from invmm_gate.report.formats import FORMATS, render_html
from invmm_gate.report.templates import ReportImages
from tests.report.conftest import (
    CAPTION,
    CONFIRMATIONS,
    FINDINGS,
    FOLDER,
    MEASUREMENTS,
    SOURCE,
    WAIVER,
    finding,
    png,
    trial,
    verdict,
)

HOSTILE = (
    "<script>alert(1)</script>",
    "</style><script src=https://evil.example/x.js></script>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)' x='",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "javascript:alert(1)",
    "<a href='javascript:alert(1)'>x</a>",
    "<iframe src=//evil.example>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "\x1b[31mred\x1b[0m \x1b]8;;https://evil.example\x07link\x1b]8;;\x07",
    "safe\u202egnp.exe \u2066hidden\u2069 \u200bzero",
    "::set-output name=verdict::pass",
    "[click](https://evil.example) ![x](https://evil.example/y.png) | **bold** `code`",
    "=cmd|'/c calc'!A1",
    "a\x00b\x85c\u2028d\ud800e",
    "-->]]><!--",
    "&lt;script&gt;&#x3c;b&#62;",
)


class Page(HTMLParser):
    """What a browser would find dangerous in a page, and the text that it shows."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.bad, self.texts, self.images, self.ids, self.links = [], [], [], [], [], []
        self.metas = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        names = dict(attrs)
        if tag in {"script", "iframe", "object", "embed", "base", "form", "link", "audio", "video", "foreignobject"}:
            self.bad.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name in {"style", "srcdoc", "srcset", "action", "formaction", "xlink:href"}:
                self.bad.append((tag, name))
            if name == "src" and not re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", value or ""):
                self.bad.append((tag, name, value))
            if name == "href" and not re.fullmatch(r"#[a-z0-9-]+", value or ""):
                self.bad.append((tag, name, value))
        self.ids += [names["id"]] if "id" in names else []
        self.links += [names["href"][1:]] if tag == "a" and names.get("href", "").startswith("#") else []
        self.images += [names["src"]] if tag == "img" else []
        if tag == "meta":
            self.metas[names.get("http-equiv") or names.get("name") or "charset"] = names.get("content", "")

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def poisoned(data, text):
    """The run with the text in every field that a stranger can fill."""
    run = data.run
    found = finding(
        text, rule=text, message=text, waiver=replace(WAIVER, reason=text, owner=text, probe=text, rule=text)
    )
    item = replace(
        MEASUREMENTS[0], probe=text, category=text, reason=text, trials=(trial("error", None, 0, 50, reason=text),)
    )
    judged = verdict(findings=(found,), reasons=(text,), policy=text, policy_digest=text)
    judged = replace(judged, waivers=tuple(replace(entry, waiver=found.waiver) for entry in judged.waivers))
    probe = replace(run.probe_set.probes[0], id=text, caption=text, source=text, cluster=text, category=text)
    return replace(
        data,
        run=replace(
            run,
            run_id=text,
            fingerprint=text,
            created_at=text,
            model=replace(
                run.model, name=text, pipeline=text, digest=text, pickles=(text,), adapters=(text,),
                not_loaded=(text,), left_out=(text,), files=(replace(run.model.files[0], path=text, sha256=text),),
            ),
            probe_set=replace(run.probe_set, probes=(probe,), digest=text),
            metric=replace(run.metric, name=text, unfit=text, digest=text),
            inputs=replace(run.inputs, profile=text, device=text, versions={text: text}),
            context=replace(run.context, command=text, truncated_captions={text: 1}),
        ),
        self_checks=(replace(data.self_checks[0], name=text, detail=text, passed=False),),
        measurements=(item,),
        confirmations=(replace(data.confirmations[0], probe=text, method=text, prompt=text),),
        verdict=judged,
    )  # fmt: skip


def assert_inert(html, hostile=""):
    page = Page(html)
    assert page.bad == []
    assert page.tags.count("style") == 1
    assert page.tags.count("html") == page.tags.count("body") == 1
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", html), (
        hostile
    )
    return page


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("reveal", [False, True])
def test_hostile_text_stays_text(data, text, reveal):
    assert_inert(render_html(poisoned(data, text), reveal=reveal), text)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(), min_size=1, max_size=60))
def test_any_text_stays_text(data, text):
    assert_inert(render_html(poisoned(data, text), reveal=True), text)


def test_the_page_loads_nothing_and_runs_nothing(data, images):
    html = render_html(data, images=images, reveal=True)
    page = assert_inert(html)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1)
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = page.metas["Content-Security-Policy"]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{allowed}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert re.findall(r"url\(|@import|https?:", style) == []


def test_every_link_leads_somewhere_and_no_id_is_used_twice(data, images):
    page = Page(render_html(data, images=images))
    assert len(page.ids) == len(set(page.ids))
    assert set(page.links) <= set(page.ids)


def test_a_redacted_report_holds_no_pixel_caption_path_source_or_prompt(data, images):
    leaky = f"cannot decode {FOLDER}/planted32-00.png ({CAPTION})"
    data = replace(
        data,
        measurements=(replace(MEASUREMENTS[0], outcome="error", reason=leaky), *MEASUREMENTS[1:]),
        confirmations=(replace(data.confirmations[0], prompt="canary prompt of gcg"),),
        verdict=verdict(findings=(*FINDINGS, finding("face-00", message=leaky)), reasons=(leaky,)),
    )
    html = render_html(data, images=images)
    for canary in (CAPTION, SOURCE, FOLDER, "canary prompt of gcg", "/srv/private/probes"):
        assert canary not in html
    assert "data:image" not in html
    for picture in (*images.probes.values(), *images.copies["planted32-00"]):
        assert base64.b64encode(picture).decode()[40:80] not in html
    assert data.run.probe_set.probes[0].sha256 not in html
    page = Page(html)
    assert page.images == []
    assert "Generated copy 1 planted32-00, 16 × 16 pixels, redacted" in page.text
    assert page.metas["invmm-gate-redacted"] == "yes"


def test_a_revealed_report_shows_images_and_captions_and_says_so(data, images):
    html = render_html(data, images=images, reveal=True)
    page = Page(html)
    assert len(page.images) == len(MEASUREMENTS) + 3
    assert base64.b64encode(images.probes["face-00"]).decode() in html
    assert CAPTION in html
    assert "This copy shows private images" in html
    assert page.metas["invmm-gate-redacted"] == "no"
    assert 'class="pixelated"' in html
    assert 'class="smooth"' in html


def test_bytes_that_are_not_a_png_are_not_embedded(data):
    images = ReportImages(probes={"planted32-00": b"GIF89a <script>", "face-00": b""})
    html = render_html(data, images=images, reveal=True)
    assert Page(html).images == []
    assert "not a PNG file" in html


def test_a_report_stays_small_enough_to_open(data):
    big = png(side=64) + b"\0" * 9 * 2**20
    html = render_html(
        data, images=ReportImages(probes=dict.fromkeys(["planted32-00", "planted32-01"], big)), reveal=True
    )
    assert len(Page(html).images) == 1
    assert "left out: the report would grow too large" in html


def test_the_same_records_give_the_same_bytes(data, images):
    assert render_html(data, images=images, reveal=True) == render_html(data, images=images, reveal=True)


def test_the_order_of_the_records_does_not_change_the_report(data):
    turned = replace(data, measurements=data.measurements[::-1])
    assert render_html(turned) == render_html(data)


@pytest.mark.parametrize(
    ("decision", "word"), [("pass", "PASS"), ("block", "BLOCK"), ("inconclusive", "INCONCLUSIVE"), (None, "NOT JUDGED")]
)
def test_the_verdict_is_a_word_in_title_and_banner(data, decision, word):
    html = render_html(replace(data, verdict=verdict(decision) if decision else None))
    assert f'<h2 id="verdict-word">{word}</h2>' in html
    assert f"<title>{word}: memorizing" in html


def test_each_outcome_is_shown(data):
    text = Page(render_html(data)).text
    assert "above 0.0610" in text
    assert "not inverted (15 of 24)" in text
    assert "denoising error is NaN" in text
    assert "0.0101 0.0090 to 0.0112 over 3 seeds" in text
    assert "confirmed 6 of 512 (0.4 % to 2.5 %)" in text
    assert "Not confirmed within the budget (this does not clear the probe)" in text


def test_how_the_probe_lies_in_the_closest_sample_is_shown(data):
    moved = replace(CONFIRMATIONS[0], alignment="mirrored, moved by 1, 0 pixels")
    text = Page(render_html(replace(data, confirmations=(moved,)))).text
    assert "closest sample 0.0410, where the probe lies mirrored, moved by 1, 0 pixels" in text
    assert "where the probe lies" not in Page(render_html(data)).text


def test_probes_come_most_memorized_first_and_errors_last(data):
    html = render_html(data).partition('<section id="probes">')[2]
    order = re.findall(r'<a href="#probe-\d+">([^<]+)</a>', html)
    assert order[:3] == ["planted32-00", "planted32-01", "planted32-02"]
    assert order.index("planted08-06") < order.index("planted08-05") < order.index("planted08-01")
    assert order.index("planted08-01") < order.index("control-00")
    assert order[-1] == "face-01"
    assert len(order) == len(MEASUREMENTS)


def test_waived_findings_stay_with_owner_reason_and_expiry(data):
    text = Page(render_html(data)).text
    assert "WAIVED" in text
    assert "Waived by d.okafor until 2026-12-31: Licensed stock image" in text
    assert "expired probe old-17 d.okafor 2026-03-01" in text


def test_limits_of_the_verdict_are_stated_even_for_a_pass(data):
    text = Page(render_html(replace(data, verdict=verdict("pass", findings=())))).text
    assert "Absence is not evidence." in text
    assert "altered to hide memorization" in text
    assert "Scores compare only under one profile (here: gate)" in text
    assert "carries no signature" in text


def test_what_makes_a_run_untrustworthy_is_a_warning(data):
    model = replace(
        data.run.model,
        weights="ema",
        pickles=("unet/weights.bin",),
        left_out=("unet/config.json",),
        adapters=("style.safetensors",),
        not_loaded=("safety_checker",),
    )
    run = replace(data.run, model=model, metric=replace(data.run.metric, unfit="too coarse below 64 pixels"))
    checks = (replace(data.self_checks[0], passed=False),)
    text = Page(render_html(replace(data, run=run, self_checks=checks, measurements=data.measurements[1:]))).text
    assert "--allow-pickle was given: unet/weights.bin" in text
    assert "1 LoRA adapters are part of what was scored" in text
    assert "not loaded, so its effect was not measured: safety_checker" in text
    assert "Only the ema weights were scored" in text
    assert "checkpoint's unet/ is not covered" in text
    assert "too coarse below 64 pixels" in text
    assert "Failed self checks: positive control" in text
    assert "1 probes of the set have not been measured" in text


def test_settings_and_digests_are_complete(data):
    text = Page(render_html(data)).text
    for value in (data.run.model.digest, data.verdict.policy_digest, data.run.probe_set.digest, data.run.fingerprint):
        assert value in text
    assert "settings.learning_rate 0.1" in text
    assert "versions.torch 2.13.0" in text


def test_an_empty_run_still_gives_a_report(data):
    empty = replace(data, measurements=(), confirmations=(), self_checks=(), seconds={}, verdict=None)
    text = assert_inert(render_html(empty)).text
    assert "No probe has been measured." in text
    assert "a broken measure looks like a safe model" in text


def test_odd_numbers_are_drawn_without_an_error(data):
    first, course = MEASUREMENTS[0].trials[0], MEASUREMENTS[0].trials[0].curve
    broken = tuple(replace(point, normality=float("nan"), weight=0.0) for point in course)
    odd = (
        replace(MEASUREMENTS[0], probe="zero", invmm=0.0, invmm_spread=(0.0, 0.0)),
        replace(MEASUREMENTS[0], probe="tiny", invmm=1e-12),
        replace(MEASUREMENTS[0], probe="large", invmm=9e9, share=None),
        replace(MEASUREMENTS[0], probe="one-point", trials=(replace(first, curve=course[:1]),)),
        replace(MEASUREMENTS[0], probe="no-curve", trials=(replace(first, curve=()),)),
        replace(MEASUREMENTS[0], probe="broken", trials=(replace(first, curve=broken),)),
    )
    html = render_html(replace(data, measurements=odd), limit=0.03)
    assert_inert(html)
    drawn = re.findall(r' (?:points|cx|cy|x1|x2|y1|y2|width|height|viewBox)="([^"]*)"', html)
    assert len(drawn) > 500
    assert all(re.fullmatch(r"[-0-9., ]+", place) for place in drawn)
    assert "policy limit 0.0300" in html


def test_a_large_run_lists_all_probes_and_details_the_worst(data):
    many = tuple(replace(MEASUREMENTS[0], probe=f"p-{n:04d}", invmm=0.01 + n / 1e4) for n in range(700))
    html = render_html(replace(data, measurements=many, verdict=verdict(findings=(finding("p-0699"),))))
    assert len(re.findall(r"<details id=", html)) == 201
    assert 'id="probe-700"' in html
    assert "The other 499 are in measurements.jsonl" in html
    assert len(html) < 8_000_000


def test_rendering_needs_neither_torch_nor_mlflow():
    heavy = "{'torch', 'mlflow', 'diffusers', 'pandas'}"
    code = f"import sys, invmm_gate.report.formats; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_each_format_names_its_file(data):
    assert {name: made.file for name, made in FORMATS.items()} == {
        "html": "report.html",
        "markdown": "summary.md",
        "sarif": "results.sarif",
        "junit": "junit.xml",
        "csv": "scores.csv",
        "parquet": "scores.parquet",
    }
    for made in FORMATS.values():
        rendered = made.render(data, ReportImages(), False)
        assert (b"planted32-00" if isinstance(rendered, bytes) else "planted32-00") in rendered


def test_a_missing_template_is_named_with_what_to_do():
    with pytest.raises(GateError, match=r"template gone\.css is missing.*install invmm-gate again"):
        templates.template("gone.css")


def test_templates_come_from_the_wheel_where_there_is_one(tmp_path, monkeypatch):
    (tmp_path / "_data" / "templates").mkdir(parents=True)
    (tmp_path / "_data" / "templates" / "report.css").write_text("body{}\r\n")
    monkeypatch.setattr(templates.resources, "files", lambda _package: tmp_path)
    assert templates.template("report.css") == "body{}\n"


def test_how_a_probe_was_fitted_is_shown_to_whom_its_file_is_shown(data):
    first, *others = data.run.probe_set.probes
    probe_set = replace(data.run.probe_set, probes=(replace(first, fit="squeeze"), *others))
    fitted = replace(data, run=replace(data.run, probe_set=probe_set))
    assert "Fitted to the model's size squeeze" in Page(render_html(fitted, reveal=True)).text
    assert "Fitted to" not in Page(render_html(fitted, reveal=False)).text
    assert "Fitted to" not in Page(render_html(data, reveal=True)).text
