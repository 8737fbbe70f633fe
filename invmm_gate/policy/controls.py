"""Whether the controls are what they are for: images that the model cannot have seen. Every finding leaves a run open.

A control that was trained on is found by its own score, by its copies among the samples that were drawn anyway, by its
caption, or by a prompt search. That the search brings a control out may also mean that it brings out any image.
"""

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Final

from invmm_gate.core.records import GCG, PLAIN_SAMPLING, PLAIN_SAMPLING_ON_GRID, SEARCHES, Confirmation, MetricRecord
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.confirm_schema import PlainSampling, PromptConfirmation
from invmm_gate.policy.control_searches import brought_out, controls_to_search, search_of, searches_of_controls
from invmm_gate.policy.evidence import Evidence, names, undecided
from invmm_gate.policy.rules.confirmed import METHODS, ConfirmedConfig
from invmm_gate.policy.rules.extraction_likelihood import ExtractionLikelihood, ExtractionLikelihoodConfig
from invmm_gate.policy.rules.invmm_below import InvmmBelow, InvmmBelowConfig
from invmm_gate.policy.rules.rule import EVIDENCE, Description
from invmm_gate.policy.schema import Policy

CONTROLS: Final = "controls"
DESCRIPTION: Final = Description(
    short="A control looks as if the model had been trained on it",
    full="A control is an image that the model cannot have seen. This one inverts, is copied by a sample or brought "
    "out by a prompt that was searched for, or lies far nearer to a sample than the others: held against it, a "
    "memorized probe looks ordinary. Or the prompt search finds copies of any image, and its hits show nothing.",
    help="Look at the copies. Where they show the control, take it out of the controls, or make it a probe, and "
    f"measure again; where they do not, calibrate the copy metric. {EVIDENCE}",
    leaves_open="the control {probe} looks as if it had been trained on",
    of_run="controls were not looked for in the samples, or by the prompt search",
)
SCORE_LIMIT: Final = 70.0
"""Nats over all latent dimensions, where the policy has no rule `invmm_below`: the threshold of `strict`."""
SHARE_LIMIT: Final = 0.5
"""Share of a recorded test's samples, where no rule names one: that of `strict`."""
CAPTION_TRIALS: Final = 8
"""Samples by a control's caption at each guidance scale and with each sampler, where the policy asks for no fewer.

They miss one that a third of the samples copy in 4 of 100 cases, at one scale and with one sampler.
"""
FEWEST: Final = 16
"""Controls that it takes to see that one lies nearer to a sample than the others."""
GAP: Final = 3.0
"""How far the nearest control must lie from the next one, in distances from there to the middle one.

Among 10,000 sets of 16 images that no model saw, 4 to 12 have such a control (benchmarks/RESULTS.md).
"""
_SHARED: Final = (PLAIN_SAMPLING, PLAIN_SAMPLING_ON_GRID)
_TRAINED_ON: Final = "it looks as if it had been trained on; take it out of the controls, or make it a probe"
_FOUND_BY_SEARCH: Final = (
    "either the control was trained on, or the search makes copies of images that the model cannot have seen, and its "
    "hits on probes show nothing; look at the copies: if they show the control, take it out of the controls, or make "
    "it a probe; if they do not, calibrate the copy metric"
)

_BASE_RATE_UNKNOWN: Final = "how often it brings out images that the model cannot have seen is unknown"


def control_findings(policy: Policy, evidence: Evidence, metric: MetricRecord) -> Iterator[Finding]:
    """Controls that look as if they had been trained on, each by its name, and those that nobody looked for."""
    scores = list(_scores(policy, evidence))
    controls = {probe.id for probe in evidence.probes if probe.group == "control"}
    tried = [found for found in evidence.confirmations if found.probe in controls]
    copied = [_copied(found) for found in tried if found.hits and found.method not in SEARCHES]
    copied += _found_by_search(searches_of_controls(evidence))
    yield from (*scores, *copied)
    yield from _likely(policy, evidence, named={found.probe for found in (*scores, *copied)})
    yield from _nearer(tried, metric)
    yield from _missing(policy, evidence, tried, controls)


def as_for_probes(policy: Policy, dimensions: int | None) -> InvmmBelowConfig:
    """What blocks a probe by its score, for the controls. Where the policy has no such rule, the limits of `strict`."""
    rules = [rule for rule in policy.rules if isinstance(rule, InvmmBelowConfig)]
    usual = InvmmBelowConfig(rule="invmm_below", threshold_nats=SCORE_LIMIT)
    highest = max(rules, key=lambda rule: rule.limit(dimensions) or 0.0, default=usual)
    share = min((rule.share for rule in rules if rule.share is not None), default=SHARE_LIMIT)
    return highest.model_copy(update={"groups": ("control",), "categories": (), "share": share})


def likelihood_rules(policy: Policy) -> tuple[ExtractionLikelihood, ...]:
    """The policy's rules about likelihoods, for probes that they do not select too."""
    return tuple(ExtractionLikelihood(rule) for rule in policy.rules if isinstance(rule, ExtractionLikelihoodConfig))


def caption_trials(plan: PromptConfirmation) -> int:
    """Samples that a control's caption is tried with at each guidance scale."""
    return min(plan.trials, CAPTION_TRIALS)


