"""results.sarif: the findings for code scanning, in SARIF 2.1.0. A finding lies on its probe's line of the manifest."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Final
from urllib.parse import quote

from invmm_gate.core.likelihood_record import Certified
from invmm_gate.core.records import Probe, ProbeSet
from invmm_gate.core.run_records import RunData, identity_of
from invmm_gate.core.verdict_records import Finding
from invmm_gate.core.version import __version__
from invmm_gate.policy.certified_bounds import best_bounds
from invmm_gate.report import texts
from invmm_gate.report.cleaned import Cleaner, cleaned_findings, cleaner
from invmm_gate.report.image_rows import bound_text
from invmm_gate.report.texts import DESCRIPTIONS, description_of
from invmm_gate.report.view import BANNERS

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
RESULTS_LIMIT: Final = 5_000
"""Results that a code-scanning page shows; the worst are kept."""
_MESSAGE: Final = 1_000
_NAME: Final = 160
_LEVELS: Final = {"block": "error", "inconclusive": "warning"}

Json = dict[str, object]


def render_sarif(data: RunData) -> str:
    """The log as JSON; the same records give the same bytes. No caption, no prompt and no absolute path is in it."""
    log: Json = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(data)]}
    return json.dumps(log, allow_nan=False, ensure_ascii=False, indent=2) + "\n"


def plain(text: str, limit: int = _MESSAGE) -> str:
    """Foreign text that a viewer shows as it is: a SARIF message has links in brackets and placeholders in braces."""
    shown = texts.visible(texts.shortened(text, limit))
    return shown.replace("](", "] (").replace("{", "{{").replace("}", "}}")


def _run(data: RunData) -> Json:
    clean = cleaner(data, reveal=False)
    found = cleaned_findings(data, clean)
    shown = found[:RESULTS_LIMIT]
    rules = list(dict.fromkeys((*DESCRIPTIONS, *(_rule_id(item) for item in shown))))
    return {
        "tool": {"driver": _driver(rules)},
        "automationDetails": {"id": f"invmm-gate/{_segment(data.run.model.name)}/"},
        "invocations": [_invocation(data, clean, left_out=len(found) - len(shown))],
        "results": list(_results(data, shown, rules)),
        "columnKind": "unicodeCodePoints",
        "properties": _identity(data),
    }


def _driver(rules: Sequence[str]) -> Json:
    return {
        "name": "invmm-gate",
        "semanticVersion": __version__,
        "informationUri": "https://arxiv.org/abs/2405.05846",
        "rules": [_rule(name) for name in rules],
    }


def _rule(name: str) -> Json:
    text = description_of(name)
    return {
        "id": name,
        "shortDescription": {"text": text.short},
        "fullDescription": {"text": text.full},
        "help": {"text": text.help},
        "properties": {"security-severity": text.severity, "tags": ["security", "privacy", "memorization"]},
    }


def _rule_id(finding: Finding) -> str:
    return plain(finding.rule, _NAME)


def _results(data: RunData, findings: Sequence[Finding], rules: Sequence[str]) -> Iterator[Json]:
    probes = {probe.id: probe for probe in data.run.probe_set.probes}
    index = {name: number for number, name in enumerate(rules)}
    clean, seen, bounds = cleaner(data, reveal=False), Counter[str](), best_bounds(data)
    for finding in findings:
        rule, probe = _rule_id(finding), probes.get(finding.probe or "")
        key = _fingerprint(finding, data)
        seen[key] += 1
        yield {
            "ruleId": rule,
            "ruleIndex": index[rule],
            "level": "note" if finding.waiver else _LEVELS.get(finding.effect, "error"),
            "message": {"text": _message(finding)},
            "locations": [_location(data.run.probe_set, probe)],
            "partialFingerprints": {"primaryLocationLineHash": f"{key}:{seen[key]}"},
            **_suppressions(finding, clean),
            "properties": _figures(finding, probe) | _likelihood(bounds.get(finding.probe or "")),
        }


def _fingerprint(finding: Finding, data: RunData) -> str:
    """The same for the same breach in every run, whatever its score and wherever its line moved."""
    policy = data.verdict.policy if data.verdict else ""
    said = json.dumps([finding.rule, finding.probe, policy, *([finding.group] if finding.group else [])])
    return hashlib.sha256(said.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _message(finding: Finding) -> str:
    named = finding.probe is None or finding.probe in finding.message
    return plain(finding.message if named else f"{finding.probe}: {finding.message}") or "no message"


def _location(probe_set: ProbeSet, probe: Probe | None) -> Json:
    """The probe's line; the first line of the manifest where the whole run, or no known probe, is meant."""
    line = max(probe.line, 1) if probe else 1
    return {"physicalLocation": {"artifactLocation": {"uri": _manifest(probe_set)}, "region": {"startLine": line}}}


