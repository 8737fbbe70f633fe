"""`confirm`: inputs that a user could give. Plain sampling without prompts; with prompts captions first, then a search;
with class labels the probe's label first, then the others.

Each probe's record is written when its question is answered, and a rerun goes on after the records that are there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from invmm_gate.confirm.gcg import PromptTarget, Searched, find_prompt
from invmm_gate.confirm.plain_sampling import Confirmed, Sampled, SamplingPlan, confirm_by_sampling
from invmm_gate.confirm.prompt_objective import survives, typeable_ids
from invmm_gate.confirm.prompt_sampling import PromptMethod, PromptPlan, replication_of_prompt
from invmm_gate.confirm.search_control import planted_prompts, search_control
from invmm_gate.core.progress import Progress
from invmm_gate.core.records import (
    GCG,
    LABEL,
    LABEL_ON_GRID,
    LABEL_SEARCH,
    ON_GRID,
    PLAIN_SAMPLING,
    PLAIN_SAMPLING_ON_GRID,
    Confirmation,
    Probe,
)
from invmm_gate.core.run_records import RunData
from invmm_gate.core.settings import GcgPlan
from invmm_gate.policy.confirm_schema import ConfirmChoice, PlainSampling, PromptConfirmation
from invmm_gate.policy.coverage import SEARCH_CONTROL
from invmm_gate.policy.rules.confirmed import METHODS
from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.captions import caption_plan, prompt_plan
from invmm_gate.stages.confirm_labels import try_labels
from invmm_gate.stages.confirm_work import Confirming, while_finite
from invmm_gate.stages.labels import ProbeLabels
from invmm_gate.stages.likelihoods import estimate_with_prompts, estimate_without_prompts
from invmm_gate.stages.on_device import fits, note_check_in_confirm, note_rows_in_confirm, rate_limit, reduced
from invmm_gate.stages.session import Session


def confirm(session: Session, folder: RunFolder, progress: Progress, *, baseline: RunData | None = None) -> None:
    """Confirm what the policy wants confirmed and has no record yet; out of memory goes on with half the rows.

    Samples that are NaN or infinite end it with a note: the probes stay unconfirmed, which the judge sees.
    """
    work = Confirming(session, folder, progress, baseline)
    for step in _steps(session):
        while not fits(partial(step, work)):
            work = replace(work, session=reduced(work.session, progress, partial(note_rows_in_confirm, folder)))


def _steps(session: Session) -> Iterator[Callable[["Confirming"], None]]:
    """What is done in turn: each way of drawing, then the search."""
    choice, prompts = session.inputs.policy.confirm, session.model.prompts is not None
    if session.labels is not None:
        yield from _steps_with_labels(choice, session.labels)
        return
    if not prompts and choice.plain_sampling:
        for method in (PLAIN_SAMPLING, PLAIN_SAMPLING_ON_GRID):
            yield partial(_by_sampling, plan=choice.plain_sampling, method=method)
        yield partial(estimate_without_prompts, plan=choice.likelihood, plain=choice.plain_sampling)
    if prompts and choice.prompts:
        yield partial(_by_caption, plan=choice.prompts, method="caption")
        yield partial(_by_caption, plan=choice.prompts, method="caption_on_grid")
        # Before the search, as a rule that looks at likelihoods can ask for one; and after it, for what it copied.
        estimate = partial(estimate_with_prompts, plan=choice.likelihood, plain=choice.prompts)
        yield from (estimate, partial(_by_search, plan=choice.prompts), estimate)


def _steps_with_labels(choice: ConfirmChoice, labels: ProbeLabels) -> Iterator[Callable[["Confirming"], None]]:
    """The policy's prompts stand for labels; a network that nobody can guide is tried at the scale 1 alone."""
    plan = choice.prompts
    if plan is not None:
        plan = plan if labels.labels.guided else plan.model_copy(update={"guidance_scales": (1.0,)})
        estimate = partial(estimate_with_prompts, plan=choice.likelihood, plain=plan)
        yield partial(try_labels, labels=labels, plan=plan, method=LABEL)
        yield partial(try_labels, labels=labels, plan=plan, method=LABEL_ON_GRID)
        yield from (estimate, partial(try_labels, labels=labels, plan=plan, method=LABEL_SEARCH), estimate)


def _by_sampling(work: Confirming, *, plan: PlainSampling, method: str) -> None:
    session, probes = work.session, work.wanted(method)
    if not probes:
        return
    asked = SamplingPlan(
        trials=plan.trials,
        sampler_steps=plan.sampler_steps,
        rate_limit=rate_limit(session.inputs.policy),
        confidence=plan.confidence,
        rows=work.rows,
    )
    events = confirm_by_sampling(
        work.sampler(method),
        session.metric,
        work.references(probes),
        asked,
        streams=partial(work.stream, method),
        method=method,
    )
    work.progress.begin(METHODS[method], total=plan.trials)
    for event in while_finite(events, work.progress):
        if isinstance(event, Confirmed):
            work.store(event)
        else:
            work.progress.advance(event.samples)
    work.progress.end()


