"""The frozen records that pass between the stages. Nothing here imports torch.

Files hold these records as JSON; `runs/folder.py` is the only reader and writer. JSON has no infinity:
a probe that was not inverted has `outcome="not_inverted"` and `invmm=None`.
"""

import datetime
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from invmm_gate.core.errors import BLOCK, INCONCLUSIVE, PASS
from invmm_gate.core.marks import PUBLIC

Group = Literal["sensitive", "duplicated", "control", "canary"]
GROUPS: Final[tuple[Group, ...]] = ("sensitive", "duplicated", "control", "canary")

Fit = Literal["", "exact", "crop", "squeeze", "pad"]
FITS: Final[tuple[Fit, ...]] = ("exact", "crop", "squeeze", "pad")
"""How training brought an image to the model's size; empty where nobody said, as for an image of the model's shape."""

Weights = Literal["raw", "ema"]
Outcome = Literal["inverted", "not_inverted", "above_threshold", "error"]
Decision = Literal["pass", "block", "inconclusive"]
ConfirmationStatus = Literal["confirmed", "refuted", "undecided"]
PLAIN_SAMPLING: Final = "plain_sampling"
PLAIN_SAMPLING_ON_GRID: Final = "plain_sampling_on_grid"
CAPTION: Final = "caption"
CAPTION_ON_GRID: Final = "caption_on_grid"
CLUSTER_PROMPT: Final = "cluster_prompt"
GCG: Final = "gcg"
ON_GRID: Final = (PLAIN_SAMPLING_ON_GRID, CAPTION_ON_GRID)
"""The ways in which a probe is confirmed: without a prompt, by its own, by one found for its cluster, by a search.

All draw as the released pipeline does, but for those of ON_GRID: they draw with the measure's own sampler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One image under test."""

    id: str
    """Unique in the set; letters, digits, dot, dash and underscore, so it can name a file."""
    path: str
    """Image file, relative to the probe set's folder."""
    sha256: str
    group: Annotated[Group, PUBLIC]
    line: int
    """Line of the manifest, from 1 (the header); row index + 2 for a parquet manifest."""
    category: Annotated[str, PUBLIC] = ""
    caption: str = ""
    cluster: str = ""
    """Probes with one cluster name show the same picture."""
    source: str = ""
    licence: str = ""
    added_on: str = ""
    fit: Fit = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSet:
    """A validated manifest and where it lies."""

    folder: str
    probes: Annotated[tuple[Probe, ...], PUBLIC]
    digest: Annotated[str, PUBLIC]
    """sha256 over the manifest's content, which names every image's sha256."""
    manifest: Annotated[str, PUBLIC] = "manifest.csv"
    """File name of the manifest in the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A two-sided confidence interval of a proportion, both ends in [0, 1]."""

    low: float
    high: float
    confidence: Annotated[float, PUBLIC]
    method: Annotated[Literal["wilson", "clopper_pearson"], PUBLIC]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationShare:
    """How many of a batch of samples replicate the probe. High = memorized."""

    hits: int
    trials: Annotated[int, PUBLIC]
    interval: Annotated[Interval, PUBLIC]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The state of one inversion at a test."""

    step: int
    denoising_error: float
    """Smoothed control loss, the mean over the loss window."""
    normality: float
    """KL(q || N(0, I)) per latent dimension, in nats."""
    weight: float
    """lambda, the weight of the normality."""
    best_value: float | None
    """Copy-metric value of the closest sample drawn at this test; None where no sample was drawn."""
    prompt_entropy: float | None = None
    """Mean entropy of the soft prompt's token distributions, in nats; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One inversion of one probe with one seed."""

    seed: int
    outcome: Outcome
    invmm: float | None
    """InvMM in nats per latent dimension, >= 0; low = memorized. Only for `inverted`."""
    invmm_above: float | None
    """A bound that the score exceeds. Only for `above_threshold`."""
    steps: int
    evaluations: int
    """Network forwards on one sample that this trial needed (a training step counts forward and backward as two)."""
    mirrored: bool
    """Whether the mirrored image was the target that this trial describes."""
    guidance_scale: float | None
    """The guidance scale at which the probe was inverted."""
    share: ReplicationShare | None
    """Share of a full test batch that replicates the probe, drawn from the last distribution."""
    confirmation: ReplicationShare | None
    """Share of an independent batch drawn after success, where the profile asks for one."""
    curve: tuple[CurvePoint, ...]
    reason: str = ""
    """Why the outcome is `error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The measurement of one probe: a line of measurements.jsonl."""

    probe: str
    group: Annotated[Group, PUBLIC]
    category: Annotated[str, PUBLIC]
    outcome: Annotated[Outcome, PUBLIC]
    """Over the trials: `error` if any is, else that of the (lower) median trial."""
    invmm: float | None
    """Lower median over the seeds, a trial that was not inverted counting as +inf; low = memorized."""
    invmm_above: float | None
    invmm_spread: tuple[float, float] | None
    """Smallest and largest finite score over the seeds."""
    share: Annotated[ReplicationShare | None, PUBLIC]
    """Replicating samples, added up over the trials."""
    steps: int
    evaluations: int
    guidance_scale: float | None
    trials: tuple[Trial, ...]
    reason: str = ""

    @property
    def rank(self) -> tuple[int, float, float]:
        """Sort key, most memorized first: the score, then the share of replicating samples; errors last."""
        replicating = self.share.hits / self.share.trials if self.share and self.share.trials else 0.0
        if self.outcome == "inverted" and self.invmm is not None:
            return (0, self.invmm, -replicating)
        return (2 if self.outcome == "error" else 1, 0.0, -replicating)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """The result of an input that a user could give, for one probe: a line of confirmations.jsonl."""

    probe: str
    method: Annotated[str, PUBLIC]
    """`plain_sampling`; for text models `caption`, `cluster_prompt` (found for a probe of its cluster) or `gcg`; with
    `_on_grid` by the measure's own sampler."""
    status: Annotated[ConfirmationStatus, PUBLIC]
    """`refuted` means within the budget, never "safe"."""
    hits: int
    trials: Annotated[int, PUBLIC]
    interval: Annotated[Interval, PUBLIC]
    evaluations: int
    closest: float | None
    """Copy-metric value of the closest sample."""
    prompt: str | None = None
    token_ids: tuple[int, ...] | None = None
    guidance_scale: float | None = None
    copies: tuple[str, ...] = ()
    """Image files of generated copies, relative to the run folder."""
    sampler: str = ""
    """What drew the samples, in words: pipeline, scheduler, spacing, limits of x_0, steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """One check of the gate itself or of the model's usefulness, made before the probes are measured."""

    name: Annotated[str, PUBLIC]
    passed: Annotated[bool, PUBLIC]
    detail: str
    value: Annotated[float | None, PUBLIC] = None
    limit: Annotated[float | None, PUBLIC] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of a checkpoint; size in bytes."""

    path: Annotated[str, PUBLIC]
    size: Annotated[int, PUBLIC]
    sha256: Annotated[str, PUBLIC]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelManifest:
    """The files and parts of a checkpoint, found out without importing torch."""

    path: str
    name: Annotated[str, PUBLIC]
    pipeline: Annotated[str, PUBLIC]
    """Diffusers class name, e.g. `DDPMPipeline`, or `UNet2DModel`."""
    files: Annotated[tuple[ModelFile, ...], PUBLIC]
    digest: Annotated[str, PUBLIC]
    """sha256 over sorted lines `path NUL size NUL sha256 LF`."""
    adapters: Annotated[tuple[str, ...], PUBLIC] = ()
    """LoRA weights on top of the checkpoint, as they were given; they are among `files`."""
    not_loaded: Annotated[tuple[str, ...], PUBLIC] = ()
    """Components that ship with the checkpoint and decide nothing here, as a safety checker."""
    pickles: Annotated[tuple[str, ...], PUBLIC] = ()
    """Pickle files that will be read because --allow-pickle was given."""
    weights: Annotated[Weights, PUBLIC] = "raw"
    """Which weights are scored: as they were trained, or their exponential moving average (EMA)."""
    left_out: Annotated[tuple[str, ...], PUBLIC] = ()
    """Files of the other weights, where a folder holds both: neither scored nor covered by the digest."""
    scheduler: Annotated[str, PUBLIC] = ""
    """Diffusers class name of the scheduler; its configuration is one of `files`."""
    prediction_type: Annotated[str, PUBLIC] = ""
    """What the network predicts: epsilon, v_prediction or sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRecord:
    """The copy metric that a run used."""

    name: Annotated[str, PUBLIC]
    """Names the transform too, e.g. `sscd_disc_large@320` or `pixel_rmse`."""
    threshold: Annotated[float, PUBLIC]
    higher_is_copy: Annotated[bool, PUBLIC]
    digest: Annotated[str, PUBLIC] = ""
    """sha256 of the metric's own weights, where it has any."""
    unfit: Annotated[str, PUBLIC] = ""
    """Why the metric should not be trusted at this resolution; empty if it may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """An owned, expiring exception for a probe, a rule, or a rule on a probe."""

    reason: str
    owner: Annotated[str, PUBLIC]
    expires: Annotated[datetime.date, PUBLIC]
    probe: str | None = None
    rule: Annotated[str | None, PUBLIC] = None
    model: Annotated[str | None, PUBLIC] = None
    """Digest of the only model that it is for; None = any."""
    image: str | None = None
    """sha256 of the only image that it is for; None = whatever image the probe shows."""
    approved_by: Annotated[str | None, PUBLIC] = None
    """Id of the reviewer's key that signed it; None = nobody's that was trusted."""
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One breach of one rule."""

    rule: Annotated[str, PUBLIC]
    effect: Annotated[Literal["block", "inconclusive"], PUBLIC]
    probe: str | None
    message: str
    """One sentence with the figures."""
    value: float | None = None
    limit: float | None = None
    waiver: Annotated[Waiver | None, PUBLIC] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaiverState:
    """A waiver, and whether it counted in a verdict, or why not."""

    waiver: Annotated[Waiver, PUBLIC]
    state: Annotated[
        Literal["used", "unused", "expired", "unknown_probe", "other_model", "other_image", "unapproved"], PUBLIC
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRecord:
    """The run that was given as the baseline of the rule `regression`."""

    run_id: Annotated[str, PUBLIC]
    fingerprint: Annotated[str, PUBLIC]
    model_digest: Annotated[str, PUBLIC]
    measurements_digest: Annotated[str, PUBLIC]
    """sha256 of its measurements.jsonl."""
    decision: Annotated[Decision | None, PUBLIC] = None
    """Its verdict when it was blessed; None, as the next three are empty, where a run folder was named by hand."""
    blessed_by: Annotated[str, PUBLIC] = ""
    blessed_on: Annotated[str, PUBLIC] = ""
    """UTC, ISO 8601."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What was tested. A verdict says nothing about a model that is used in another way."""

    image_size: Annotated[tuple[int, int], PUBLIC]
    """(height, width) of the samples, in pixels."""
    samplers: Annotated[tuple[str, ...], PUBLIC]
    """Names of the samplers that samples were drawn with."""
    sampler_steps: Annotated[int, PUBLIC]
    """Steps of the sampler in the measure; a policy says how many its confirmations take."""
    guidance_scales: Annotated[tuple[float, ...], PUBLIC]
    """Every scale that was tried, ascending; 1 alone for models without prompts."""
    seed: Annotated[int, PUBLIC]
    """The seed of all random streams."""
    seed_chosen: Annotated[bool, PUBLIC]
    """Whether it is another one than model, probe set and the verdict's policy give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """verdict.json."""

    schema_version: Annotated[int, PUBLIC]
    decision: Annotated[Decision, PUBLIC]
    reasons: tuple[str, ...]
    findings: Annotated[tuple[Finding, ...], PUBLIC]
    waivers: Annotated[tuple[WaiverState, ...], PUBLIC]
    policy: Annotated[str, PUBLIC]
    policy_digest: Annotated[str, PUBLIC]
    model_digest: Annotated[str, PUBLIC]
    probe_set_digest: Annotated[str, PUBLIC]
    fingerprint: Annotated[str, PUBLIC]
    judged_on: Annotated[datetime.date, PUBLIC]
    counts: Annotated[dict[str, int], PUBLIC]
    """Probes per outcome, controls, confirmations."""
    records: Annotated[dict[str, str], PUBLIC] = field(default_factory=dict)
    """sha256 of each file that was judged, of run.json without its date, context and paths: of other records the
    verdict says nothing. Empty for records in no folder."""
    baseline: Annotated[BaselineRecord | None, PUBLIC] = None
    """None where none was given."""
    tested: Annotated[Scope, PUBLIC]
    weaknesses: Annotated[tuple[str, ...], PUBLIC] = ()
    """One sentence for each setting in which the policy is weaker than the shipped `strict`."""

    @property
    def exit_code(self) -> int:
        """0 pass, 10 block, 11 inconclusive."""
        return {"pass": PASS, "block": BLOCK, "inconclusive": INCONCLUSIVE}[self.decision]