def _least_trials(plan: PlainSampling | PromptConfirmation | None, method: str) -> int:
    """Samples with which a control counts as tried. A search of less than a probe's shows nothing of that one."""
    if not isinstance(plan, PromptConfirmation):
        return 1
    return plan.trials if method == GCG else caption_trials(plan)


def nearest_of_all(closest: Mapping[str, float], *, higher_is_nearer: bool = False) -> str | None:
    """The control whose closest sample is far closer than those of its like; None if there is none, or too few.

    Two controls that were trained on hide each other here; their scores and copies do not.
    """
    order = sorted(closest, key=closest.__getitem__, reverse=higher_is_nearer)
    if len(order) < FEWEST:
        return None
    first, *others = (closest[name] for name in order)
    return order[0] if abs(others[0] - first) > GAP * abs(median(others) - others[0]) else None


def _scores(policy: Policy, evidence: Evidence) -> Iterator[Finding]:
    rule = InvmmBelow(as_for_probes(policy, evidence.dimensions))
    for probe, measured in evidence.selected(rule.config):
        for found in rule.judged(probe, measured, evidence.dimensions):
            said = f"{found.message}: {_TRAINED_ON}" if found.effect == "block" else found.message
            yield undecided(CONTROLS, said, probe.id)


def _likely(policy: Policy, evidence: Evidence, *, named: Container[str | None]) -> Iterator[Finding]:
    """Those that nothing else named."""
    chosen = [probe for probe in evidence.probes if probe.group == "control" and probe.id not in named]
    for rule in likelihood_rules(policy):
        for found in rule.judged(chosen, evidence):
            said = f"{found.message}: {_TRAINED_ON}" if found.effect == "block" else found.message
            yield undecided(CONTROLS, said, found.probe)


def _copied(found: Confirmation) -> Finding:
    said = f"{found.hits} of {found.trials} samples are copies of the control {found.probe}: {_TRAINED_ON}"
    return undecided(CONTROLS, said, found.probe)


def _found_by_search(searches: Sequence[Confirmation]) -> Iterator[Finding]:
    found = [each for each in searches if brought_out(each)]
    for each in found:
        times = f"{each.hits} of {each.trials} samples"
        how = f"in {times}" if each.hits else f"while it went on, but in {times} afterwards"
        said = f"the {METHODS[each.method]} brought out the control {each.probe} {how}, "
        said += f"{len(found)} of {len(searches)} controls"
        yield undecided(CONTROLS, f"{said} that it was made on: {_FOUND_BY_SEARCH}", each.probe)


def _nearer(tried: Iterable[Confirmation], metric: MetricRecord) -> Iterator[Finding]:
    """Among those that no sample is a copy of. All are held against the same samples: a caption's are one control's."""
    better = max if metric.higher_is_copy else min
    values: dict[str, float] = {}
    copied = {found.probe for found in tried if found.hits}
    for found in tried:
        if found.method in _SHARED and found.closest is not None and found.probe not in copied:
            values[found.probe] = better(found.closest, values.get(found.probe, found.closest))
    nearest = nearest_of_all(values, higher_is_nearer=metric.higher_is_copy)
    if nearest is not None:
        said = f"a sample comes far nearer to the control {nearest} ({values[nearest]:.4g}) than to any other"
        yield undecided(CONTROLS, f"{said}: {_TRAINED_ON}", nearest)


def _missing(
    policy: Policy, evidence: Evidence, tried: Sequence[Confirmation], controls: Collection[str]
) -> Iterator[Finding]:
    """Controls that nobody looked for. None is searched for that another input brought out."""
    plan, hit, asked = evidence.plan, {found.probe for found in tried if found.hits}, _asked_for(policy, evidence)
    seen = {(each.probe, each.method) for each in tried if each.hits or each.trials >= _least_trials(plan, each.method)}
    missing = {each for each in asked - seen if each[0] in controls}
    unseen = {probe for probe, method in missing if method not in SEARCHES}
    unsearched = {probe for probe, method in missing if method in SEARCHES} - hit
    search = METHODS[search_of(evidence)]
    if unseen:
        yield undecided(CONTROLS, f"{len(unseen)} controls were not looked for in the samples: {names(unseen)}")
    if unsearched:
        said = f"the {search} was not made on {len(unsearched)} controls ({names(unsearched)})"
        yield undecided(CONTROLS, f"{said}: {_BASE_RATE_UNKNOWN}")
    images = {probe.sha256 for probe in evidence.probes if probe.group == "control"}
    wanted = controls_to_search(evidence, {probe for probe, method in asked if method in SEARCHES})
    if asked and wanted > len(images):
        said = f"the policy asks for a {search} on {wanted} controls, and the probe set has {len(images)}"
        yield undecided(CONTROLS, f"{said}: {_BASE_RATE_UNKNOWN}")


def _asked_for(policy: Policy, evidence: Evidence) -> frozenset[tuple[str, str]]:
    """(probe, method) of all samples that must have been drawn, where the rule `confirmed` asks for it."""
    asks = any(isinstance(rule, ConfirmedConfig) for rule in policy.rules)
    return evidence.required if asks else frozenset()
