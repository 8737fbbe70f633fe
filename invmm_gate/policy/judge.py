"""`judge`: records and policy in, verdict out. Pure, and closed: what is not shown to be fine does not pass."""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from invmm_gate.core.records import (
    CAPTION,
    CAPTION_ON_GRID,
    LABEL,
    LABEL_ON_GRID,
    PLAIN_SAMPLING,
    PLAIN_SAMPLING_ON_GRID,
    Measurement,
)
from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Finding, Verdict, Waiver
from invmm_gate.policy.confirm_schema import PlainSampling, PromptConfirmation
from invmm_gate.policy.control_searches import base_rate, required_searches, search_of
from invmm_gate.policy.controls import as_for_probes, control_findings, likelihood_rules
from invmm_gate.policy.coverage import (
    COVERAGE,
    SETTINGS,
    contradictory_likelihoods,
    contradictory_scores,
    coverage_findings,
    failed_self_checks,
    run_findings,
    self_check_findings,
)
from invmm_gate.policy.evidence import (
    Evidence,
    dimensions_of,
    has_labels,
    has_prompts,
    names,
    same_probe,
    scope_of,
    undecided,
)
from invmm_gate.policy.reach import Limits, extractable_share, power_of
from invmm_gate.policy.reasons import counts_of, decide, reasons_for, waiver_notes
from invmm_gate.policy.rules.confirmed import ConfirmedConfig
from invmm_gate.policy.rules.invmm_below import InvmmBelow
from invmm_gate.policy.rules.known import rule_for
from invmm_gate.policy.schema import Policy
from invmm_gate.policy.soundness import (
    RECORDS,
    record_findings,
    sound_confirmations,
    sound_likelihoods,
    sound_measurements,
)
from invmm_gate.policy.usable import prompt_faults, rule_faults
from invmm_gate.policy.waivers import WaiverTerms, apply_waivers, waiver_states
from invmm_gate.policy.weaknesses import weaknesses

VERDICT_SCHEMA_VERSION: Final = 1


def judge(
    data: RunData,
    policy: Policy,
    waivers: Sequence[Waiver],
    *,
    today: datetime.date,
    baseline: RunData | None = None,
) -> Verdict:
    """Pass, block or inconclusive. Same records, policy, waivers and day in, same verdict out.

    Inconclusive if a self-check failed or is missing, whatever else; else block if any block finding is not waived;
    else inconclusive if anything could not be decided; else pass. `baseline`: the last approved run.
    """
    evidence = gather(data, policy, baseline=baseline)
    day = day_of_judging(data, today)
    terms = WaiverTerms(
        model=data.run.model.digest,
        today=day,
        approval=policy.waivers == "approved",
        images={probe.id: probe.sha256 for probe in data.run.probe_set.probes},
    )
    findings = _with_waivers(data, policy, evidence, baseline, waivers, terms)
    states = waiver_states(findings, waivers, terms)
    limits = Limits(score=InvmmBelow(as_for_probes(policy, evidence.dimensions)), likelihood=likelihood_rules(policy))
    decision = decide(findings)
    return Verdict(
        schema_version=VERDICT_SCHEMA_VERSION,
        decision=decision,
        reasons=(*reasons_for(decision, findings), *waiver_notes(states)),
        findings=findings,
        waivers=states,
        policy=policy.name,
        policy_digest=policy.digest,
        model_digest=data.run.model.digest,
        probe_set_digest=data.run.probe_set.digest,
        fingerprint=data.run.fingerprint,
        judged_on=today,
        counts=counts_of(data, findings),
        records=dict(data.digests),
        tested=scope_of(data, policy.digest),
        weaknesses=weaknesses(policy),
        extractable=extractable_share(evidence, limits),
        power=power_of(evidence, limits),
        base_rate=base_rate(evidence),
    )


def _with_waivers(
    data: RunData,
    policy: Policy,
    evidence: Evidence,
    baseline: RunData | None,
    waivers: Sequence[Waiver],
    terms: WaiverTerms,
) -> tuple[Finding, ...]:
    """All findings, each with its waiver. A group is judged without the images that waivers accept."""
    found = tuple(_stopped_findings(data)) or tuple(_findings(data, policy, evidence, baseline))
    findings = apply_waivers(found, waivers, terms)
    waived = {item.probe for item in findings if item.probe and item.waiver}
    accepted = waived - {item.probe for item in findings if item.effect == "block" and item.waiver is None}
    if not accepted:
        return findings
    without = replace(evidence, accepted=frozenset(accepted))
    return apply_waivers(tuple(_findings(data, policy, without, baseline)), waivers, terms)


def _stopped_findings(data: RunData) -> Iterator[Finding]:
    """Where failed self-checks kept everything from being measured: these alone, as all else follows from them."""
    failed = list(failed_self_checks(data))
    if failed and not (data.measurements or data.confirmations):
        yield from failed
        yield undecided(COVERAGE, "no probe was measured, as a self-check failed")


