"""What a verdict says of images that are no probes: the share of the training data, the power and error of the run."""

from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Final

from invmm_gate.core.verdict_records import ExtractableShare, Power, Rung, SearchBaseRate, Verdict
from invmm_gate.policy.reach import CONFIDENCE, DETECTION, FEWEST
from invmm_gate.report.studied import Studied
from invmm_gate.report.texts import count, hits, interval, times

_MOST_RUNGS: Final = 12
"""Multiplicities that a sentence lists; verdict.json has all."""
_DIGITS: Final = 2
_SURE: Final = f"{100 * CONFIDENCE:g} %"
_MOST: Final = f"{100 * DETECTION:g} %"
_UNKNOWN: Final = (
    "What this run could have found in this model is unknown: no canary was planted a known number of times."
)


def reach_lines(verdict: Verdict, study: Studied | None, *, labels: bool = False) -> tuple[str, ...]:
    """The sentences, the bound first; none of them names a probe. `study` is told of where there are no canaries.

    `labels`: whether the run's model is class-conditional, so that a search goes through labels.
    """
    share = () if verdict.extractable is None else (_share(verdict.extractable),)
    rate = (
        ()
        if verdict.base_rate is None
        else (_base_rate(verdict.base_rate, "label search" if labels else "prompt search"),)
    )
    return (*share, *_power(verdict.power, study), *rate)


def at_most(share: float) -> str:
    """A bound in percent, never below the bound itself: two digits, rounded up."""
    return _rounded(share, ROUND_CEILING)


def at_least(share: float) -> str:
    """A bound in percent, never above the bound itself: two digits, rounded down."""
    return _rounded(share, ROUND_FLOOR)


def _rounded(share: float, rounding: str) -> str:
    digits = Context(prec=_DIGITS, rounding=rounding).multiply(Decimal(share), 100)
    return f"{digits:f} %" if digits else "0 %"


def _share(found: ExtractableShare) -> str:
    unsearched = (
        f", and {count(found.unsearched)} that were not searched in full count as found" if found.unsearched else ""
    )
    return (
        f"At most {at_most(found.upper)} of the training images are extractable by this search "
        f"({100 * found.confidence:g} % confidence): {hits(found.found, found.drawn)} that were drawn at random were "
        f"found{unsearched}."
    )


def _base_rate(rate: SearchBaseRate, search: str) -> str:
    return (
        f"The {search} brought out {hits(rate.found, rate.controls)} controls, so at most {at_most(rate.upper)} "
        f"of images that the model cannot have seen ({100 * rate.confidence:g} % confidence)."
    )


def _power(power: Power, study: Studied | None) -> Iterator[str]:
    if not power.rungs:
        yield _UNKNOWN
        yield from study.sentences() if study else ()
    else:
        yield _ladder(power.rungs)
        yield _from(power)
    if power.unstated:
        yield (
            f"{hits(power.unstated_found, power.unstated)} canaries of which nobody said how often they were planted "
            "were found."
        )
    if power.unsearched:
        yield f"{count(power.unsearched)} canaries that were not searched in full count as not found."


def _ladder(rungs: tuple[Rung, ...]) -> str:
    shown = "; ".join(
        f"{times(rung.multiplicity)}: {hits(rung.found, rung.planted)} ({interval(rung.interval)})"
        for rung in rungs[:_MOST_RUNGS]
    )
    more = f"; and {len(rungs) - _MOST_RUNGS} more multiplicities" if len(rungs) > _MOST_RUNGS else ""
    return f"Canaries found, by how often they were planted ({_SURE} intervals): {shown}{more}."


def _from(power: Power) -> str:
    if power.found_from is None:
        return (
            f"At no multiplicity do the canaries show that {_MOST} of such images are found; that takes at least "
            f"{FEWEST} canaries planted that often or more, all of them found."
        )
    return (
        f"Of images that were trained on {times(power.found_from)} or more, like these canaries, this search finds "
        f"at least {_MOST} ({_SURE} confidence)."
    )
