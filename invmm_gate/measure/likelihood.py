"""How likely an ordinary generation is a copy of the probe: p = pi(R), where R holds the noises whose sample is a copy.

pi = N(0, I). Draws of another distribution q that replicate the probe bound p from below, whatever q is; so a search
may choose q as it likes, if the draws that count are made after the choice. docs/measure.md has the derivations.
All logarithms are natural; -inf is the logarithm of nothing. High = memorized.
"""

from dataclasses import dataclass
from math import ceil, inf, log, log2
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from invmm_gate.core.intervals import binary_kl

_FEWEST_BETS: Final = 10
_HALVINGS: Final = 60
"""Steps of a bisection: enough for float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighedDraws:
    """Draws from one distribution, or from several in fixed numbers; all of it was fixed before them."""

    draws: int
    """How many."""
    log_weights: tuple[float, ...]
    """ln(pi / q) at each draw that replicates the probe, q their mixture; the others weigh nothing."""

    @property
    def log_estimate(self) -> float:
        """The logarithm of the importance estimate of p: unbiased for every q that covers R."""
        return float(np.logaddexp.reduce(self.log_weights)) - log(self.draws) if self.log_weights else -inf


def log_lower_bound(found: WeighedDraws, alpha: float) -> float:
    """The logarithm of a bound that p lies below with a probability of at most `alpha`.

    The bound is the largest m at which a bet against p <= m multiplies its stake by 1 / alpha. Half of the stake is
    Markov's: the estimate over m, which is 1 in the mean at p = m. The other half is staked draw by draw, in shares
    c of the capital: the product of 1 - c + c w / m. Source: Waudby-Smith and Ramdas, arXiv:2010.09686, section 4;
    only w >= 0 is used, so weights may be as large as they like. Of draws from several distributions w is p in the
    mean over all of them; the product of their factors' means is then at most that of equal ones.
    """
    if not found.log_weights:
        return -inf
    high = found.log_estimate  # At this m no bet wins: the logarithm is concave.
    low = high - 1.0
    while bet_against(found, low) < -log(alpha):
        low -= high - low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if bet_against(found, middle) >= -log(alpha):
            low = middle
        else:
            high = middle
    return low


def bet_against(found: WeighedDraws, log_m: float) -> float:
    """The logarithm of what a bet against p <= m multiplies its stake by: in the mean by 1 at p = m."""
    bets = _bets(found.draws)
    gains = np.logaddexp(np.log1p(-bets), np.log(bets) + np.array(found.log_weights) - log_m).sum(axis=1)
    losses = np.log1p(-bets[:, 0]) * (found.draws - len(found.log_weights))
    drawn = np.logaddexp.reduce(gains + losses) - log(len(bets))
    return float(np.logaddexp(drawn, found.log_estimate - log_m)) - log(2)


def _bets(draws: int) -> NDArray[np.float64]:
    """Shares of its capital that a gambler stakes on each draw, all with the same weight.

    The least is about 4 / draws: most draws weigh nothing, and a larger share is lost before a copy comes.
    """
    least = max(_FEWEST_BETS, ceil(log2(draws)) - 2)
    return np.array([1 - 2.0**-k for k in (4, 3, 2)] + [2.0**-k for k in range(1, least + 1)])[:, None]


def log_bound_of_share(share: float, kl: float) -> float:
    """The logarithm of the smallest p under which a q `kl` nats from pi can replicate the probe in this share.

    No map raises a KL: kl >= s ln(s / p) + (1 - s) ln((1 - s) / (1 - p)), the binary KL of share and p. It follows
    that p >= exp(-(kl + h(s)) / s), h the binary entropy; the bound solves the inequality itself, which is tighter.
    Source: the data-processing inequality, Cover and Thomas, Elements of Information Theory, section 2.8.
    """
    if share <= 0:
        return -inf
    low, high = -(kl + _entropy(share)) / share, log(share)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if binary_kl(share, middle) > kl:
            low = middle
        else:
            high = middle
    return low


def draws_to_certify(share: float, alpha: float, *, misses: int = 0) -> tuple[int, ...]:
    """After how many draws none, one, two, .. of them may have failed to replicate; the last is for `misses`.

    A share below this one ever gets so far in at most `alpha` of cases: each of these looks may be wrong in its equal
    part of them. Source: the exact test of a binomial share (Clopper and Pearson 1934), and Bonferroni's inequality.
    """
    counts, part = [1], alpha / (misses + 1)
    for allowed in range(misses + 1):
        draws = counts[-1]
        while bdtr(allowed, draws, 1 - share) > part:
            draws += 1
        counts.append(draws)
    return tuple(counts[1:])


def _entropy(share: float) -> float:
    return -sum(part * log(part) for part in (share, 1 - share) if part > 0)
