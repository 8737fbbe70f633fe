"""Settings of the measure as data: named, hashed into the fingerprint, printed in the report.

Scores compare only under one profile (learning rate, batch, test cycle and sampler all move the score).
`reference` is what the authors' code does, per family; `paper` what the text says; `gate` is ours.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

Family = Literal["pixel", "latent", "stable_diffusion", "stable_diffusion_3"]
"""`pixel`: the network works on pixels (DDPM). `latent`: on an autoencoder's latent (LDM). `stable_diffusion`: text-to-
image with a variance-preserving schedule (SD 1, 2, XL). `stable_diffusion_3`: text-to-image by flow matching."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InversionSettings:
    """Algorithm 1 of arXiv:2405.05846v3 with every departure of the authors' code as a field."""

    steps: int
    """T: optimisation steps before a probe counts as not inverted; a multiple of `test_every`."""
    batch_size: int
    """Noises per optimisation step and probe."""
    learning_rate: float = 0.1
    test_every: int = 50
    """C: steps between adaptations of the weight and sensitivity tests."""
    weight_step: float = 1e-4
    """delta: what the weight grows by at each step."""
    plateau_tolerance: float = 1e-3
    """xi: an improvement below this halves the weight."""
    plateau_sign: Literal["improvement", "paper"] = "improvement"
    """`improvement` halves when previous - now < xi (the code); `paper` when now - previous < xi (Algorithm 1)."""
    control_loss: Literal["denoise", "total"] = "denoise"
    """What the plateau test watches: the denoising error, or with the weighted normality (the LDM and SD code)."""
    loss_window: int = 100
    """Steps over which the watched loss is averaged; 1 = the current value (Algorithm 1)."""
    initial_weight: float = 1.0
    weight_rule: Literal["adaptive", "fixed"] = "adaptive"
    """`fixed` keeps `initial_weight`: the ablations with lambda = 0 and lambda = 1."""
    test_samples: int = 8
    """Samples of a sensitivity test; all of them must replicate the probe."""
    sampler_steps: int = 50
    guidance_scales: tuple[float, ...] = (1.0,)
    """The test passes if it passes at any of these scales. Unconditional models use 1 only."""
    prompt: Literal["none", "caption", "joint", "prompt_only"] = "none"
    """`none`: unconditional models. `caption`: the probe's caption, fixed (Table 1). `joint`: noise and a soft prompt.
    `prompt_only`: the soft prompt alone, noise fixed at N(0, I), where every score is 0 (section 9)."""
    prompt_tokens: int = 75
    """Token positions of the soft prompt; at most what the tokenizer takes."""
    temperature: float = 2.0
    """tau of the Gumbel-softmax (Eq. 18)."""
    hard_tests: bool = False
    """Test with hard prompts drawn by argmax (Eq. 19) in place of soft ones."""
    test_prompts: Literal["shared", "per_sample"] = "shared"
    """Prompts drawn at a test: one for all its noises, or one for each (the authors' SD 3)."""
    vocabulary: Literal["all", "typeable"] = "all"
    """What a soft prompt may mix: every token, or those that a user can type (they survive decoding and encoding)."""
    soft_encoders: Literal["first", "clip"] = "first"
    """Text encoders that see the soft prompt: the first, or every CLIP encoder."""
    other_prompt: Literal["caption", "empty"] = "caption"
    """What the other text encoders see."""
    long_captions: Literal["refuse", "truncate"] = "refuse"
    """A caption beyond the tokenizer's limit is an error, or cut as the pipeline does, which the record says."""
    objective: Literal["x_0", "epsilon"] = "x_0"
    """Whose error is minimised. `epsilon` weighs the error of x_0_hat with (alpha / sigma)^2 (section 9.5)."""
    test_at_start: bool = False
    """Test N(0, I) before the first step: an image that every noise replicates then scores 0."""
    confirmation_samples: int = 0
    """Independent samples drawn after success; all must replicate (29 of 29 certifies p >= 0.9 at 95 %). 0 = none."""
    mirror: bool = False
    """Also invert the mirrored image, as training with flips memorizes both; the lower score counts."""
    seeds: int = 1
    """Inversions per probe; the score is their lower median."""
    stop_above: float | None = None
    """Stop a probe with normality over `stop_above * (1 + stop_margin)` at `stop_tests` tests running; None = never."""
    stop_margin: float = 0.5
    stop_tests: int = 2
    stop_after: int = 100
    """No such stop before this step: normality overshoots at first."""
    posterior: Literal["mode", "sample"] = "mode"
    """Which latent of a KL autoencoder is the target."""


_REFERENCE: Final[dict[Family, InversionSettings]] = {
    "pixel": InversionSettings(steps=2000, batch_size=32, sampler_steps=200),
    "latent": InversionSettings(steps=2000, batch_size=16, test_every=10, weight_step=5e-4, control_loss="total"),
    "stable_diffusion": InversionSettings(
        steps=2000,
        batch_size=16,
        weight_step=1e-3,
        control_loss="total",
        prompt="joint",
        guidance_scales=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0),
    ),
    "stable_diffusion_3": InversionSettings(
        steps=2000,
        batch_size=16,
        weight_step=1e-3,
        control_loss="total",
        posterior="sample",
        prompt="joint",
        test_prompts="per_sample",
        guidance_scales=(1.0, 2.0, 3.0, 4.0, 5.0),
    ),
}

_GATE_TEXT: Final = InversionSettings(
    steps=500,
    batch_size=8,
    weight_step=1e-3,
    test_at_start=True,
    prompt="joint",
    soft_encoders="clip",
    guidance_scales=(1.0, 3.0, 7.0),
)

PROFILES: Final[dict[str, dict[Family, InversionSettings]]] = {
    "reference": _REFERENCE,
    "paper": {
        family: replace(settings, plateau_sign="paper", control_loss="denoise", loss_window=1)
        for family, settings in _REFERENCE.items()
    },
    "gate": {
        "pixel": InversionSettings(steps=400, batch_size=4, test_at_start=True),
        "latent": InversionSettings(steps=1000, batch_size=8, weight_step=5e-4, test_at_start=True),
        "stable_diffusion": _GATE_TEXT,
        "stable_diffusion_3": _GATE_TEXT,
    },
}
