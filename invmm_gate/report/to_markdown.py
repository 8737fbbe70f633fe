"""The short summary for a job page or a merge request: Markdown in which foreign text stays text."""

from collections.abc import Sequence
from typing import Final

from invmm_gate.core.records import Confirmation, Measurement
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.evidence import has_labels
from invmm_gate.report import texts
from invmm_gate.report.cleaned import Cleaner, cleaned_findings, cleaner, ranked
from invmm_gate.report.headline import headline
from invmm_gate.report.image_rows import ImageRow, image_rows
from invmm_gate.report.public_records import NOTE
from invmm_gate.report.reach import reach_lines
from invmm_gate.report.studied import studied
from invmm_gate.report.texts import described_baseline
from invmm_gate.report.view import BANNERS, OUTCOMES, banner_reasons, facts, warnings

SIZE_LIMIT: Final = 60_000
"""Bytes; comments are cut at 65,536 characters by the platforms that show them."""
_ROWS: Final = (20, 10, 5, 2, 0)
"""Findings, probes, reasons shown: the first count that fits the limit."""
_TEXT: Final = 300
_NAME: Final = 120
_SENTENCE: Final = 1000
"""Our own sentences, of figures alone."""
_RULES: Final = 8
"""Rules and notes of one image."""
_EFFECTS: Final = {"block": "BLOCK", "inconclusive": "INCONCLUSIVE", "waived": "WAIVED", "none": "–"}
_SYMBOLS: Final = {"pass": "✓", "block": "✕", "inconclusive": "?", "not_judged": "–"}


def render_summary(data: RunData) -> str:
    """summary.md: the verdict, the worst findings and probes; always below 60 kB, never a caption or an image."""
    texts_by_rows = (_summary(data, rows) for rows in _ROWS)
    return next((text for text in texts_by_rows if len(text.encode("utf-8")) < SIZE_LIMIT), _summary(data, 0))


def inert(text: str, limit: int = _TEXT) -> str:
    """Foreign text that Markdown, HTML and a job's log all show as it is: all but letters and digits are entities."""
    shown = texts.visible(texts.shortened(text, limit))
    return "".join(char if char.isalnum() or char in " ,-" else f"&#{ord(char)};" for char in shown)


def _code(text: str) -> str:
    return f"<code>{inert(text, _NAME)}</code>"


