"""junit.xml: the verdict for test dashboards, one test case a probe.

At most one outcome a case, as the strictest of the common schemas asks (Windy Road's, of Ant's JUnit tasks): a failure
lists every finding of its probe.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal
from xml.etree import ElementTree

from invmm_gate.core.records import Measurement
from invmm_gate.core.run_records import RunData, identity_of
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.certified_bounds import best_bounds
from invmm_gate.report import texts
from invmm_gate.report.cleaned import Cleaner, cleaned_findings, cleaner
from invmm_gate.report.image_rows import bound_text
from invmm_gate.report.view import BANNERS

Outcome = Literal["passed", "failure", "error", "skipped"]

RUN_RULES: Final = ("self_check", "records", "metric", "settings", "coverage")
"""Test cases of the whole run that are always there, beside those of other rules that found something in it."""
_MESSAGE: Final = 1_000
_NAME: Final = 160
_UNKNOWN_TIME: Final = "1970-01-01T00:00:00"
_VERDICTS: Final[dict[str, Outcome]] = {"pass": "passed", "block": "failure"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test case."""

    kind: str
    """Class name: `probes.<group>`, `self_checks` or `run`."""
    name: str
    outcome: Outcome
    messages: tuple[str, ...] = ()
    """What was found, the first being the headline."""
    rule: str = ""
    seconds: float = 0.0


def render_junit(data: RunData) -> str:
    """The suite as XML; the same records give the same bytes. Nothing that is not a pass is a passed case."""
    clean = cleaner(data, reveal=False)
    cases = cases_of(data)
    counts = Counter(case.outcome for case in cases)
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=_token(f"invmm-gate {data.run.model.name}"),
        package="invmm_gate",
        id="0",
        timestamp=texts.utc(data.run.created_at) or _UNKNOWN_TIME,
        hostname="localhost",
        tests=str(len(cases)),
        failures=str(counts["failure"]),
        errors=str(counts["error"]),
        skipped=str(counts["skipped"]),
        time=_seconds(sum(case.seconds for case in cases)),
    )
    _properties(suite, data)
    for case in cases:
        _add(suite, case)
    ElementTree.SubElement(suite, "system-out").text = _listed(_said(data, clean))
    ElementTree.SubElement(suite, "system-err")
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def cases_of(data: RunData) -> tuple[Case, ...]:
    """The verdict itself, what is of the whole run, the self-checks, and every probe of the set."""
    clean = cleaner(data, reveal=False)
    findings = cleaned_findings(data, clean)
    cases = (_verdict(data), *_run_cases(data, findings), *_self_checks(data), *_probes(data, findings))
    return tuple(replace(case, messages=tuple(map(clean, case.messages))) for case in cases)


def _verdict(data: RunData) -> Case:
    """Not passed unless the gate passed, whatever the other cases say."""
    decision = data.verdict.decision if data.verdict else "not_judged"
    outcome = _VERDICTS.get(decision, "error")
    said = () if outcome == "passed" else (": ".join(BANNERS[decision]),)
    return Case(kind="run", name="verdict", outcome=outcome, messages=said, rule=decision)


def _run_cases(data: RunData, findings: Sequence[Finding]) -> Iterator[Case]:
    if data.verdict is None:
        return
    found = [item for item in findings if item.probe is None]
    for rule in dict.fromkeys((*RUN_RULES, *(item.rule for item in found))):
        own = [item for item in found if item.rule == rule]
        yield Case(kind="run", name=rule, outcome=_outcome(own), messages=_messages(own), rule=rule)


def _self_checks(data: RunData) -> Iterator[Case]:
    for check in data.self_checks:
        outcome: Outcome = "passed" if check.passed else "error"
        said = () if check.passed else (check.detail or "failed",)
        yield Case(kind="self_checks", name=check.name, outcome=outcome, messages=said, rule="self_check")


