"""Settings of the measure as data: named, hashed into the fingerprint, printed in the report.

Scores compare only under one profile (learning rate, batch, test cycle and sampler all move the score).
`reference` is what the authors' code does, per family; `paper` what the text says; `gate` is ours.
What a policy names besides is here too: the copy metrics and the prompt search.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from invmm_gate.core.errors import ConfigError
from invmm_gate.core.marks import HIGHER_THAN_NONE, LOWER, MISSING, OTHER, ranked

Family = Literal[
    "pixel", "latent", "class_pixel", "class_latent", "stable_diffusion", "stable_diffusion_3", "flow"
]  # fmt: skip
"""`pixel`: the network works on pixels (DDPM). `latent`: on an autoencoder's latent (LDM). `class_pixel` and
`class_latent` (DiT): the same, and told a class by its label. `stable_diffusion`: text-to-image with a variance-
preserving schedule (SD 1, 2, XL, PixArt). `stable_diffusion_3` (SD 3, 3.5) and `flow` (all others): text-to-image by
flow matching."""

SoftEncoders = Literal["first", "clip", "all"]
"""Text encoders that see a soft prompt: the first, all that read the first one's tokens, or all that there are."""

COPY_METRICS: Final[Mapping[str, bool]] = {
    "pixel_rmse": False, "pixel_aligned": False, "pixel_l2_neighbours": False, "sscd": True, "onnx": True,
}  # fmt: skip
"""Copy metrics that a policy can name -> whether a higher value means a copy."""
ENCODERS: Final = ("sscd", "onnx")
"""What the names of metrics on embeddings begin with."""


def copy_metric(name: str) -> str:
    """The key of `COPY_METRICS` for a name in a policy: there are many encoders. Raises ValueError for none."""
    begins = next((begin for begin in ENCODERS if name.startswith(begin)), "")
    key = begins if begins and "@" not in name else name
    if key not in COPY_METRICS:
        exact = ", ".join(metric for metric in COPY_METRICS if metric not in ENCODERS)
        raise ValueError(
            f"unknown copy metric {name!r}; expected {exact}, or a name that begins with {' or '.join(ENCODERS)}"
        )
    return key


EITHER_AT: Final = 1.0
"""Threshold of two metrics together: each value is in units of its own limit."""


def either_name(*parts: tuple[str, float]) -> str:
    """What a run calls several metrics of which any may find a copy: (name, threshold) of each."""
    return " or ".join(f"{name} at {threshold:g}" for name, threshold in parts)


