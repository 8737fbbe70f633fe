"""The evidence that rules look at: records of a run that can be trusted, and the scope that they are of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from typing import Annotated, Final

from pydantic import Field

from invmm_gate.core.likelihood_record import Likelihood
from invmm_gate.core.marks import SELECTION
from invmm_gate.core.records import Confirmation, Group, Measurement, MetricRecord, Probe
from invmm_gate.core.run_records import RunData, RunRecord
from invmm_gate.core.settings import told
from invmm_gate.core.verdict_records import Finding, Scope
from invmm_gate.files.strict_model import StrictModel
from invmm_gate.policy.confirm_schema import PlainSampling, PromptConfirmation
from invmm_gate.policy.conformal import Key

JUDGED_GROUPS: Final[tuple[Group, ...]] = ("sensitive", "duplicated", "sample", "canary")
"""The groups that a rule looks at unless it names others: all but the controls."""

Text = Annotated[str, Field(strict=True, min_length=1, max_length=200)]
_SEED_BITS: Final = 53
"""The largest whole numbers that every reader of JSON keeps as they are."""


class Selection(StrictModel):
    """Which probes a rule looks at; no categories = all."""

    groups: Annotated[tuple[Group, ...], Field(min_length=1), SELECTION] = JUDGED_GROUPS
    """Groups of probes that the rule looks at. Canaries of a known multiplicity are not judged."""
    categories: Annotated[tuple[Text, ...], SELECTION] = ()
    """Categories that the rule looks at; none = all."""


def is_selected(probe: Probe, choice: Selection) -> bool:
    """Whether a rule looks at this probe; no categories = all. None looks at canaries of a known multiplicity.

    That the search finds these is what they are for (policy/reach.py): it is no breach.
    """
    judged = probe.is_target or probe.group == "control"
    return judged and probe.group in choice.groups and (not choice.categories or probe.category in choice.categories)


INFINITE_KEY: Key = (float("inf"), float("inf"))
"""Ranks behind every key that an image can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The probes with their sound measurements, confirmations and likelihoods."""

    probes: tuple[Probe, ...]
    measured: Mapping[str, Measurement]
    """By probe id: only probes with exactly one sound measurement that is no error."""
    confirmations: tuple[Confirmation, ...]
    likelihoods: tuple[Likelihood, ...] = ()
    required: frozenset[tuple[str, str]] = frozenset()
    """(probe, method) of every confirmation that the policy asks for."""
    plan: PlainSampling | PromptConfirmation | None = None
    """How this run's kind of model is confirmed; None where the policy does not say."""
    labels: bool = False
    """Whether the run is of a class-conditional model: labels are then tried where a text model is given prompts."""
    accepted: frozenset[str] = frozenset()
    """Probes with findings that block, all of which are waived."""
    dimensions: int | None = None
    """Of the latent: a score times this is in nats over all of them. None where the run does not say."""
    model: str = ""
    """Digest of the checkpoint."""
    metric: MetricRecord | None = None
    """The copy metric; None where only bounds are asked for."""
    baseline: Mapping[str, Measurement] | None = None
    """Measurements by probe id of the same probes in the last approved run, no errors; None if no run was given."""

    def selected(self, choice: Selection) -> tuple[tuple[Probe, Measurement], ...]:
        """The measured probes that a rule looks at, in the probe set's order."""
        return tuple(
            (probe, self.measured[probe.id])
            for probe in self.probes
            if is_selected(probe, choice) and probe.id in self.measured
        )


def dimensions_of(run: RunRecord) -> int | None:
    """How many dimensions the run's latent has; None for a shape that no latent has."""
    shape = run.inputs.latent_shape
    return prod(shape) if min(shape, default=0) >= 1 else None


def has_prompts(run: RunRecord) -> bool:
    """Whether the run's model is told a prompt, or a class label in its place, by the settings it was measured with."""
    return run.inputs.settings.prompt != "none"


def has_labels(run: RunRecord) -> bool:
    """Whether the run is of a class-conditional model, by the settings that it was measured with."""
    return told(run.inputs.settings.prompt) == "label"


def same_probe(before: Probe, after: Probe, *, prompts: bool, labels: bool = False) -> bool:
    """Whether two probes of one id are the same test: the same image, fitted in the same way, and its caption or label.

    The caption counts for models with `prompts` alone, the label for those with `labels`.
    """
    same_pixels = (before.sha256, before.fit) == (after.sha256, after.fit)
    if labels:
        return same_pixels and before.label == after.label
    return same_pixels and (not prompts or before.caption == after.caption)


def key_of(measurement: Measurement) -> Key:
    """How memorized a probe looks, smallest first: score (+inf without one), then minus the replicating share."""
    score = float("inf") if measurement.invmm is None else measurement.invmm
    share = 0.0 if measurement.share is None else measurement.share.hits / measurement.share.trials
    return (score, -share)


def control_keys(evidence: Evidence) -> tuple[Key, ...]:
    """One key for each control image. A copy of a control counts once, with its least memorized key.

    A control that could not be measured ranks behind every probe, so that breaking a control never helps.
    """
    keys: dict[str, Key] = {}
    for probe in evidence.probes:
        if probe.group == "control":
            found = evidence.measured.get(probe.id)
            key = INFINITE_KEY if found is None else key_of(found)
            keys[probe.sha256] = max(key, keys.get(probe.sha256, key))
    return tuple(keys.values())


def block(
    rule: str, probe: str | None, message: str, *, value: float | None = None, limit: float | None = None
) -> Finding:
    """A finding that stops the release unless it is waived."""
    return Finding(rule=rule, effect="block", probe=probe, message=message, value=value, limit=limit)


def undecided(rule: str, message: str, probe: str | None = None) -> Finding:
    """A finding that leaves the run without a verdict; it cannot be waived."""
    return Finding(rule=rule, effect="inconclusive", probe=probe, message=message)


def names(ids: Iterable[str], *, most: int = 5) -> str:
    """A short list of names for a sentence."""
    known = sorted(ids)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def content_seed(*, model: str, probe_set: str, policy: str) -> int:
    """The seed that the digests of a model, a probe set and a policy give, in [0, 2**53). No other choice moves it."""
    name = "\n".join(("invmm-gate seed v1", model, probe_set, policy))
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big") >> (64 - _SEED_BITS)


def scope_of(data: RunData, policy: str) -> Scope:
    """The scope of a run's records, for a verdict under the policy of this digest."""
    run, inputs = data.run, data.run.inputs
    return Scope(
        image_size=inputs.image_size,
        samplers=(inputs.samplers.released, inputs.samplers.grid),
        sampler_steps=inputs.settings.sampler_steps,
        guidance_scales=_scales(data),
        seed=inputs.seed,
        seed_chosen=inputs.seed != content_seed(model=run.model.digest, probe_set=run.probe_set.digest, policy=policy),
    )


def _scales(data: RunData) -> tuple[float, ...]:
    """Every scale at which the run inverted or tried a prompt, ascending; labels are not tried at all of the plan's."""
    run = data.run
    found, prompts = set(run.inputs.settings.guidance_scales), run.inputs.confirm.prompts
    if has_labels(run):
        found |= {tried.guidance_scale for tried in data.confirmations if tried.guidance_scale is not None}
    elif has_prompts(run) and prompts is not None:
        found |= set(prompts.guidance_scales)
    return tuple(sorted(found))