def _probes(data: RunData, findings: Sequence[Finding]) -> Iterator[Case]:
    measured = {item.probe: item for item in data.measurements}
    found = defaultdict(list)
    for item in findings:
        found[item.probe].append(item)
    groups: dict[str, str] = {probe.id: probe.group for probe in data.run.probe_set.probes}
    groups |= {item.probe: item.group for item in data.measurements}
    groups |= {probe: "unlisted" for probe in found if probe is not None and probe not in groups}
    bounds = best_bounds(data)
    for probe, group in groups.items():
        own = found[probe]
        outcome, messages = _judged(own, measured.get(probe), judged=data.verdict is not None)
        bound = bounds.get(probe) if own else None
        yield Case(
            kind=f"probes.{group}",
            name=probe,
            outcome=outcome,
            messages=(*messages, *([f"comes out of {bound_text(bound)}"] if bound else [])),
            rule=next((item.rule for item in own), "coverage"),
            seconds=data.seconds.get(probe, 0.0),
        )


def _judged(own: Sequence[Finding], measured: Measurement | None, *, judged: bool) -> tuple[Outcome, tuple[str, ...]]:
    """A probe without a finding has passed only where it was measured and the policy was applied."""
    if own:
        return _outcome(own), _messages(own)
    if measured is None:
        return "error", ("was not measured",)
    if measured.outcome == "error":
        reason = measured.reason or "no reason given"
        return ("skipped", (f"broke, which the policy allows for: {reason}",)) if judged else ("error", (reason,))
    return ("passed", ()) if judged else ("skipped", ("no policy has been applied",))


def _outcome(findings: Sequence[Finding]) -> Outcome:
    counting = {item.effect for item in findings if item.waiver is None}
    if "block" in counting:
        return "failure"
    if counting:
        return "error"
    return "skipped" if findings else "passed"


def _messages(findings: Sequence[Finding]) -> tuple[str, ...]:
    return tuple(_message(item) for item in findings)


def _message(finding: Finding) -> str:
    waiver = finding.waiver
    said = f"{finding.rule}: {finding.message}"
    if waiver is None:
        return said
    return f"{said} (waived by {waiver.owner} until {waiver.expires.isoformat()}: {waiver.reason})"


def _add(suite: ElementTree.Element, case: Case) -> None:
    element = ElementTree.SubElement(
        suite,
        "testcase",
        classname=_token(f"invmm_gate.{case.kind}"),
        name=_token(case.name),
        time=_seconds(case.seconds),
    )
    if case.outcome == "passed":
        return
    shown = [texts.visible(texts.shortened(text, _MESSAGE)) for text in case.messages]
    kind: dict[str, str] = {} if case.outcome == "skipped" else {"type": _token(case.rule)}
    ElementTree.SubElement(element, case.outcome, kind | {"message": shown[0]}).text = _listed(shown)


def _properties(suite: ElementTree.Element, data: RunData) -> None:
    said = identity_of(data).texts() | ({"exit_code": str(data.verdict.exit_code)} if data.verdict else {})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in said.items():
        ElementTree.SubElement(properties, "property", name=name, value=texts.visible(texts.shortened(value, _NAME)))


def _said(data: RunData, clean: Cleaner) -> Iterator[str]:
    yield ": ".join(BANNERS[data.verdict.decision if data.verdict else "not_judged"])
    for reason in data.verdict.reasons if data.verdict else ():
        yield texts.visible(texts.shortened(clean(reason), _MESSAGE))
    for text in data.verdict.weaknesses if data.verdict else ():
        yield texts.visible(texts.shortened(f"the policy is weaker than strict: {text}", _MESSAGE))


def _listed(lines: Iterable[str]) -> str:
    """No line begins with foreign text: a job's log would read `::` there as a command."""
    return "\n".join(f"- {line}" for line in lines)


def _token(text: str) -> str:
    """One line without outer or doubled spaces, as the schema's names are; never empty."""
    return " ".join(texts.visible(texts.shortened(text, _NAME)).split()) or "unnamed"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) and value >= 0 else "0.000"
