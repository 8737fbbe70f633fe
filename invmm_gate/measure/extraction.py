"""Draws noises around an inverted distribution, and bounds how likely a generation is a copy of the probe."""

from dataclasses import dataclass
from math import exp, inf

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invmm_gate.core.intervals import lower_bound, upper_bound
from invmm_gate.core.likelihood_record import Likelihood, LikelihoodMethod, PromptKind
from invmm_gate.core.protocols import Condition, CopyMetric, DiffusionModel
from invmm_gate.diffusion.prediction import repeat_rows
from invmm_gate.diffusion.sampling import sample
from invmm_gate.measure.distributions import normality
from invmm_gate.measure.likelihood import WeighedDraws, log_bound_of_share, log_lower_bound
from invmm_gate.measure.proposals import Mixture, Noise, Noises, around

_OF_SHARE = 0.2
"""The part of the lower bound's error that the bound of the share may take. It seldom gives the better bound."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generation:
    """How noises become features of images."""

    model: DiffusionModel
    metric: CopyMetric
    steps: int
    rows: int
    """Rows of a call of the network; what is missing is padded with zeros."""
    condition: Condition | None = None
    """The prompt, one row."""
    guidance_scale: float = 1.0

    def features(self, noises: Noises) -> Float[Tensor, "draw feature"]:
        """The metric's features of each noise's sample."""
        return torch.cat([self._part(part) for part in torch.split(noises, self.rows)])

    def _part(self, noises: Noises) -> Float[Tensor, "draw feature"]:
        padding = noises.new_zeros(self.rows - len(noises), *noises.shape[1:])
        rows = torch.cat([noises, padding]).to(self.model.device)
        condition = None if self.condition is None else repeat_rows(self.condition, self.rows)
        x_0 = sample(self.model, rows, steps=self.steps, condition=condition, guidance_scale=self.guidance_scale)
        return self.metric.embed(self.model.decode(x_0))[: len(noises)].cpu()

    @property
    def cost(self) -> int:
        """Network forwards of one sample."""
        return self.steps * self.model.forwards(self.guidance_scale)

    def copies(
        self, features: Float[Tensor, "draw feature"], reference: Float[Tensor, "1 feature"]
    ) -> Bool[Tensor, " draw"]:
        """Which samples are copies."""
        return self.metric.is_copy(self.metric.compare(features, reference.cpu()))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlainSamples:
    """Noises of N(0, I) with their samples' features, the same for all probes."""

    noises: Noises
    features: Float[Tensor, "draw feature"]


def plain_samples(generation: Generation, count: int, generator: torch.Generator) -> PlainSamples:
    """So many plain samples."""
    noises = torch.randn(count, *generation.model.latent_shape, generator=generator)
    return PlainSamples(noises=noises, features=generation.features(noises))


def likelihood(
    generation: Generation,
    plain: PlainSamples,
    reference: Float[Tensor, "1 feature"],
    inverted: tuple[Noise, Noise],
    *,
    draws: int,
    confidence: float,
    generator: torch.Generator,
    probe: str,
    prompt_kind: PromptKind,
) -> Likelihood:
    """The bounds and the estimate for one probe; `inverted` is (mu, ln sigma^2), chosen before any of these draws.

    As many draws are made as there are plain samples, about `draws` of them around the inverted distribution. The plain
    samples stand for those of N(0, I), each for one at most, so that the draws are independent of one another.
    """
    pool = len(plain.noises)
    mixture = around(*(part.cpu() for part in inverted), plain=1 - draws / pool)
    chosen = mixture.choose(pool, generator)
    own = chosen >= 0
    standard = torch.randn(pool, *generation.model.latent_shape, generator=generator)
    noises = torch.where(own[:, None, None, None], mixture.noises(chosen, standard), plain.noises)
    found = generation.copies(plain.features, reference)
    plain_copies = int(found.sum())
    found[own] = generation.copies(generation.features(noises[own]), reference)
    weighed = WeighedDraws(draws=pool, log_weights=tuple(mixture.log_weights(noises)[found].tolist()))
    error = (1 - confidence) / 2
    bounds: dict[LikelihoodMethod, float] = {
        "importance_sampling": log_lower_bound(weighed, (1 - _OF_SHARE) * error),
        "replication_share": _share_bound(mixture, chosen, found, _OF_SHARE * error),
    }
    method = max(bounds, key=bounds.__getitem__)
    lowest = bounds[method]
    return Likelihood(
        probe=probe,
        prompt_kind=prompt_kind,
        nats=None if lowest == -inf else -lowest,
        lower=exp(lowest),
        estimate=exp(min(weighed.log_estimate, 0.0)),
        upper=upper_bound(plain_copies, pool, confidence=1 - error),
        confidence=confidence,
        method=method,
        draws=int(own.sum()),
        copies=int(found[own].sum()),
        plain_draws=pool,
        plain_copies=plain_copies,
        evaluations=int(own.sum()) * generation.cost,
    )


def _share_bound(mixture: Mixture, chosen: Tensor, found: Tensor, alpha: float) -> float:
    """The best bound that the share of one component gives, each with its part of the error."""
    best = -inf
    for place, (mu, log_var) in enumerate(mixture.components):
        of_it = chosen == place
        kl = float(normality(mu[None].double(), log_var[None].double())) * mu.numel()
        if draws := int(of_it.sum()):
            confidence = 1 - alpha / len(mixture.components)
            share = lower_bound(int(found[of_it].sum()), draws, confidence=confidence)
            best = max(best, log_bound_of_share(share, kl))
    return best
