"""Distributions to draw noises from where the likelihood of an image is estimated: mixtures around an inverted one."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

Noise = Float[Tensor, "channel height width"]
Noises = Float[Tensor, "draw channel height width"]

STRETCHES: Final = (1.3, 1.0, 0.75, 0.55, 0.4)
"""Factors on mu and ln sigma^2 of the inverted distribution. That one replicates nearly always, with weights of heavy
tails. Those nearer to N(0, I) replicate now and then, with weights that differ less."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mixture:
    """N(0, I) in a share `plain` of the draws, else one of the components, each equally often."""

    components: tuple[tuple[Noise, Noise], ...]
    """(mu, ln sigma^2) of each."""
    plain: float

    def __post_init__(self) -> None:
        """Raises ValueError for a mixture without N(0, I): its weights would have no bound."""
        if not 0 < self.plain < 1 or not self.components:
            raise ValueError(f"plain is {self.plain} with {len(self.components)} components; expected both")

    def choose(self, draws: int, generator: torch.Generator) -> Int[Tensor, " draw"]:
        """The component of each draw, independently; -1 is N(0, I)."""
        chosen = torch.randint(len(self.components), (draws,), generator=generator)
        return torch.where(torch.rand(draws, generator=generator) < self.plain, -1, chosen)

    def noises(self, chosen: Int[Tensor, " draw"], standard: Noises) -> Noises:
        """A draw of each chosen component from standard normal draws."""
        # -1, N(0, I), is the last row.
        mu, log_var = (torch.stack([*part, torch.zeros_like(part[0])]) for part in zip(*self.components, strict=True))
        return mu[chosen] + (0.5 * log_var[chosen]).exp() * standard

    def log_weights(self, noises: Noises) -> Float[Tensor, " draw"]:
        """ln(pi / mixture) at each noise, in float64; at most -ln(plain)."""
        x = noises.double().flatten(1)
        share = log((1 - self.plain) / len(self.components))
        ratios = [share + _log_ratio(x, mu, log_var) for mu, log_var in self.components]
        return -torch.stack([torch.full_like(ratios[0], log(self.plain)), *ratios]).logsumexp(dim=0)


def around(mu: Noise, log_var: Noise, *, plain: float, stretches: Sequence[float] = STRETCHES) -> Mixture:
    """The mixture of an inverted distribution, nearer to N(0, I) and further away, and N(0, I) itself."""
    return Mixture(components=tuple((factor * mu, factor * log_var) for factor in stretches), plain=plain)


def _log_ratio(x: Float[Tensor, "draw feature"], mu: Noise, log_var: Noise) -> Float[Tensor, " draw"]:
    """ln(q / pi) at each row."""
    mean, log_variance = mu.double().flatten(), log_var.double().flatten()
    squares = x.square() - (x - mean).square() / log_variance.exp()
    return 0.5 * (squares - log_variance).sum(dim=1)
