"""Draws noises around an inverted distribution, and bounds how likely a generation is a copy of the probe."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from invmm_gate.core.intervals import lower_bound, upper_bound
from invmm_gate.core.likelihood_record import Likelihood, LikelihoodMethod, PromptKind
from invmm_gate.core.protocols import Condition, CopyMetric, DiffusionModel, NoiseSampler
from invmm_gate.diffusion.finite import refuse_non_finite
from invmm_gate.diffusion.prediction import repeat_rows
from invmm_gate.diffusion.samplers import seeds_from, streams_of
from invmm_gate.measure.distributions import normality
from invmm_gate.measure.likelihood import WeighedDraws, log_bound_of_share, log_lower_bound
from invmm_gate.measure.proposals import Mixture, Noise, Noises, around

_OF_SHARE: Final = 0.2
"""The part of the lower bound's error that the bound of the share may take. It seldom gives the better bound."""

References = Sequence[Float[Tensor, "1 feature"]]
"""The metric's features of the probe's image, and of its mirror image where that counts too."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generation:
    """How noises become features of images."""

    model: DiffusionModel
    sampler: NoiseSampler
    metric: CopyMetric
    steps: int
    rows: int
    """Rows of a call of the network; what is missing is padded with zeros."""
    condition: Condition | None = None
    """The prompt, one row."""
    guidance_scale: float = 1.0

    def features(self, noises: Noises, seeds: Int[Tensor, " draw"]) -> Float[Tensor, "draw feature"]:
        """The metric's features of each noise's sample. Raises MeasurementError for NaN or infinity.

        `seeds`: of what the sampler draws by itself for each of them.
        """
        parts = zip(torch.split(noises, self.rows), torch.split(seeds, self.rows), strict=True)
        return torch.cat([self._part(*part) for part in parts])

    def _part(self, noises: Noises, seeds: Int[Tensor, " draw"]) -> Float[Tensor, "draw feature"]:
        missing = self.rows - len(noises)
        rows = torch.cat([noises, noises.new_zeros(missing, *noises.shape[1:])]).to(self.model.device)
        x_0 = self.sampler.x_0(
            rows,
            streams_of(torch.cat([seeds, seeds.new_zeros(missing)])),
            steps=self.steps,
            condition=None if self.condition is None else repeat_rows(self.condition, self.rows),
            guidance_scale=self.guidance_scale,
        )
        refuse_non_finite(x_0[: len(noises)], "the sampler", do="check the checkpoint's weights")
        return self.metric.embed(self.model.decode(x_0))[: len(noises)]

    @property
    def cost(self) -> int:
        """Network forwards of one sample."""
        return self.sampler.forwards(steps=self.steps, guidance_scale=self.guidance_scale)

    def copies(self, features: Float[Tensor, "draw feature"], references: References) -> Bool[Tensor, " draw"]:
        """Which samples are copies. Raises MeasurementError for NaN or infinity."""
        values = torch.stack([self.metric.compare(features, reference) for reference in references])
        refuse_non_finite(values, f"the copy metric {self.metric.name}", do="check it on the images of the probes")
        return torch.stack([self.metric.is_copy(each) for each in values]).any(dim=0).cpu()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlainSamples:
    """Noises of N(0, I) with their samples' features, the same for all probes."""

    noises: Noises
    features: Float[Tensor, "draw feature"]


def plain_samples(generation: Generation, count: int, generator: torch.Generator) -> PlainSamples:
    """So many plain samples."""
    noises = torch.randn(count, *generation.model.latent_shape, generator=generator)
    return PlainSamples(noises=noises, features=generation.features(noises, seeds_from(generator, count)))


def likelihood(
    generation: Generation,
    plain: PlainSamples,
    references: References,
    inverted: tuple[Noise, Noise] | None,
    *,
    draws: int,
    confidence: float,
    generator: torch.Generator,
    probe: str,
    prompt_kind: PromptKind,
) -> Likelihood:
    """The bounds and the estimate for one probe.

    `inverted` is (mu, ln sigma^2), chosen before any of these draws; None where no inversion got near, so that the
    plain samples alone count. `draws` are made around it. Raises MeasurementError for NaN or infinity.
    """
    count = len(plain.noises)
    mixture = Mixture(components=(), counts=(), plain=count)
    if inverted is not None:
        mixture = around(*(part.cpu() for part in inverted), draws=draws, plain=count)
    own = mixture.noises(torch.randn(mixture.draws, *generation.model.latent_shape, generator=generator))
    plain_copies = generation.copies(plain.features, references)
    seeds = seeds_from(generator, len(own))
    own_copies = plain_copies[:0] if not len(own) else generation.copies(generation.features(own, seeds), references)
    copied = torch.cat([plain.noises[plain_copies], own[own_copies]])
    weighed = WeighedDraws(draws=count + mixture.draws, log_weights=tuple(mixture.log_weights(copied).tolist()))
    error = (1 - confidence) / 2
    bounds: dict[LikelihoodMethod, float] = {
        "importance_sampling": log_lower_bound(weighed, (1 - _OF_SHARE) * error),
        "replication_share": _share_bound(mixture, own_copies, _OF_SHARE * error),
    }
    method = max(bounds, key=bounds.__getitem__)
    lowest, hits = bounds[method], int(plain_copies.sum())
    return Likelihood(
        probe=probe,
        prompt_kind=prompt_kind,
        nats=None if lowest == -inf else -lowest,
        lower=exp(lowest),
        estimate=exp(min(weighed.log_estimate, 0.0)),
        upper=upper_bound(hits, count, confidence=1 - error),
        confidence=confidence,
        method=method,
        draws=mixture.draws,
        copies=int(own_copies.sum()),
        plain_draws=count,
        plain_copies=hits,
        evaluations=mixture.draws * generation.cost,
        guidance_scale=None if generation.condition is None else generation.guidance_scale,
    )


def _share_bound(mixture: Mixture, found: Bool[Tensor, " draw"], alpha: float) -> float:
    """The best bound that the share of one component gives, each with its part of the error."""
    best, parts = -inf, torch.split(found, list(mixture.counts)) if mixture.components else ()
    for (mu, log_var), of_it in zip(mixture.components, parts, strict=True):
        kl = float(normality(mu[None].double(), log_var[None].double())) * mu.numel()
        confidence = 1 - alpha / len(mixture.components)
        share = lower_bound(int(of_it.sum()), len(of_it), confidence=confidence)
        best = max(best, log_bound_of_share(share, kl))
    return best
