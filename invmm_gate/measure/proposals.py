"""Distributions to draw noises from where the likelihood of an image is estimated: mixtures around an inverted one."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from sys import float_info
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

Noise = Float[Tensor, "channel height width"]
Noises = Float[Tensor, "draw channel height width"]

NEARER: Final = ((1.0, 12.0), (0.75, 8.0), (0.55, 5.5), (0.4, 3.0))
"""(factor on mu, nats): distributions with variance 1 whose mean is mu, moved towards 0 by the factor, or further until
it is so many nats away. What replicates is seldom narrower than N(0, I), and draws of a narrow distribution have
weights that vanish. Where the mean is n nats away, draws that replicate weigh about exp(-n). Chosen on the models that
benchmarks/ladder tunes on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mixture:
    """N(0, I) and other distributions, each with a number of draws that was fixed before any of them."""

    components: tuple[tuple[Noise, Noise], ...]
    """(mu, ln sigma^2) of each other distribution."""
    counts: tuple[int, ...]
    """Draws of each."""
    plain: int
    """Draws of N(0, I)."""

    def __post_init__(self) -> None:
        """Raises ValueError for a mixture without N(0, I): its weights would have no bound."""
        if self.plain < 1 or len(self.counts) != len(self.components) or min(self.counts, default=1) < 1:
            raise ValueError(f"{self.plain} plain draws, {self.counts} of {len(self.components)} components")

    @property
    def draws(self) -> int:
        """Draws of all components, without those of N(0, I)."""
        return sum(self.counts)

    def noises(self, standard: Noises) -> Noises:
        """The draws of the components, one component after the other, from as many standard normal draws."""
        parts = torch.split(standard, list(self.counts)) if self.components else ()
        moved = [mu + (0.5 * log_var).exp() * part for (mu, log_var), part in zip(self.components, parts, strict=True)]
        return torch.cat([standard[:0], *moved])

    def log_weights(self, noises: Noises) -> Float[Tensor, " draw"]:
        """ln(pi / mixture) at each noise, in float64; at most the logarithm of all draws over the plain ones."""
        x, total = noises.double().flatten(1), self.plain + self.draws
        ratios = [
            log(count / total) + _log_ratio(x, mu, log_var)
            for count, (mu, log_var) in zip(self.counts, self.components, strict=True)
        ]
        plain = torch.full((len(x),), log(self.plain / total), dtype=torch.float64)
        return -torch.stack([plain, *ratios]).logsumexp(dim=0)


def around(
    mu: Noise, log_var: Noise, *, draws: int, plain: int, nearer: Sequence[tuple[float, float]] = NEARER
) -> Mixture:
    """The mixture of an inverted distribution, of wide ones nearer to N(0, I), and of N(0, I) itself.

    The draws are split evenly; there must be one for each component.
    """
    own = max(float(mu.double().square().sum()) / 2, float_info.min)  # nats
    factors = (min(factor, (nats / own) ** 0.5) for factor, nats in nearer)
    components = ((mu, log_var), *((factor * mu, torch.zeros_like(mu)) for factor in factors))
    least, more = divmod(draws, len(components))
    return Mixture(
        components=components,
        counts=tuple(least + (place < more) for place in range(len(components))),
        plain=plain,
    )


def _log_ratio(x: Float[Tensor, "draw feature"], mu: Noise, log_var: Noise) -> Float[Tensor, " draw"]:
    """ln(q / pi) at each row."""
    mean, log_variance = mu.double().flatten(), log_var.double().flatten()
    squares = x.square() - (x - mean).square() / log_variance.exp()
    return 0.5 * (squares - log_variance).sum(dim=1)
