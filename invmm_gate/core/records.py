"""The frozen records of probes, checkpoints and measurements, which pass between the stages. Nothing imports torch.

Files hold these records as JSON; `runs/folder.py` is the only reader and writer. JSON has no infinity:
a probe that was not inverted has `outcome="not_inverted"` and `invmm=None`.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from invmm_gate.core.marks import PUBLIC

Group = Literal["sensitive", "duplicated", "sample", "control", "canary"]
GROUPS: Final[tuple[Group, ...]] = ("sensitive", "duplicated", "sample", "control", "canary")
"""`sample`: training images drawn at random. `control`: images that the model cannot have seen. `canary`: planted."""

Fit = Literal["", "exact", "crop", "squeeze", "pad"]
FITS: Final[tuple[Fit, ...]] = ("exact", "crop", "squeeze", "pad")
"""How training brought an image to the model's size; empty where nobody said, as for an image of the model's shape."""

Weights = Literal["raw", "ema"]
Outcome = Literal["inverted", "not_inverted", "above_threshold", "error"]
ConfirmationStatus = Literal["confirmed", "refuted", "undecided"]
PLAIN_SAMPLING: Final = "plain_sampling"
PLAIN_SAMPLING_ON_GRID: Final = "plain_sampling_on_grid"
CAPTION: Final = "caption"
CAPTION_ON_GRID: Final = "caption_on_grid"
CLUSTER_PROMPT: Final = "cluster_prompt"
GCG: Final = "gcg"
LABEL: Final = "label"
LABEL_ON_GRID: Final = "label_on_grid"
LABEL_SEARCH: Final = "label_search"
SEARCHES: Final = (GCG, LABEL_SEARCH)
ON_GRID: Final = (PLAIN_SAMPLING_ON_GRID, CAPTION_ON_GRID, LABEL_ON_GRID)
"""The ways in which a probe is confirmed: without a prompt, by its own, by one found for its cluster, by a search; of
a class-conditional model by its label, or by a search through the others.

