"""Which findings are new, fixed, worse, better or as they were between two verdicts under one policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from invmm_gate.core.records import Finding
from invmm_gate.core.run_records import RunData
from invmm_gate.policy.compare.changes import overall
from invmm_gate.policy.compare.comparison import (
    TEST_SAMPLES,
    Breach,
    FindingChange,
    FindingFate,
    ProbeChange,
    Uncompared,
)
from invmm_gate.policy.coverage import METRIC, SELF_CHECK, SETTINGS
from invmm_gate.policy.soundness import RECORDS

REGRESSION: Final = "regression"
"""Not compared: each verdict held its run against a baseline of its own, and the scores here answer that question."""
BELOW_CONTROLS: Final = "below_controls"
"""Not compared across probe sets: the other probes and the controls decide it too."""
_CONFIRMED: Final = "confirmed"
_WHOLE_RUN: Final = frozenset((RECORDS, SELF_CHECK, METRIC, SETTINGS))
"""An open question of these leaves every finding of its run open."""

_Side = Literal["block", "open", "clear"]
_Key = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class _Findings:
    """The findings of one verdict, and what they leave open."""

    found: Mapping[_Key, Sequence[Finding]]
    open_rules: frozenset[str]
    measured: frozenset[str]

    def side(self, key: _Key) -> _Side:
        """Whether the rule blocks here, leaves the question open, or was answered without a breach."""
        rule, probe = key
        here = self.found.get(key, ())
        if any(finding.effect == "block" for finding in here):
            return "block"
        unmeasured = probe is not None and probe not in self.measured
        return "open" if here or unmeasured or self.open_rules & {rule, *_WHOLE_RUN} else "clear"

    def breach(self, key: _Key) -> Breach | None:
        """The first finding of this rule here; waived only if all of them are."""
        here = sorted(self.found.get(key, ()), key=lambda finding: finding.effect != "block")
        if not here:
            return None
        waived = all(finding.waiver is not None for finding in here)
        return Breach(effect=here[0].effect, value=here[0].value, limit=here[0].limit, waived=waived)


def finding_changes(
    before: RunData, after: RunData, probes: Mapping[str, ProbeChange], *, skip: frozenset[str]
) -> tuple[FindingChange, ...]:
    """One change for each rule and probe that either verdict names; `skip` are rules that cannot be compared."""
    old, new = _findings(before, probes, skip), _findings(after, probes, skip)
    keys = sorted(old.found.keys() | new.found.keys(), key=lambda key: (key[0], key[1] or ""))
    return tuple(
        FindingChange(
            rule=rule,
            probe=probe,
            change=_fate(rule, old.side((rule, probe)), new.side((rule, probe)), probes.get(probe or "")),
            before=old.breach((rule, probe)),
            after=new.breach((rule, probe)),
        )
        for rule, probe in keys
    )


def uncompared(after: RunData, probes: Mapping[str, ProbeChange], *, skip: frozenset[str]) -> tuple[Uncompared, ...]:
    """Findings of the second run that `finding_changes` leaves out and no waiver covers.

    Without the open questions of the rule `regression`: a comparison answers by itself what that rule lacks a baseline
    for.
    """
    return tuple(
        Uncompared(
            rule=finding.rule, probe=finding.probe, effect=finding.effect, value=finding.value, limit=finding.limit
        )
        for finding in (after.verdict.findings if after.verdict else ())
        if finding.waiver is None
        and not _is_compared(finding, probes, skip)
        and not (finding.rule == REGRESSION and finding.effect == "inconclusive")
    )


def _is_compared(finding: Finding, probes: Mapping[str, ProbeChange], skip: frozenset[str]) -> bool:
    return finding.rule not in skip and (finding.probe is None or finding.probe in probes)


def _findings(data: RunData, probes: Mapping[str, ProbeChange], skip: frozenset[str]) -> _Findings:
    found: dict[_Key, list[Finding]] = {}
    for finding in data.verdict.findings if data.verdict else ():
        if _is_compared(finding, probes, skip):
            found.setdefault((finding.rule, finding.probe), []).append(finding)
    undecided = (key[0] for key, here in found.items() if key[1] is None and here[0].effect == "inconclusive")
    measured = frozenset(record.probe for record in data.measurements if record.outcome != "error")
    return _Findings(found, frozenset(undecided), measured)


def _fate(rule: str, before: _Side, after: _Side, probe: ProbeChange | None) -> FindingFate:
    if "open" in (before, after):
        return "unknown"
    if before == after:
        return _strength(rule, probe)
    return "new" if after == "block" else "fixed"


def _strength(rule: str, probe: ProbeChange | None) -> FindingFate:
    """A breach on both sides is as much worse as what the rule looks at."""
    if probe is None:
        return "unchanged"
    confirmations = [rate.change for rate in probe.rates if rate.name != TEST_SAMPLES]
    test = [rate.change for rate in probe.rates if rate.name == TEST_SAMPLES]
    if rule == _CONFIRMED:
        return overall(confirmations or ["unknown"])
    return overall([probe.score.change, *test])
