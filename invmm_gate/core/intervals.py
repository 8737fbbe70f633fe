"""Confidence intervals of a proportion."""

from math import exp, expm1, log, sqrt
from statistics import NormalDist

from invmm_gate.core.records import Interval, ReplicationShare


def wilson(hits: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval, both ends in [0, 1]; [0, 1] for no trials. Source: Wilson, JASA 22 (1927)."""
    if trials == 0:
        return Interval(low=0.0, high=1.0, confidence=confidence, method="wilson")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = hits / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return Interval(
        low=0.0 if hits == 0 else max(0.0, centre - half),
        high=1.0 if hits == trials else min(1.0, centre + half),
        confidence=confidence,
        method="wilson",
    )


def clopper_pearson(hits: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """The exact interval of Clopper and Pearson: it covers at least as often as it says. Biometrika 26 (1934)."""
    tail = (1 - confidence) / 2
    if trials == 0:
        low, high = 0.0, 1.0
    elif hits == 0:  # powers at both ends, so that a run without a copy is judged without scipy
        low, high = 0.0, -expm1(log(tail) / trials)
    elif hits == trials:
        low, high = exp(log(tail) / trials), 1.0
    else:
        # scipy.special takes a tenth of a second to import.
        from scipy.special import betaincinv

        low = float(betaincinv(hits, trials - hits + 1, tail))
        high = float(betaincinv(hits + 1, trials - hits, 1 - tail))
    return Interval(low=low, high=high, confidence=confidence, method="clopper_pearson")


def upper_bound(hits: int, trials: int, *, confidence: float = 0.95) -> float:
    """The one-sided upper bound of Clopper and Pearson: 1.0 % for 0 of 300 at 95 %. 1 for no trials."""
    return clopper_pearson(hits, trials, confidence=2 * confidence - 1).high


def lower_bound(hits: int, trials: int, *, confidence: float = 0.95) -> float:
    """The one-sided lower bound of Clopper and Pearson: 95 % for 59 of 59 at 95 %. 0 for no trials."""
    return clopper_pearson(hits, trials, confidence=2 * confidence - 1).low


def replication_share(hits: int, trials: int) -> ReplicationShare:
    """A share with its 95 % Wilson interval."""
    return ReplicationShare(hits=hits, trials=trials, interval=wilson(hits, trials))


def binary_kl(share: float, log_p: float) -> float:
    """KL divergence, in nats, of an event of this probability from one of probability exp(`log_p`) < 1; share > 0.

    No map raises a KL: of draws of a distribution that lies at most so many nats from another, an event has no larger
    share. Source: the data-processing inequality, Cover and Thomas, Elements of Information Theory, section 2.8.
    """
    other = (1 - share) * (log(1 - share) - log(-expm1(log_p))) if share < 1 else 0.0
    return share * (log(share) - log_p) + other