def _findings(data: RunData, policy: Policy, evidence: Evidence, baseline: RunData | None) -> Iterator[Finding]:
    yield from self_check_findings(data)
    yield from contradictory_likelihoods(evidence.likelihoods)
    yield from contradictory_scores(evidence, data.run.inputs.settings)
    yield from record_findings(data)
    yield from _baseline_findings(baseline)
    yield from _date_findings(data)
    yield from run_findings(data.run, policy)
    yield from (
        undecided(SETTINGS, fault)
        for fault in (
            *rule_faults(policy, family=data.run.inputs.family, dimensions=dimensions_of(data.run)),
            *prompt_faults(policy, data.run.probe_set.probes, family=data.run.inputs.family),
        )
    )
    yield from coverage_findings(data, policy, evidence.measured)
    yield from control_findings(policy, evidence, data.run.metric)
    yield from _rule_findings(policy, evidence)


def gather(data: RunData, policy: Policy, *, baseline: RunData | None = None) -> Evidence:
    """The records that can be trusted, with the confirmations that the policy asks for."""
    probes = data.run.probe_set.probes
    evidence = Evidence(
        probes=probes,
        measured=sound_measurements(data.measurements, probes),
        confirmations=sound_confirmations(data),
        likelihoods=sound_likelihoods(data),
        plan=policy.confirm.prompts if has_prompts(data.run) else policy.confirm.plain_sampling,
        labels=has_labels(data.run),
        dimensions=dimensions_of(data.run),
        model=data.run.model.digest,
        metric=data.run.metric,
        baseline=None if baseline is None else _of_same_probes(baseline, data),
    )
    return replace(evidence, required=frozenset(_required(policy, evidence)))


def probes_to_confirm(
    data: RunData, policy: Policy, *, method: str, baseline: RunData | None = None
) -> tuple[str, ...]:
    """Ids of the probes that the policy wants confirmed by a method, in the probe set's order."""
    required = gather(data, policy, baseline=baseline).required
    return tuple(probe.id for probe in data.run.probe_set.probes if (probe.id, method) in required)


def _required(policy: Policy, evidence: Evidence) -> Iterator[tuple[str, str]]:
    """(probe, method). Samples, captions or labels, with both samplers, for all that the plan names, controls among
    them; a search for those that a rule found, and then for a few controls.

    Copies of the controls are counted in the samples that are drawn for the probes, whichever these are.
    """
    plan = evidence.plan
    if plan is None:
        return
    flagged = _flagged(policy, evidence)
    for probe in evidence.probes:
        named = plan.probes == "all" or probe.id in flagged
        if isinstance(plan, PlainSampling):
            ways = (PLAIN_SAMPLING, PLAIN_SAMPLING_ON_GRID)
            named = named or (probe.group == "control" and bool(flagged))
        else:  # without a caption the empty prompt is tried: the plain sampling of a text model
            ways = (LABEL, LABEL_ON_GRID) if evidence.labels else (CAPTION, CAPTION_ON_GRID)
        if named:
            yield from ((probe.id, way) for way in ways)
        if isinstance(plan, PromptConfirmation) and plan.gcg is not None and probe.id in flagged:
            yield probe.id, search_of(evidence)
    yield from required_searches(evidence, flagged)


def _flagged(policy: Policy, evidence: Evidence) -> frozenset[str]:
    """Probes that a rule other than `confirmed` found."""
    found = (
        finding.probe
        for config in policy.rules
        if not isinstance(config, ConfirmedConfig)
        for finding in rule_for(config).findings(evidence)
    )
    return frozenset(probe for probe in found if probe is not None)


def _rule_findings(policy: Policy, evidence: Evidence) -> tuple[Finding, ...]:
    return tuple(finding for config in policy.rules for finding in rule_for(config).findings(evidence))


def _of_same_probes(baseline: RunData, data: RunData) -> dict[str, Measurement]:
    """The baseline's sound measurements, without those of another image or caption under the same id."""
    prompts, labels = has_prompts(data.run), has_labels(data.run)
    old, new = ({probe.id: probe for probe in run.run.probe_set.probes} for run in (baseline, data))
    same = {
        name for name in old.keys() & new.keys() if same_probe(old[name], new[name], prompts=prompts, labels=labels)
    }
    sound = sound_measurements(baseline.measurements, baseline.run.probe_set.probes)
    return {name: found for name, found in sound.items() if name in same}


def _baseline_findings(baseline: RunData | None) -> tuple[Finding, ...]:
    if baseline is None:
        return ()
    records = baseline.measurements
    sound = sound_measurements(records, baseline.run.probe_set.probes)
    broken = {record.probe for record in records if record.probe not in sound and record.outcome != "error"}
    return (undecided(RECORDS, f"the baseline has invalid records for {names(broken)}"),) if broken else ()


def day_of_judging(data: RunData, today: datetime.date) -> datetime.date:
    """The day that waivers are held against: never before the run itself, whatever the clock says."""
    return max(today, _run_day(data) or today)


def _run_day(data: RunData) -> datetime.date | None:
    try:
        return datetime.datetime.fromisoformat(data.run.created_at).date()
    except (TypeError, ValueError):
        return None


def _date_findings(data: RunData) -> tuple[Finding, ...]:
    if _run_day(data) is None:
        return (undecided(RECORDS, f"the run's date {data.run.created_at!r} cannot be read"),)
    return ()
