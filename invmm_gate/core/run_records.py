"""The records of a run: what it was run on, which decides its scores, and all that was found. Nothing imports torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Annotated, Literal

from invmm_gate.core.likelihood_record import Certified, Likelihood
from invmm_gate.core.marks import PUBLIC, WHOLE
from invmm_gate.core.records import Confirmation, Measurement, MetricRecord, ModelManifest, ProbeSet, SelfCheck, Weights
from invmm_gate.core.settings import Family, InversionSettings
from invmm_gate.core.verdict_records import Decision, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """How probes of a model without prompts were confirmed: the policy's `confirm.plain_sampling`."""

    trials: int
    """Samples that each probe is held against."""
    sampler_steps: int
    """Steps of the sampler."""
    confidence: float
    """Of the intervals."""
    probes: Literal["all", "flagged"]
    """All probes, or only those that a rule found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """The search for a prompt: the policy's `confirm.prompts.gcg`."""

    tokens: int
    """Tokens of the prompt."""
    steps: int
    """Steps of the search."""
    candidates: int
    """Prompts that are tried at each step."""
    top_k: int
    """Tokens that each place is tried with."""
    noises: int
    """Noised images behind each loss."""
    max_evaluations: int | None
    """Network forwards after which the search ends; None = no bound."""
    controls: int
    """Controls that the search is made on too, wherever it is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPlan:
    """How probes of a text-to-image model were confirmed: the policy's `confirm.prompts`."""

    trials: int
    """Samples of each prompt."""
    sampler_steps: int
    """Steps of the sampler."""
    confidence: float
    """Of the intervals."""
    guidance_scales: tuple[float, ...]
    """Scales at which each prompt is tried."""
    probes: Literal["all", "flagged"]
    """Probes that prompts are searched for: all, or only those that a rule found."""
    gcg: SearchPlan | None
    """The search; None = none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodPlan:
    """How likelihoods were estimated: the policy's `confirm.likelihood`."""

    draws: int
    """Draws around the inverted distribution of a probe."""
    plain_draws: int
    """Plain samples of a model without prompts, the same for all probes."""
    confidence: float
    """Of both bounds together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmPlan:
    """The policy's key `confirm`."""

    plain_sampling: SamplingPlan | None
    """For models without prompts."""
    prompts: PromptPlan | None
    """For text-to-image models, and by labels for class-conditional ones."""
    likelihood: LikelihoodPlan | None = None
    """For probes that were copied at least once; None = none was estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samplers:
    """The samplers that draw the samples, in words."""

    released: str
    """As the checkpoint's pipeline draws."""
    grid: str
    """As the measure draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInputs:
    """The inputs that decide a score or a verdict. Two runs with equal inputs are one run."""

    model: Annotated[str, PUBLIC]
    """Digest."""
    pipeline: Annotated[str, PUBLIC]
    """Diffusers class name."""
    weights: Annotated[Weights, PUBLIC]
    """Which weights are scored."""
    pickles: Annotated[tuple[str, ...], PUBLIC]
    """Pickle files that were read."""
    family: Annotated[Family, PUBLIC]
    """What the diffusion runs on: pixels or a latent, with class labels or without, or a latent under prompts."""
    probe_set: Annotated[str, PUBLIC]
    """Digest."""
    policy: Annotated[str, PUBLIC]
    """Digest."""
    profile: Annotated[str, PUBLIC]
    """Name of the measure's profile."""
    settings: Annotated[InversionSettings, WHOLE]
    """Of the measure."""
    confirm: Annotated[ConfirmPlan, WHOLE]
    """How probes were confirmed."""
    metric: Annotated[MetricRecord, WHOLE]
    """The copy metric."""
    samplers: Annotated[Samplers, WHOLE]
    """What drew the samples."""
    seed: Annotated[int, PUBLIC]
    """The seed of all random streams."""
    image_size: Annotated[tuple[int, int], PUBLIC]
    """(height, width) of the samples, in pixels."""
    latent_shape: Annotated[tuple[int, int, int], PUBLIC]
    """(channels, height, width) of what is inverted: a score times their product is in nats over all dimensions."""
    rows: Annotated[int, PUBLIC]
    """Noised images in one optimisation step, as they were asked for."""
    device: Annotated[str, PUBLIC]
    """The GPU's name, or `cpu`."""
    threads: Annotated[int, PUBLIC]
    """Threads of a CPU; 0 on a GPU."""
    code: Annotated[str, PUBLIC]
    """sha256 of the gate's own source."""
    environment: Annotated[str, PUBLIC]
    """sha256 of the gate's code and the versions."""
    versions: Annotated[dict[str, str], PUBLIC]
    """Versions of the gate and of the packages that decide a score or a verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """Facts for the reader that decide nothing."""

    command: str
    """The command line."""
    policy: str
    """As it was named on the command line."""
    device: str
    """As torch names it."""
    seed_given: Annotated[bool, PUBLIC]
    """Whether --seed was given."""
    guidance_distilled: Annotated[bool, PUBLIC]
    """Whether guidance was distilled into the model, which then takes scales from 1 on as an input."""
    truncated_captions: dict[str, int]
    """Tokens that were cut off each caption beyond the tokenizer's limit, by probe id."""
    reduced_rows: tuple[int, ...] = ()
    """Rows that were left each time memory ran out while measuring."""
    reduced_rows_in_confirm: tuple[int, ...] = ()
    """Rows that were left each time memory ran out while confirming."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """run.json: what was run on what. Two runs mix or compare only under one fingerprint."""

    schema_version: Annotated[int, PUBLIC]
    """Of this file."""
    run_id: Annotated[str, PUBLIC]
    """First characters of the fingerprint; part of the name of the folder."""
    fingerprint: Annotated[str, PUBLIC]
    """sha256 of `inputs` as canonical JSON."""
    created_at: Annotated[str, PUBLIC]
    """UTC, ISO 8601."""
    model: Annotated[ModelManifest, PUBLIC]
    """The checkpoint."""
    probe_set: Annotated[ProbeSet, PUBLIC]
    """The probe set."""
    metric: Annotated[MetricRecord, PUBLIC]
    """The copy metric."""
    inputs: Annotated[RunInputs, PUBLIC]
    """All that decides a score or a verdict."""
    context: Annotated[RunContext, PUBLIC]
    """Facts for the reader that decide nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """All records of a run folder: what `judge`, the report and the tracker work on."""

    run: Annotated[RunRecord, PUBLIC]
    self_checks: Annotated[tuple[SelfCheck, ...], PUBLIC] = ()
    measurements: Annotated[tuple[Measurement, ...], PUBLIC] = ()
    confirmations: Annotated[tuple[Confirmation, ...], PUBLIC] = ()
    likelihoods: tuple[Likelihood, ...] = ()
    """Of the probes that were copied at least once; kept out of the public edition."""
    bands: tuple[Certified, ...] = ()
    """In the public edition alone, in place of the likelihoods: the lower ends of the bands of all certified bounds."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time per probe; kept apart from the measurements, which are byte-identical when repeated."""
    verdict: Annotated[Verdict | None, PUBLIC] = None
    digests: Annotated[dict[str, str], PUBLIC] = field(default_factory=dict)
    """As in `Verdict.records`, of the records as they were read; empty for records in no folder."""
    unfinished: tuple[str, ...] = ()
    """The first file of each stage that was begun and did not end: no verdict passes on it."""
    public: bool = False
    """Whether these are the records as `report/public_records.py` gives them away, and not those of the run folder."""

    @property
    def confirmed_probes(self) -> frozenset[str]:
        """Ids of the probes that an input brought out. A control is none: that one comes out says something else."""
        controls = {probe.id for probe in self.run.probe_set.probes if probe.group == "control"}
        return frozenset(item.probe for item in self.confirmations if item.status == "confirmed") - controls

    @property
    def private_texts(self) -> tuple[str, ...]:
        """Captions, sources and paths of the probes, and prompts that were found, longest first.

        None of them may leave the run folder unasked. Texts too short to tell from ordinary words (under 8
        characters), or contained in a public name, are not listed: the fields that hold them are never sent.
        """
        probes = self.run.probe_set.probes
        public = [name for probe in probes for name in (probe.id, probe.category, probe.cluster)]
        texts = {text for probe in probes for text in (probe.caption, probe.source, probe.path)}
        texts |= {item.prompt for item in self.confirmations if item.prompt}
        known = "\n".join((*public, self.run.model.name, self.run.metric.name))
        private = (text for text in texts if len(text) >= 8 and text not in known)
        return tuple(sorted(private, key=lambda text: (-len(text), text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """Which run it is, of which model, and how it was judged: the same in every report, in MLflow and in `compare`."""

    run_id: str
    model: str
    model_digest: str
    probe_set_digest: str
    fingerprint: str
    copy_metric: str
    decision: Decision | None
    """None where the run was not judged."""
    policy: str
    policy_digest: str

    def texts(self) -> dict[str, str]:
        """By field, without those that are empty; the decision as `verdict`, `not_judged` where there is none."""
        said = {name: value for name, value in asdict(self).items() if value and name != "decision"}
        return {"verdict": self.decision or "not_judged"} | said


def identity_of(data: RunData) -> RunIdentity:
    """That of a run's records."""
    run, verdict = data.run, data.verdict
    return RunIdentity(
        run_id=run.run_id,
        model=run.model.name,
        model_digest=run.model.digest,
        probe_set_digest=run.probe_set.digest,
        fingerprint=run.fingerprint,
        copy_metric=run.metric.name,
        decision=verdict.decision if verdict else None,
        policy=verdict.policy if verdict else "",
        policy_digest=verdict.policy_digest if verdict else "",
    )


def differences(before: object, after: object) -> list[str]:
    """Names of the fields, or keys, in which two records of a kind differ, sorted; empty for what has no parts."""
    one, other = _parts(before), _parts(after)
    in_both = one.keys() & other.keys()
    return sorted(name for name in one.keys() | other.keys() if name not in in_both or one[name] != other[name])


def named_difference(name: str, before: object, after: object) -> str:
    """The name of what differs; where it has parts, with those that differ."""
    parts = differences(before, after)
    return f"{name} ({', '.join(parts)})" if parts else name


def _parts(value: object) -> Mapping[str, object]:
    if is_dataclass(value):
        return {item.name: getattr(value, item.name) for item in fields(value)}
    return value if isinstance(value, Mapping) else {}