def _by_caption(work: Confirming, *, plan: PromptConfirmation, method: PromptMethod) -> None:
    """Plain captions: the cheapest input that a user can give."""
    asked = [(probe, caption_plan(plan, probe, rows=work.rows)) for probe in work.wanted(method)]
    stage = "captions on the measure's grid" if method in ON_GRID else "captions"
    work.progress.begin(stage, total=sum(each.samples for _, each in asked))
    for probe, each in asked:
        tried = 0
        for event in _tries(work, [probe], probe.caption, each, method=method, seed=probe):
            if isinstance(event, Confirmed):
                work.store(event)
            else:
                tried += event.samples
                work.progress.advance(event.samples)
        work.progress.advance(each.samples - tried)
    work.progress.end()


def _by_search(work: Confirming, *, plan: PromptConfirmation) -> None:
    """A search for each probe that a rule found and no input replicated yet; what is found is tried on its cluster.

    And one for each control that the policy wants searched, by the same plan: its hits are what such a search is worth.
    """
    asked, done = plan.search_plan(rows=work.rows), work.replicated()
    probes = [probe for probe in work.wanted(GCG) if probe.id not in done]
    if asked is None or not probes:
        return
    allowed = typeable_ids(work.session.prompts)
    if not _search_finds(work, asked, allowed):
        return
    work.progress.begin("prompt search", total=asked.steps * len(probes))
    for probe in probes:
        steps = 0
        if probe.id not in work.replicated():
            for event in while_finite(_search(work, probe, asked, allowed), work.progress):
                if isinstance(event, Searched):
                    steps += 1
                    work.progress.advance(1)
                elif isinstance(event, Confirmed) and _tried_on_cluster(work, probe, event.confirmation, plan):
                    work.store(event)  # last: a rerun searches again unless all that follows from it is there
        work.progress.advance(asked.steps - steps)
    work.progress.end()


def _search_finds(work: Confirming, plan: GcgPlan, allowed: Tensor) -> bool:
    """Whether the search finds a prompt that is known to be there; without that none is made for a probe."""
    if SEARCH_CONTROL not in {check.name for check in work.folder.self_checks()}:
        planted = planted_prompts(work.session.model, lures=True)
        check = search_control(work.session.metric, plan, planted, cost=work.session.released, allowed=allowed)
        note_check_in_confirm(work.folder, check)
        if not check.passed:
            work.progress.note(f"self-check failed: {check.detail}")
    return all(check.passed for check in work.folder.self_checks())


def _search(work: Confirming, probe: Probe, plan: GcgPlan, allowed: Tensor) -> Iterator[Confirmed | Searched | Sampled]:
    """From the caption where it can be typed, as it is a prompt about the image; else from nothing."""
    prompts = work.session.prompts
    ids = prompts.tokenize(probe.caption)[: min(plan.tokens, prompts.positions)]
    return find_prompt(
        work.session.model,
        work.attempts(GCG),
        PromptTarget(
            probe=probe.id,
            image=work.session.image(probe.id),
            references=work.references([probe])[probe.id],
            start=prompts.decode(ids) if ids and survives(prompts, ids) else "",
        ),
        plan,
        generator=work.stream(probe.sha256, GCG),
        allowed=allowed,
    )


def _tried_on_cluster(work: Confirming, probe: Probe, found: Confirmation, plan: PromptConfirmation) -> bool:
    """A prompt that replicates one probe of a cluster is tried on the others; only what it replicates is recorded.

    False where that could not be finished.
    """
    done = work.replicated() | {probe.id}
    others = [
        other
        for other in work.session.inputs.probe_set.probes
        if probe.cluster and other.cluster == probe.cluster and other.group != "control" and other.id not in done
    ]
    if not (found.hits and found.prompt and others):
        return True
    # Each probe of the cluster may find a prompt that is tried on this one: they share the error.
    mates = sum(other.cluster == probe.cluster for other in work.session.inputs.probe_set.probes) - 1
    asked = prompt_plan(plan, rows=work.rows)
    asked = replace(asked, confidence=1 - (1 - asked.confidence) / mates)
    events = list(_tries(work, others, found.prompt, asked, method="cluster_prompt", seed=probe))
    answers = [event for event in events if isinstance(event, Confirmed)]
    for answer in answers:
        if answer.confirmation.hits:
            work.store(answer)
    return len(answers) == len(others)


def _tries(
    work: Confirming, probes: Sequence[Probe], prompt: str, plan: PromptPlan, *, method: PromptMethod, seed: Probe
) -> Iterator[Confirmed | Sampled]:
    events = replication_of_prompt(
        work.attempts(method),
        work.references(probes),
        prompt,
        plan,
        method=method,
        streams=partial(work.stream, seed.sha256, method),
    )
    return while_finite(events, work.progress)