All draw as the released pipeline does, but for those of ON_GRID: they draw with the measure's own sampler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One image under test."""

    id: str
    """Unique in the set; letters, digits, dot, dash and underscore, so it can name a file."""
    path: str
    """Image file, relative to the probe set's folder."""
    sha256: str
    """Of the image file."""
    group: Annotated[Group, PUBLIC]
    """What it is a probe of; a control is an image that the model cannot have seen."""
    line: int
    """Line of the manifest, from 1 (the header); row index + 2 for a parquet manifest."""
    category: Annotated[str, PUBLIC] = ""
    """A word that rules can select, such as `medical`."""
    caption: str = ""
    """The prompt that the image was trained with, for text-to-image models."""
    cluster: str = ""
    """Probes with one cluster name show the same picture."""
    source: str = ""
    """Where the image comes from."""
    licence: str = ""
    """Consent or licence."""
    added_on: str = ""
    """UTC date, ISO 8601."""
    fit: Fit = ""
    """How training brought the image to the size of the model; empty where nobody said."""
    multiplicity: Annotated[int, PUBLIC] = 0
    """How often a canary was planted in the training data; 0 where nobody said, and for any other group."""

    label: int | None = None
    """The class that the image was trained under, for class-conditional models: from 0; None where nobody said."""

    @property
    def is_target(self) -> bool:
        """Whether it is an image that must not come out: no control, and no canary that only measures the search."""
        return self.group != "control" and not (self.group == "canary" and self.multiplicity)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSet:
    """A validated manifest and where it lies."""

    folder: str
    """As it was given."""
    probes: Annotated[tuple[Probe, ...], PUBLIC]
    """In the order of the manifest."""
    digest: Annotated[str, PUBLIC]
    """sha256 over the manifest's content, which names every image's sha256."""
    manifest: Annotated[str, PUBLIC] = "manifest.csv"
    """File name of the manifest in the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A two-sided confidence interval of a proportion, both ends in [0, 1]."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""
    confidence: Annotated[float, PUBLIC]
    """Of both ends together, in (0, 1)."""
    method: Annotated[Literal["wilson", "clopper_pearson"], PUBLIC]
    """How it was computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationShare:
    """How many of a batch of samples replicate the probe. High = memorized."""

    hits: int
    """Samples that are copies of the probe."""
    trials: Annotated[int, PUBLIC]
    """Samples that were drawn."""
    interval: Annotated[Interval, PUBLIC]
    """Of the share of all samples that would be copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The state of one inversion at a test."""

    step: int
    """Optimisation steps that were done."""
    denoising_error: float | None
    """Of the objective, mean over the loss window; None before the first step, where nothing was drawn."""
    normality: float
    """KL(q || N(0, I)) per latent dimension, in nats."""
    weight: float
    """lambda, the weight of the normality."""
    best_value: float | None
    """Copy-metric value of the closest sample drawn at this test; None where no sample was drawn."""
    prompt_entropy: float | None = None
    """Mean entropy of the soft prompt's token distributions, in nats; None without one."""
    control_loss: float | None = None
    """What lambda follows, mean over the loss window: the denoising error, or with the weighted normality in it, as the
    setting `control_loss` says; None before the first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StretchedTest:
    """A test or an attempt to certify: of an optimised distribution, or of one nearer to N(0, I) or further away."""

    stretch: float
    """Factor on mu and ln sigma^2: 1 is the optimised distribution, below 1 lies nearer to N(0, I)."""
    normality: float
    """KL to N(0, I) per latent dimension, in nats."""
    share: ReplicationShare
    """Draws that replicate the probe. High = memorized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One inversion of one probe with one seed."""

    seed: int
    """Number of the trial, from 0."""
    outcome: Outcome
    """Of this trial alone."""
    invmm: float | None
    """InvMM in nats per latent dimension, >= 0; low = memorized. Only for `inverted`."""
    invmm_above: float | None
    """A bound that the score exceeds. Only for `above_threshold`."""
    steps: int
    """Optimisation steps that were done."""
    evaluations: int
    """Network forwards on one sample that this trial needed (a training step counts forward and backward as two)."""
    mirrored: bool
    """Whether the mirrored image was the target that this trial describes."""
    guidance_scale: float | None
    """The guidance scale at which most samples of the test that this describes are copies; None where none is."""
    share: ReplicationShare | None
    """Share of the draws that replicates the probe, at the stretch that is certified, or at which most of them did."""
    confirmation: ReplicationShare | None
    """Share of the fresh draws of the attempt that is certified, or of the one with most copies; None without one."""
    curve: tuple[CurvePoint, ...]
    """One point after every `test_every` steps, in their order."""
    tested_at: int
    """Optimisation steps before the test that `share` and `guidance_scale` describe."""
    tests: tuple[StretchedTest, ...] = ()
    """The passed tests, the last one and all attempts to certify, in their order. An attempt has as many draws as
    a test at least, and ends once too many of them are no copies."""
    reason: str = ""
    """Why the outcome is `error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The measurement of one probe: a line of measurements.jsonl."""

    probe: str
    """Id of the probe."""
    group: Annotated[Group, PUBLIC]
    """Of the probe."""
    category: Annotated[str, PUBLIC]
    """Of the probe."""
    outcome: Annotated[Outcome, PUBLIC]
    """Over the trials: `error` if any is, else that of the (lower) median trial."""
    invmm: float | None
    """Lower median over the seeds, a trial that was not inverted counting as +inf; low = memorized."""
    invmm_above: float | None
    """A bound that the score of the median trial exceeds. Only for `above_threshold`."""
    invmm_spread: tuple[float, float] | None
    """Smallest and largest finite score over the seeds."""
    share: Annotated[ReplicationShare | None, PUBLIC]
    """Replicating samples, added up over the trials."""
    steps: int
    """Optimisation steps of all trials."""
    evaluations: int
    """Network forwards on one sample, of all trials."""
    guidance_scale: float | None
    """Of the median trial."""
    trials: tuple[Trial, ...]
    """One a seed, and one of the mirrored image beside it where that was looked for."""
    reason: str = ""
    """Why the outcome is `error`."""
    label: int | None = None
    """The class label under which a class-conditional model was inverted: the one that denoises the image best.

    None for other models.
    """
    label_found: bool | None = None
    """Whether the manifest gives another label, or none; None without a label."""

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
    """Id of the probe."""
    method: Annotated[str, PUBLIC]
    """`plain_sampling`; for text models `caption`, `cluster_prompt` (found for a probe of its cluster) or `gcg`; for
    class-conditional ones `label` or `label_search`; with `_on_grid` by the measure's own sampler."""
    status: Annotated[ConfirmationStatus, PUBLIC]
    """`refuted` means within the budget, never "safe"."""
    hits: int
    """Samples that are copies of the probe."""
    trials: Annotated[int, PUBLIC]
    """Samples that were drawn."""
    interval: Annotated[Interval, PUBLIC]
    """Of the rate at which the input gives a copy."""
    evaluations: int
    """Network forwards on one sample."""
    closest: float | None
    """Copy-metric value of the closest sample."""
    prompt: str | None = None
    """The prompt that was given; None without one."""
    token_ids: tuple[int, ...] | None = None
    """Its tokens, as the first text encoder reads them."""
    guidance_scale: float | None = None
    """The scale at which it was tried; None without a prompt or a label."""
    copies: tuple[str, ...] = ()
    """Image files of generated copies, relative to the run folder."""
    sampler: str = ""
    """What drew the samples, in words: pipeline, scheduler, spacing, limits of x_0, steps."""
    alignment: str = ""
    """How the probe lies in the closest sample, for a metric that aligns; empty for as it is."""
    label: int | None = None
    """The class label that was given; None for models without classes."""
    labels_left: int = 0
    """Labels of the model that should have been tried too and were not; the outcome is then never `refuted`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """One check of the gate itself or of the model's usefulness, made before the probes are measured."""

    name: Annotated[str, PUBLIC]
    """One name a check."""
    passed: Annotated[bool, PUBLIC]
    """Whether the measure may be relied on, by this check."""
    detail: str
    """One sentence with the figures."""
    value: Annotated[float | None, PUBLIC] = None
    """What was found, where it is one figure."""
    limit: Annotated[float | None, PUBLIC] = None
    """What the value was held against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of a checkpoint; size in bytes."""

    path: Annotated[str, PUBLIC]
    """Relative to the checkpoint, with slashes."""
    size: Annotated[int, PUBLIC]
    """In bytes."""
    sha256: Annotated[str, PUBLIC]
    """Of the content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelManifest:
    """The files and parts of a checkpoint, found out without importing torch."""

    path: str
    """As it was given."""
    name: Annotated[str, PUBLIC]
    """The last part of the path, or what the registry calls it."""
    pipeline: Annotated[str, PUBLIC]
    """Diffusers class name, e.g. `DDPMPipeline`, or `UNet2DModel`."""
    files: Annotated[tuple[ModelFile, ...], PUBLIC]
    """Every file that is scored, sorted by path."""
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
    notes: Annotated[tuple[str, ...], PUBLIC] = ()
    """What a reader must know of how the checkpoint was read, a sentence each."""
    scheduler: Annotated[str, PUBLIC] = ""
    """Diffusers class name of the scheduler; its configuration is one of `files`."""
    prediction_type: Annotated[str, PUBLIC] = ""
    """What the network predicts: epsilon, v_prediction or sample."""
    asked_size: Annotated[int | None, PUBLIC] = None
    """Side of the images in pixels, where the policy names it (`measure.settings.image_size`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRecord:
    """The copy metric that a run used."""

    name: Annotated[str, PUBLIC]
    """Names the transform too, e.g. `sscd_disc_large@320` or `pixel_rmse`."""
    threshold: Annotated[float, PUBLIC]
    """From which value on a sample is a copy."""
    higher_is_copy: Annotated[bool, PUBLIC]
    """Whether values at or above the threshold are copies, or those at or below it."""
    digest: Annotated[str, PUBLIC] = ""
    """sha256 of the metric's own weights, where it has any; of an ONNX encoder that of its declaration, which names
    that of the weights. Two metrics that have weights: both, with a space between them."""
    unfit: Annotated[str, PUBLIC] = ""
    """Why the metric should not be trusted at this resolution; empty if it may be."""

    def is_copy(self, value: float) -> bool:
        """Whether a sample of this value is a copy."""
        return value >= self.threshold if self.higher_is_copy else value <= self.threshold
