"""How the likelihoods of a probe changed between two runs. A higher likelihood is worse."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from invmm_gate.core.likelihood_record import Likelihood, PromptKind
from invmm_gate.core.records import Probe
from invmm_gate.core.run_records import RunData
from invmm_gate.policy.compare.comparison import LikelihoodChange, LikelihoodFate, LikelihoodState
from invmm_gate.policy.evidence import Evidence, has_prompts
from invmm_gate.policy.likelihoods import BY, copied_probes, kinds_to_estimate
from invmm_gate.policy.soundness import sound_confirmations, sound_likelihoods, sound_measurements


@dataclass(frozen=True, slots=True)
class RunLikelihoods:
    """The sound likelihoods of a run, and what its search saw."""

    records: Mapping[tuple[str, PromptKind], Likelihood]
    """By probe and kind of prompt."""
    evidence: Evidence
    copied: frozenset[str]
    """Probes of which the search made a copy at all."""
    prompts: bool
    """Whether the model takes prompts."""
    sampler_steps: int | None
    """Steps of the sampler that all draws were made with: another number has other likelihoods."""

    def saw_no_copy(self, probe: Probe, kind: PromptKind) -> bool:
        """Whether the probe was measured, and nothing came out that asks for a likelihood by this kind of prompt."""
        if probe.id not in self.copied:
            return probe.id in self.evidence.measured
        return kind not in kinds_to_estimate(self.evidence, probe, prompts=self.prompts)


def likelihoods_of(data: RunData) -> RunLikelihoods:
    """The likelihoods of a run, ready to be held against those of another."""
    probes = data.run.probe_set.probes
    evidence = Evidence(
        probes=probes,
        measured=sound_measurements(data.measurements, probes),
        confirmations=sound_confirmations(data),
        metric=data.run.metric,
    )
    records = {(found.probe, found.prompt_kind): found for found in sound_likelihoods(data)}
    prompts, plan = has_prompts(data.run), data.run.inputs.confirm
    sampled = plan.prompts if prompts else plan.plain_sampling
    steps = None if sampled is None else sampled.sampler_steps
    return RunLikelihoods(records, evidence, copied_probes(evidence), prompts, steps)


def likelihood_changes(
    before: RunLikelihoods, after: RunLikelihoods, probe: Probe, *, same_plan: bool
) -> Iterator[LikelihoodChange]:
    """One change for each kind of prompt that either run has; `same_plan`: both runs confirmed by one plan."""
    for kind in BY:
        old, new = (side.records.get((probe.id, kind)) for side in (before, after))
        if old or new:
            gone = new is None and same_plan and after.saw_no_copy(probe, kind)
            fate = _fate(old, new, gone=gone, same_sampler=before.sampler_steps == after.sampler_steps)
            yield LikelihoodChange(kind=kind, change=fate, before=_state(old), after=_state(new))


def _fate(before: Likelihood | None, after: Likelihood | None, *, gone: bool, same_sampler: bool) -> LikelihoodFate:
    """By the recorded bounds: each holds at the confidence of its own run, whatever the other run drew.

    A likelihood is estimated only where the search made a copy. A run without one saw no copy or did not look, and in
    both cases no bound says how unlikely the probe is there: that is never better or worse. Copies that only the second
    run made are unknown, as the first may have missed them. Copies that are gone are not compared if the second run
    looked in the same way (`gone`): score and rates hold what it saw. If it did not, they are unknown. Two samplers
    have two likelihoods. Where the bounds of one run contradict each other, one of them is wrong.
    """
    if before is None or after is None:
        copies = any(side.nats is not None for side in (before, after) if side)
        return "unknown" if copies and not gone else "not_compared"
    if not same_sampler or before.lower > before.upper or after.lower > after.upper:
        return "unknown"
    return _direction(before, after)


def _direction(before: Likelihood, after: Likelihood) -> LikelihoodFate:
    """Bounds at two guidance scales are of two likelihoods: what lies apart there need not be another model's doing.

    Upper bounds come from plain samples and are wide. Where a lower bound lies above the other run's estimate alone, as
    one in 10^4 above an estimate of one in 10^11, nothing is shown, and nothing is called unchanged.
    """
    worse, better = after.lower > before.upper, before.lower > after.upper
    if not (worse or better):
        return "unknown" if after.lower > before.estimate or before.lower > after.estimate else "unchanged"
    if before.guidance_scale != after.guidance_scale:
        return "unknown"
    return "worse" if worse else "better"


def _state(found: Likelihood | None) -> LikelihoodState | None:
    if found is None:
        return None
    return LikelihoodState(
        nats=found.nats,
        lower=found.lower,
        estimate=found.estimate,
        upper=found.upper,
        confidence=found.confidence,
        guidance_scale=found.guidance_scale,
    )
