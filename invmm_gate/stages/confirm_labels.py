"""Class labels as inputs that a user could give: the probe's own and the one that denoises it best, or all."""

from functools import partial
from typing import Final

from invmm_gate.confirm.label_sampling import LabelPlan, replication_of_labels
from invmm_gate.confirm.plain_sampling import Confirmed
from invmm_gate.confirm.prompt_sampling import PromptMethod
from invmm_gate.core.records import LABEL_SEARCH, Probe
from invmm_gate.policy.confirm_schema import PromptConfirmation
from invmm_gate.policy.controls import caption_trials
from invmm_gate.policy.rules.confirmed import METHODS
from invmm_gate.stages.captions import caption_plan, prompt_plan
from invmm_gate.stages.confirm_work import Confirming, while_finite
from invmm_gate.stages.labels import ProbeLabels

MOST_LABELS: Final = 16
"""Labels that a probe without one is tried under, in the order of its denoising error, each with all samples of the
policy. A model of more classes leaves such a probe undecided, unless one of these makes a copy."""


def try_labels(work: Confirming, labels: ProbeLabels, *, plan: PromptConfirmation, method: PromptMethod) -> None:
    """Each probe under its label and the one that denoises it best; by the search under all others.

    No search is made for a probe that an input was found for.
    """
    probes = work.wanted(method)
    work.progress.begin(METHODS[method], total=len(probes))
    for probe in probes:
        if method != LABEL_SEARCH or probe.id not in work.replicated():
            _try(work, probe, _plan(work, labels, probe, plan, method), method)
        work.progress.advance(1)
    work.progress.end()


def _try(work: Confirming, probe: Probe, asked: LabelPlan, method: PromptMethod) -> None:
    events = replication_of_labels(
        work.attempts(method),
        probe.id,
        work.references([probe])[probe.id],
        asked,
        method=method,
        streams=lambda label: partial(work.stream, probe.sha256, method, f"label {label}"),
    )
    for event in while_finite(events, work.progress):
        if isinstance(event, Confirmed):
            work.store(event)


def _plan(
    work: Confirming, labels: ProbeLabels, probe: Probe, plan: PromptConfirmation, method: PromptMethod
) -> LabelPlan:
    first = labels.first(probe)
    if method == LABEL_SEARCH:
        order = labels.order(probe)
        return LabelPlan(
            labels=tuple(label for label in order if probe.label is None or label not in first) or order,
            each=prompt_plan(plan, rows=work.rows, trials=caption_trials(plan)),
            most=len(order),
            max_evaluations=plan.gcg.max_evaluations if plan.gcg else None,
        )
    return LabelPlan(labels=first, each=caption_plan(plan, probe, rows=work.rows), most=MOST_LABELS)
