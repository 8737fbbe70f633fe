"""Whether a group as a whole looks more memorized than the controls: a precedence test, in exact fractions.

Fractions for the reason that `conformal.py` gives. A rank sum would be the usual choice, but with ties its null
distribution moves with the data: a lower score could then turn a block into a pass. Here it cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb

from invmm_gate.policy.conformal import Key, exact


@dataclass(frozen=True, slots=True)
class Look:
    """What a group shows past the lowest controls."""

    p: Fraction
    """How likely a group that is no more memorized than the controls stands out as much in any look, at most."""
    below: int
    """Probes that lie below all controls but the lowest ones."""
    past: int
    """The number of these lowest controls."""


def strongest_look(probes: Sequence[Key], controls: Sequence[Key]) -> Look:
    """The look at the group with the smallest p. `controls` holds at least one.

    Look j = 0, 1, 2, ... counts the probes below all controls but the j lowest, and has the share 1 / 2^(j+1) of the
    error: one control that inverts by luck hides no group. Ties count against the finding. If probes and controls are
    exchangeable, P(p <= a) <= a. A lower key of a probe never raises p, nor does a higher key of a control.
    Source: precedence test, Nelson 1963 (Technometrics 5:491); Bonferroni over the looks.
    """
    looks = []
    for past, control in enumerate(sorted(controls)):
        below = sum(key < control for key in probes)
        p = tail(below, past, probes=len(probes), controls=len(controls)) * 2 ** (past + 1)
        looks.append(Look(min(p, Fraction(1)), below, past))
    return min(looks, key=lambda look: look.p)


def tail(below: int, past: int, *, probes: int, controls: int) -> Fraction:
    """P(at least `below` probes lie below all controls but the `past` lowest), if all orders are equally likely.

    That is: at most `past` controls are among the `below + past` lowest images.
    """
    lowest, images = below + past, probes + controls
    ways = sum(comb(lowest, few) * comb(images - lowest, controls - few) for few in range(past + 1))
    return Fraction(ways, comb(images, controls))


def holm(p: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Adjusted p-values, in the order given: rejecting those at or below a level holds the chance of any false finding.

    Source: Holm 1979 (Scandinavian Journal of Statistics 6:65).
    """
    order = sorted(range(len(p)), key=lambda index: p[index])
    adjusted = [Fraction(1)] * len(p)
    largest = Fraction(0)
    for place, index in enumerate(order):
        largest = max(largest, p[index] * (len(p) - place))
        adjusted[index] = min(largest, Fraction(1))
    return tuple(adjusted)


def fewest_below(probes: int, controls: int, level: Fraction | float) -> int | None:
    """How many probes of a group must lie below every control before it is flagged alone; None if even all are too few.

    For the first of n groups the level is alpha / n.
    """
    most = exact(level) if isinstance(level, float) else level
    return next((k for k in range(1, probes + 1) if 2 * tail(k, 0, probes=probes, controls=controls) <= most), None)