def _manifest(probe_set: ProbeSet) -> str:
    """Relative, as code scanning asks; of a folder elsewhere only the last part, as its place is nobody's business."""
    folder = PurePath(probe_set.folder)
    inside = not folder.is_absolute() and ".." not in folder.parts
    kept = folder.parts if inside else folder.parts[-1:]
    names = (name for name in (*kept, probe_set.manifest) if name not in ("..", folder.anchor))
    return "/".join(_segment(name) for name in names)


def _segment(text: str) -> str:
    return quote(texts.visible(texts.shortened(text, _NAME)), safe="") or "unnamed"


def _suppressions(finding: Finding, clean: Cleaner) -> Json:
    waiver = finding.waiver
    if waiver is None:
        return {}
    said = f"waived by {waiver.owner} until {waiver.expires.isoformat()}: {waiver.reason}"
    return {"suppressions": [{"kind": "external", "status": "accepted", "justification": plain(clean(said))}]}


def _figures(finding: Finding, probe: Probe | None) -> Json:
    numbers = {"value": finding.value, "limit": finding.limit}
    named = {"probe": finding.probe, "group": probe.group if probe else finding.group}
    return {name: plain(text, _NAME) for name, text in named.items() if text} | {
        name: value for name, value in numbers.items() if value is not None and math.isfinite(value)
    }


def _likelihood(bound: Certified | None) -> Json:
    """How often the image comes out at least, and what has to be given."""
    if bound is None:
        return {}
    return {"promptKind": bound.kind, "likelihoodNats": bound.nats, "likelihood": bound_text(bound)}


def _invocation(data: RunData, clean: Cleaner, *, left_out: int) -> Json:
    decision = data.verdict.decision if data.verdict else "not_judged"
    exit_code: Json = {"exitCode": data.verdict.exit_code} if data.verdict else {}
    began = texts.utc(data.run.created_at)
    return {
        "executionSuccessful": decision in ("pass", "block"),
        **exit_code,
        "exitCodeDescription": BANNERS[decision][0],
        **({"startTimeUtc": f"{began}Z"} if began else {}),
        "toolExecutionNotifications": list(_notifications(data, clean, decision, left_out)),
    }


def _notifications(data: RunData, clean: Cleaner, decision: str, left_out: int) -> Iterator[Json]:
    """What a reader must not miss even where no result is shown."""
    if decision not in ("pass", "block"):
        word, headline = BANNERS[decision]
        yield _notification("error", f"{word}: {headline}")
        yield from (_notification("error", clean(reason)) for reason in (data.verdict.reasons if data.verdict else ()))
    for text in data.verdict.weaknesses if data.verdict else ():
        yield _notification("note", f"the policy is weaker than strict: {text}")
    if left_out > 0:
        yield _notification("warning", f"{left_out} more findings are left out here; all are in verdict.json")


def _notification(level: str, text: str) -> Json:
    return {"level": level, "message": {"text": plain(text) or "no message"}}


def _identity(data: RunData) -> Json:
    return {_camel(name): plain(text, _NAME) for name, text in identity_of(data).texts().items()}


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))