FARTHEST: Final = 2.25
"""The largest factor on mu and ln sigma^2 at which a distribution that was optimised is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InversionSettings:
    """Algorithm 1 of arXiv:2405.05846v3 with every departure of the authors' code as a field.

    Each field states the range that a policy may give it, and in which direction it weakens the gate.
    """

    steps: Annotated[int, Ge(1), Le(100_000), LOWER]
    """T: optimisation steps before a probe counts as not inverted; a multiple of `test_every`."""
    batch_size: Annotated[int, Ge(1), Le(10_000), OTHER]
    """Noises per optimisation step and probe."""
    learning_rate: Annotated[float, Gt(0), Le(10), OTHER] = 0.1
    """Adam's, for noise and prompt."""
    averaging: Annotated[float, Ge(0), Lt(1), OTHER] = 0.0
    """The distribution that is tested is a moving average over the steps with this decay; 0 = that of the last step."""
    timesteps: Annotated[Literal["uniform", "informative"], OTHER] = "uniform"
    """`informative`: only timesteps at which x_t says something about the probe, but not everything."""
    test_every: Annotated[int, Ge(1), Le(100_000), OTHER] = 50
    """C: steps between adaptations of the weight and sensitivity tests."""
    weight_step: Annotated[float, Ge(0), OTHER] = 1e-4
    """delta: what the weight grows by at each step."""
    plateau_tolerance: Annotated[float, Ge(0), OTHER] = 1e-3
    """xi: an improvement below this halves the weight."""
    plateau_sign: Annotated[Literal["improvement", "paper"], OTHER] = "improvement"
    """`improvement` halves when previous - now < xi (the code); `paper` when now - previous < xi (Algorithm 1)."""
    control_loss: Annotated[Literal["denoise", "total"], OTHER] = "denoise"
    """What the plateau test watches: the denoising error, or with the weighted normality (the LDM and SD code)."""
    loss_window: Annotated[int, Ge(1), Le(100_000), OTHER] = 100
    """Steps over which the watched loss is averaged; 1 = the current value (Algorithm 1)."""
    initial_weight: Annotated[float, Ge(0), OTHER] = 1.0
    """lambda at the first step: the weight of the normality beside the denoising error."""
    weight_rule: Annotated[Literal["adaptive", "fixed", "growing"], OTHER] = "adaptive"
    """`fixed` keeps `initial_weight`: the ablations with lambda = 0 and lambda = 1. `growing` raises it by the same
    factor at each step, from `initial_weight` to `final_weight`."""
    final_weight: Annotated[float, Gt(0), OTHER] = 1.0
    """lambda after the last step under the rule `growing`."""
    # More samples make a test harder to pass, so that fewer probes invert; fewer let the controls invert too.
    test_samples: Annotated[int, Ge(1), Le(10_000), OTHER] = 8
    """Samples of a sensitivity test; all of them must replicate the probe."""
    sampler: Annotated[Literal["grid", "released"], OTHER] = "grid"
    """What a sensitivity test and a likelihood sample with: the deterministic sampler on the measure's own grid, or the
    checkpoint's own scheduler as its pipeline runs it, whose noise is then part of what is drawn."""
    sampler_steps: Annotated[int, Ge(1), Le(1_000), OTHER] = 50
    """Steps of the sampler in a sensitivity test."""
    guidance_scales: Annotated[tuple[Annotated[float, Ge(0), Le(100)], ...], MinLen(1), MISSING] = (1.0,)
    """The test passes if it passes at any of these scales. Unconditional models use 1 only."""
    prompt: Annotated[Literal["none", "caption", "joint", "prompt_only", "label"], OTHER] = "none"
    """`none`: unconditional models. `caption`: the probe's caption, fixed (Table 1). `joint`: noise and a soft prompt.
    `prompt_only`: the soft prompt alone, noise fixed at N(0, I), where every score is 0 (section 9). `label`: the class
    label under which the probe is denoised best, fixed."""
    prompt_tokens: Annotated[int, Ge(1), Le(1_000), LOWER] = 75
    """Token positions of the soft prompt; at most what the tokenizer takes."""
    temperature: Annotated[float, Gt(0), Le(100), OTHER] = 2.0
    """tau of the Gumbel-softmax (Eq. 18)."""
    hard_tests: Annotated[bool, OTHER] = False
    """Test with hard prompts in place of soft ones: each token is drawn by its probability (Eq. 19)."""
    test_prompts: Annotated[Literal["shared", "per_sample"], OTHER] = "shared"
    """Prompts drawn at a test: one for all its noises and for all that follows at the same step, or one for each noise
    (the authors' SD 3). A share is certified under that one prompt, or over noises and prompts together."""
    vocabulary: Annotated[Literal["all", "typeable"], OTHER] = "all"
    """What a soft prompt may mix: every token, or those that a user can type (they survive decoding and encoding)."""
    soft_encoders: Annotated[SoftEncoders, OTHER] = "first"
    """Text encoders that see the soft prompt: the first, `clip` (all that read the first one's tokens) or `all`. Where
    some read tokens of their own, `all` mixes only words that can be typed and that each encoder reads as one token,
    whatever `vocabulary` says; elsewhere it is `clip`."""
    other_prompt: Annotated[Literal["caption", "empty"], OTHER] = "caption"
    """What the text encoders see that no soft prompt reaches, as T5 of Stable Diffusion 3 and CLIP of FLUX.1."""
    long_captions: Annotated[Literal["refuse", "truncate"], ranked("refuse", "truncate")] = "refuse"
    """A caption beyond the tokenizer's limit is an error, or cut as the pipeline does, which the record says."""
    objective: Annotated[Literal["x_0", "epsilon"], OTHER] = "x_0"
    """Whose error is minimised. `epsilon` weighs the error of x_0_hat with (alpha / sigma)^2 (section 9.5)."""
    test_at_start: Annotated[bool, ranked(True, False)] = False
    """Test N(0, I) before the first step: an image that every noise replicates then scores 0."""
    # A share that must be certified makes an inversion harder to confirm.
    certified_share: Annotated[Annotated[float, Gt(0), Lt(1)] | None, HIGHER_THAN_NONE] = None
    """Fresh draws, at the likeliest guidance scale, must certify with 95 % confidence that more than this share of them
    replicates: 29 of 29 for 0.9 in one attempt without a miss. None = the test alone counts."""
    certify_at: Annotated[Literal["success", "last_step"], OTHER] = "success"
    """`success`: a passed test has one attempt to certify, and the search goes on if that fails. `last_step`: tests are
    made before the first step and after the last one; what is found then is certified, or what lies further away."""
    certifications: Annotated[int, Ge(1), Le(100), OTHER] = 1
    """Attempts to certify with one seed. Those left after a certified one look for a smaller factor on mu
    and ln sigma^2. Each takes its part of the error, those of the mirrored image too: several make nothing easier."""
    certify_misses: Annotated[int, Ge(0), Le(100), OTHER] = 0
    """Draws of an attempt that may fail to replicate. Each takes further draws, and its part of the error."""
    mirror: Annotated[bool, ranked(True, False)] = False
    """Also invert the mirrored image, as training with flips memorizes both; the lower score counts."""
    # The score is the median of the seeds: an image that one seed in three inverts is found by one seed, or none.
    seeds: Annotated[int, Ge(1), Le(100), OTHER] = 1
    """Inversions per probe; the score is their lower median."""
    stop_above: Annotated[Annotated[float, Ge(0)] | None, LOWER] = None
    """Stop a probe with normality over `stop_above * (1 + stop_margin)` at `stop_tests` tests running; None = never."""
    stop_margin: Annotated[float, Ge(0), LOWER] = 0.5
    """How far above `stop_above` the normality must be, as a share of it."""
    stop_tests: Annotated[int, Ge(1), Le(100_000), LOWER] = 2
    """Tests running that must be above."""
    stop_after: Annotated[int, Ge(0), Le(100_000), LOWER] = 100
    """No such stop before this step: normality overshoots at first."""
    posterior: Annotated[Literal["mode", "sample"], OTHER] = "mode"
    """Which latent of a KL autoencoder is the target."""
    image_size: Annotated[Annotated[int, Ge(8), Le(8192)] | None, OTHER] = None
    """Side in pixels of the images that the model is asked for, where its checkpoint does not say for which size it was
    trained. None = the size at which its pipeline draws when nobody names one."""


