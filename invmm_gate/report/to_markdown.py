"""The short summary for a job page or a merge request: Markdown in which foreign text stays text."""

from typing import Final

from invmm_gate.core.records import Confirmation, Measurement
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Finding
from invmm_gate.report import texts
from invmm_gate.report.cleaned import Cleaner, cleaned_findings, cleaner, ranked
from invmm_gate.report.public_records import NOTE
from invmm_gate.report.reach import reach_lines
from invmm_gate.report.texts import described_baseline
from invmm_gate.report.view import BANNERS, OUTCOMES, facts, warnings

SIZE_LIMIT: Final = 60_000
"""Bytes; comments are cut at 65,536 characters by the platforms that show them."""
_ROWS: Final = (20, 10, 5, 2, 0)
"""Findings, probes, reasons shown: the first count that fits the limit."""
_TEXT: Final = 300
_NAME: Final = 120
_SENTENCE: Final = 1000
"""Our own sentences, of figures alone."""
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
    parts = [
        _verdict(data, clean, rows),
        NOTE if data.public else "",
        _facts(data),
        _reach(data),
        _findings(data, clean, rows),
        _probes(data, rows),
        _weaknesses(data, rows),
        _identity(data),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict(data: RunData, clean: Cleaner, rows: int) -> str:
    decision = data.verdict.decision if data.verdict else "not_judged"
    word, headline = BANNERS[decision]
    lines = [f"## {_SYMBOLS[decision]} {word}: {_code(data.run.model.name)}", "", headline]
    reasons = data.verdict.reasons if data.verdict else ()
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
    return "\n".join(f"- {inert(line, _SENTENCE)}" for line in reach_lines(data.verdict)) if data.verdict else ""


def _findings(data: RunData, clean: Cleaner, rows: int) -> str:
    found = cleaned_findings(data, clean)
    if not found:
        return "No findings." if data.verdict else ""
    head = ["### Findings", "", "| Effect | Rule | Probe | What was found |", "|---|---|---|---|"]
    body = [_finding(finding) for finding in found[:rows]]
    return "\n".join(head + body + _more(len(found) - rows, "finding"))


def _finding(finding: Finding) -> str:
    message = inert(finding.message)
    effect = finding.effect.upper()
    if finding.waiver:
        effect = "WAIVED"
        owner, reason = inert(finding.waiver.owner, _NAME), inert(finding.waiver.reason)
        message += f"<br>Waived by {owner} until {finding.waiver.expires.isoformat()}: {reason}"
    about = _code(finding.probe) if finding.probe else texts.subject(finding.group)
    return f"| {effect} | {_code(finding.rule)} | {about} | {message} |"


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
