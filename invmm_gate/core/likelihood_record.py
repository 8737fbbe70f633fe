"""The record of how likely an ordinary generation is a copy of a probe. Nothing here imports torch."""

from dataclasses import dataclass
from math import ceil, exp, floor, log
from typing import Literal

AskedKind = Literal["none", "caption", "typed", "soft"]
"""What a text model is given beside noise: nothing; the probe's caption; a prompt that was found and can be typed; a
soft prompt, which nobody can type."""
PromptKind = AskedKind | Literal["label", "other_label"]
"""The same, and what a class-conditional model is given: the probe's label, or another one."""
LikelihoodMethod = Literal["importance_sampling", "replication_share"]


def frequency(nats: float) -> str:
    """What a lower bound of -ln p says in words, never more than it says: `one in 44,000 generations`."""
    if nats < log(10):
        return f"{floor(100 * exp(-nats) + 1e-9)} % of generations"
    exponent = int(nats / log(10) + 1e-9)
    if exponent > 8:
        return f"one in 10^{ceil(nats / log(10) - 1e-9)} generations"
    unit = 10 ** (exponent - 1)
    return f"one in {ceil(exp(nats) / unit - 1e-9) * unit:,} generations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """The probability that a generation from N(0, I) is a copy of one probe: a line of likelihoods.jsonl.

    High = memorized. It is that of the measure's own sampler.
    """

    probe: str
    """Id of the probe."""
    prompt_kind: PromptKind
    """What the model was given."""
    nats: float | None
    """-ln of the lower bound, over all dimensions; None where nothing bounds it from below. Low = memorized. A bound of
    a large latent can be too small for a floating-point number; this one is exact."""
    lower: float
    """Lower bound, in [0, 1]."""
    estimate: float
    """Unbiased estimate, in [0, 1]."""
    upper: float
    """Upper bound, from the plain samples alone."""
    confidence: float
    """Of both bounds together, in (0, 1)."""
    method: LikelihoodMethod
    """What gave the lower bound: the importance estimate, or the share of draws of the inverted distribution that
    replicate and its distance from N(0, I)."""
    draws: int
    """Draws around the inverted distribution."""
    copies: int
    """Copies of the probe among them."""
    plain_draws: int
    """Plain samples: of a model without prompts the same for all probes, with prompts of each probe and kind."""
    plain_copies: int
    """Copies of the probe among them."""
    evaluations: int
    """Network forwards on one sample, without the plain samples."""
    guidance_scale: float | None = None
    """The scale at which it was sampled; None without a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """A lower bound of the probability that a generation is a copy of a probe. High = memorized."""

    probe: str
    """Id of the probe."""
    kind: PromptKind
    """What the model was given."""
    nats: float
    """-ln of the bound, >= 0: a bound can be too small for a floating-point number. Low = memorized."""
    confidence: float
    """Of the bound."""