_ONE_TO_SEVEN: Final = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
"""Source: arXiv:2405.05846v3, section 9.4: replication at any of these counts, for whichever model."""

_SD3: Final = InversionSettings(
    steps=2000,
    batch_size=16,
    weight_step=1e-3,
    control_loss="total",
    posterior="sample",
    prompt="joint",
    test_prompts="per_sample",
    guidance_scales=(1.0, 2.0, 3.0, 4.0, 5.0),
)

_PIXEL: Final = InversionSettings(steps=2000, batch_size=32, sampler_steps=200)
_LATENT: Final = InversionSettings(
    steps=2000, batch_size=16, test_every=10, weight_step=5e-4, control_loss="total"
)  # fmt: skip
_LABEL_SCALES: Final = (1.0, 4.0)
"""The conditional estimate, and DiTPipeline's own scale."""

_REFERENCE: Final[dict[Family, InversionSettings]] = {
    "pixel": _PIXEL,
    "latent": _LATENT,
    "class_pixel": replace(_PIXEL, prompt="label"),  # the authors measured no model with classes
    "class_latent": replace(_LATENT, prompt="label", guidance_scales=_LABEL_SCALES),
    "stable_diffusion": InversionSettings(
        steps=2000,
        batch_size=16,
        weight_step=1e-3,
        control_loss="total",
        prompt="joint",
        guidance_scales=_ONE_TO_SEVEN,
    ),
    "stable_diffusion_3": _SD3,
    "flow": _SD3,  # the authors measured no other model of flow matching
}

_GATE_NOISE: Final = InversionSettings(
    steps=150,
    batch_size=8,
    learning_rate=0.03,
    initial_weight=0.1,
    weight_rule="growing",
    timesteps="informative",
    averaging=0.95,
    test_at_start=True,
    certified_share=0.9,
    certify_at="last_step",
    certifications=4,
    certify_misses=3,
)
"""Chosen on the closed-form model and on the models that benchmarks/ladder tunes on, proved on its others."""

_GATE_TEXT: Final = InversionSettings(
    steps=500,
    batch_size=8,
    weight_step=1e-3,
    test_at_start=True,
    prompt="joint",
    soft_encoders="clip",
    guidance_scales=(1.0, 3.0, 7.0),
    certified_share=0.9,
    certifications=3,
    certify_misses=3,
)
"""One attempt at each success, until one is certified: with soft prompts, the first success is often a lucky one."""

PROFILES: Final[dict[str, dict[Family, InversionSettings]]] = {
    "reference": _REFERENCE,
    "paper": {
        family: replace(
            settings,
            plateau_sign="paper",
            control_loss="denoise",
            loss_window=1,
            guidance_scales=settings.guidance_scales if settings.prompt in ("none", "label") else _ONE_TO_SEVEN,
        )
        for family, settings in _REFERENCE.items()
    },
    "gate": {
        "pixel": _GATE_NOISE,
        "latent": replace(_GATE_NOISE, steps=300),
        "class_pixel": replace(_GATE_NOISE, prompt="label"),
        "class_latent": replace(_GATE_NOISE, steps=300, prompt="label", guidance_scales=_LABEL_SCALES),
        "stable_diffusion": _GATE_TEXT,
        "stable_diffusion_3": replace(_GATE_TEXT, soft_encoders="all"),  # T5 reads tokens of its own
        "flow": replace(_GATE_TEXT, vocabulary="typeable"),  # a language model's has 150,000 tokens and more
    },
}

