"""Conformal p-values against controls and the Benjamini-Hochberg procedure, in exact fractions.

Fractions, because p-values and levels are ratios of small whole numbers that often meet exactly:
rounding must not decide a release.
"""

from bisect import bisect_right
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from math import ceil

Key = tuple[float, float]
"""How memorized an image looks, smallest first: (score or +inf, minus the share of replicating samples)."""


def p_values(keys: Sequence[Key], controls: Sequence[Key]) -> tuple[Fraction, ...]:
    """(1 + number of controls at or below the key) / (controls + 1), for each key; small = outlier.

    Ties count against the outlier. If probe and controls are exchangeable, P(p <= a) <= a.
    Source: conformal p-values, Bates et al., arXiv:2104.08279, eq. 2.
    """
    ranked = sorted(controls)
    return tuple(Fraction(1 + bisect_right(ranked, key), len(ranked) + 1) for key in keys)


def benjamini_hochberg(p: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Adjusted p-values, in the order given: min over all at least as large of p * count / rank, at most 1.

    Rejecting those at or below a level holds the false discovery rate at that level.
    Source: Benjamini and Hochberg 1995.
    """
    order = sorted(range(len(p)), key=lambda index: p[index], reverse=True)
    adjusted = [Fraction(1)] * len(p)
    smallest = Fraction(1)
    for place, index in enumerate(order):
        smallest = min(smallest, p[index] * len(p) / (len(p) - place))
        adjusted[index] = smallest
    return tuple(adjusted)


def exact(level: float) -> Fraction:
    """The decimal number that the level was written as: 0.1 is one tenth, not the nearest binary fraction."""
    return Fraction(Decimal(repr(level)))


def fewest_outliers(probes: int, controls: int, level: float) -> int | None:
    """How many of `probes` must lie below every control before any is flagged; None if even all are too few."""
    smallest = Fraction(1, controls + 1)
    return next((k for k in range(1, probes + 1) if smallest * probes <= exact(level) * k), None)


def controls_for_one(probes: int, level: float) -> int:
    """How many controls it takes for one of `probes` below all of them to be flagged."""
    return max(0, ceil(probes / exact(level)) - 1)