def _summary(data: RunData, rows: int) -> str:
    clean = cleaner(data, reveal=False)
    findings = cleaned_findings(data, clean)
    images = image_rows(data, findings, clean)
    parts = [
        _verdict(data, images, clean, rows),
        NOTE if data.public else "",
        _images(data, images, rows),
        _of_run(data, findings, rows),
        _reach(data),
        _facts(data),
        _probes(data, rows),
        _weaknesses(data, rows),
        _identity(data),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict(data: RunData, images: Sequence[ImageRow], clean: Cleaner, rows: int) -> str:
    decision = data.verdict.decision if data.verdict else "not_judged"
    word, said = BANNERS[decision]
    first, *others = (inert(sentence, _SENTENCE) for sentence in headline(data, images))
    lines = [
        f"## {_SYMBOLS[decision]} {word}: {_code(data.run.model.name)}",
        "",
        f"**{first}** {' '.join(others)}".strip(),
    ]
    lines += ["", said]
    reasons = banner_reasons(data.verdict) if data.verdict else ()
    lines += ["", *(f"- {inert(clean(reason))}" for reason in reasons[:rows])] if reasons else []
    lines += _more(len(reasons) - rows, "reason")
    lines += [line for text in warnings(data)[: max(rows, 1)] for line in ("", f"**Warning.** {inert(clean(text))}")]
    return "\n".join(lines)


def _facts(data: RunData) -> str:
    found = facts(data)
    labels = " | ".join(label for label, _ in found)
    figures = " | ".join(figure for _, figure in found)
    return f"| {labels} |\n|{'---|' * len(found)}\n| {figures} |"


def _reach(data: RunData) -> str:
    """What is said of images that are no probes, and what the run could have found."""
    lines = reach_lines(data.verdict, studied(data.run.inputs), labels=has_labels(data.run)) if data.verdict else ()
    return "\n".join(f"- {inert(line, _SENTENCE)}" for line in lines)


def _images(data: RunData, images: Sequence[ImageRow], rows: int) -> str:
    if not images:
        return ""
    head = ["### Images", "", "| Effect | Image | What a user has to do | How often | Rules |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(_image, images[:rows]), *_more(len(images) - rows, "image")])


def _image(row: ImageRow) -> str:
    rules = ", ".join(map(_code, row.rules[:_RULES])) or "–"
    waived = f"<br>waived: {', '.join(map(_code, row.waived[:_RULES]))}" if row.waived else ""
    notes = "".join(f"<br>{inert(note)}" for note in row.notes[:_RULES])
    often = f"{inert(row.often)}<br>{inert(row.score)}"
    return f"| {_EFFECTS[row.state]} | {_code(row.probe)} | {row.to_do} | {often} | {rules}{waived}{notes} |"


def _of_run(data: RunData, findings: Sequence[Finding], rows: int) -> str:
    """Findings that are about no image."""
    if data.verdict and not data.verdict.findings:
        return "No findings."
    found = [finding for finding in findings if finding.probe is None]
    lines = [f"- {finding.effect.upper() if not finding.waiver else 'WAIVED'}: {_said(finding)}" for finding in found]
    return (
        "\n".join(["### Of a group or the whole run", "", *lines[:rows], *_more(len(found) - rows, "finding")])
        if found
        else ""
    )


def _said(finding: Finding) -> str:
    waiver = finding.waiver
    until = f" (waived by {inert(waiver.owner, _NAME)} until {waiver.expires.isoformat()})" if waiver else ""
    return f"{_code(finding.rule)} {inert(finding.message)}{until}"


def _probes(data: RunData, rows: int) -> str:
    if not data.measurements:
        return ""
    confirmed = {item.probe: item for item in data.confirmations}
    head = [
        "### Most memorized probes",
        "",
        "| Probe | Group | Outcome | InvMM | Confirmation |",
        "|---|---|---|---|---|",
    ]
    body = [_probe(item, confirmed.get(item.probe)) for item in ranked(data.measurements)[:rows]]
    return "\n".join(head + body + _more(len(data.measurements) - rows, "probe"))


def _probe(item: Measurement, found: Confirmation | None) -> str:
    confirmation = f"{found.status}, {texts.hits(found.hits, found.trials)}" if found else "–"
    score = texts.measured_score(item)
    return f"| {_code(item.probe)} | {item.group} | {OUTCOMES[item.outcome]} | {score} | {confirmation} |"


def _weaknesses(data: RunData, rows: int) -> str:
    """Where the policy is weaker than the shipped `strict`."""
    found = data.verdict.weaknesses if data.verdict else ()
    if not found:
        return ""
    head = [f"### Where the policy is weaker than strict: {texts.count(len(found))}", ""]
    return "\n".join(head + [f"- {inert(text)}" for text in found[:rows]] + _more(len(found) - rows, "setting"))


def _identity(data: RunData) -> str:
    run, verdict = data.run, data.verdict
    policy = f"{_code(verdict.policy)} {_code(texts.digest(verdict.policy_digest))}" if verdict else "none applied"
    baseline = described_baseline(data)
    against = f" Baseline: {inert(cleaner(data, reveal=False)(baseline))}." if baseline else ""
    return (
        f"Model {_code(texts.digest(run.model.digest))}, policy {policy}, probe set "
        f"{_code(texts.digest(run.probe_set.digest))}, run {_code(run.run_id)}, fingerprint "
        f"{_code(texts.digest(run.fingerprint))}.{against} A probe that was not inverted withstood this search only; "
        "it is not proven safe. The evidence is in report.html."
    )


def _more(rest: int, noun: str) -> list[str]:
    return ["", f"{texts.count(rest)} more {noun}{'s' if rest > 1 else ''} in report.html."] if rest > 0 else []