Told = Literal["nothing", "label", "prompt"]
TOLD: Final[Mapping[Told, str]] = {
    "nothing": "an unconditional model", "label": "a class-conditional model", "prompt": "a text-to-image model",
}  # fmt: skip
"""What a model is told beside x_t -> what such a model is called."""


def told(prompt: str) -> Told:
    """What the models are told that a value of the setting `prompt` is for."""
    kinds: dict[str, Told] = {"none": "nothing", "label": "label"}
    return kinds.get(prompt, "prompt")


Forwards = Callable[[int, float], int]
"""(sampler steps, guidance scale) -> network forwards of one sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GcgPlan:
    """Settings of the prompt search (GCG); where the paper names one, the default is the paper's.

    Source: arXiv:2405.05846v3, appendix 8.3.
    """

    tokens: int = 20
    """Tokens of the prompt, at most what the tokenizer takes."""
    steps: int = 500
    candidates: int = 128
    """Prompts per step."""
    top_k: int = 256
    """Tokens that a position may change to: those with the lowest gradient."""
    noises: int = 16
    """Draws of timestep and noise that the prompts of a step share."""
    first_noises: int = 4
    """Draws after which only `first_noises / noises` of the candidates go on; = `noises` for no halving."""
    merges: int = 8
    """Prompts of a step that join its best changes; 0 = none."""
    guidance_scales: tuple[float, ...] = (1.0, 7.0)
    """A prompt is sampled at each of these scales in order, up to the first copy. The loss is that of the
    conditional estimate, as at scale 1: a scale of 7 can hide an image that the prompt itself brings out, and costs two
    forwards where 1 costs one."""
    sampler_steps: int = 50
    look_steps: int = 10
    """Sampler steps of the first, cheap look at a prompt whose loss is a record."""
    look_every: int = 10
    """Steps after which a prompt is sampled in full, whatever its loss and the cheap look say."""
    stop_samples: int = 8
    """Samples of a full look; any copy among them sends the prompt to the fresh seeds."""
    trials: int = 64
    """Fresh seeds for the prompt that is reported."""
    confidence: float = 0.95
    max_evaluations: int | None = None
    """Network forwards, those of the fresh seeds included: no step begins that could go beyond. None = no limit."""
    rows: int = 32
    """Rows of a call of the network."""

    def __post_init__(self) -> None:
        """Raises ConfigError for values that do not make a search."""
        counts = {name: value for name in _AT_LEAST_ONE if (value := getattr(self, name)) < 1}
        if counts:
            name, value = next(iter(counts.items()))
            raise ConfigError(f"gcg: {name} is {value}", expected="at least 1")
        if not self.guidance_scales:
            raise ConfigError("gcg: guidance_scales is empty", expected="at least one scale")
        if self.first_noises > self.noises:
            raise ConfigError(
                f"gcg: first_noises is {self.first_noises}", expected=f"at most noises, which is {self.noises}"
            )

    @property
    def stages(self) -> tuple[int, ...]:
        """Draws after each stage of the halving."""
        return (self.noises,) if self.first_noises == self.noises else (self.first_noises, self.noises)

    def sample_cost(self, steps: int, forwards: Forwards) -> int:
        """Network forwards of one sample at every scale."""
        return sum(forwards(steps, scale) for scale in self.guidance_scales)

    def fresh_seeds(self, forwards: Forwards) -> int:
        """Network forwards of trying a prompt on fresh seeds."""
        return self.trials * self.sample_cost(self.sampler_steps, forwards)

    def dearest_step(self, forwards: Forwards) -> int:
        """Most network forwards that a step and the look after it can take."""
        strings = self.candidates + 1
        left = max(1, strings * self.first_noises // self.noises)
        losses = strings * self.first_noises + left * (self.noises - self.first_noises) + self.merges * self.noises
        looks = self.sample_cost(self.look_steps, forwards)
        looks += self.stop_samples * self.sample_cost(self.sampler_steps, forwards)
        return 2 * self.noises + losses + looks

    def refuse_small_budget(self, forwards: Forwards) -> None:
        """Raises ConfigError for a `max_evaluations` that no step fits into."""
        least = self.dearest_step(forwards) + self.fresh_seeds(forwards)
        if self.max_evaluations is not None and self.max_evaluations < least:
            raise ConfigError(
                f"gcg: max_evaluations is {self.max_evaluations}",
                expected=f"at least {least}: one step and the fresh seeds",
                do="raise it, or make fewer candidates, noises or trials",
            )


_AT_LEAST_ONE: Final = (
    *("tokens", "steps", "candidates", "top_k", "noises", "first_noises"),
    *("sampler_steps", "look_steps", "look_every", "stop_samples", "trials", "rows"),
)
