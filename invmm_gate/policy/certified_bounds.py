"""How likely each probe of a run comes out at least, for those who have its records and no policy."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from typing import Final

from invmm_gate.core.likelihood_record import Certified, Likelihood, PromptKind
from invmm_gate.core.records import Confirmation
from invmm_gate.core.run_records import RunData
from invmm_gate.policy.evidence import Evidence
from invmm_gate.policy.likelihoods import USER_KINDS, certified
from invmm_gate.policy.soundness import sound_confirmations, sound_likelihoods

LIMIT: Final = 9 * log(10)
"""In nats. An image counts as one that can be drawn where at least one in 10^9 generations is certified to be a copy: a
service that draws a billion images meets it about once."""
COUNTED: Final = (9, 6, 3)
"""Powers of ten of which a run counts the images that are certified to be as likely: limits of the shipped policies."""
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class BestFigures:
    """The highest bound of a probe, with the estimate that gave it. High = memorized."""

    bound: Certified
    lower: float
    """The bound as a probability; 0 where it is too small for a floating-point number."""
    estimate: float | None
    """None for a bound of counted copies, and in a public edition."""
    upper: float | None


def certified_in(data: RunData) -> dict[str, dict[PromptKind, Certified]]:
    """`certified` for each probe that has a bound, from the run's sound records; in a public edition its bands."""
    found: dict[str, dict[PromptKind, Certified]] = defaultdict(dict)
    if data.public:
        for band in data.bands:
            found[band.probe][band.kind] = band
        return dict(found)
    likelihoods: dict[str, list[Likelihood]] = defaultdict(list)
    confirmations: dict[str, list[Confirmation]] = defaultdict(list)
    for record in sound_likelihoods(data):
        likelihoods[record.probe].append(record)
    for tried in sound_confirmations(data):
        confirmations[tried.probe].append(tried)
    for probe in data.run.probe_set.probes:
        own = Evidence(
            probes=(probe,),
            measured={},
            confirmations=tuple(confirmations[probe.id]),
            likelihoods=tuple(likelihoods[probe.id]),
        )
        found[probe.id] |= certified(own, probe)
    return {probe: bounds for probe, bounds in found.items() if bounds}


def is_drawn(bound: Certified) -> bool:
    """Whether the image counts as one that can be drawn."""
    return bound.nats <= LIMIT + _ROUNDING


def best_bound(bounds: Mapping[PromptKind, Certified]) -> Certified | None:
    """What a user can give comes first where it draws the image at all; else the highest bound of any kind."""
    typed = [bounds[kind] for kind in USER_KINDS if kind in bounds and is_drawn(bounds[kind])]
    return min(typed or bounds.values(), key=lambda bound: bound.nats, default=None)


def best_bounds(data: RunData) -> dict[str, Certified]:
    """`best_bound` for each probe that has one."""
    return {name: best for name, bounds in certified_in(data).items() if (best := best_bound(bounds))}


def best_figures(data: RunData) -> dict[str, BestFigures]:
    """The best bound of each probe that has one, with its estimate."""
    made = {(record.probe, record.prompt_kind, record.nats): record for record in data.likelihoods}
    found = {}
    for name, bound in best_bounds(data).items():
        record = made.get((name, bound.kind, bound.nats))
        found[name] = BestFigures(
            bound=bound,
            lower=exp(-bound.nats),
            estimate=record.estimate if record else None,
            upper=record.upper if record else None,
        )
    return found


def most_likely(data: RunData) -> list[float]:
    """-ln of the bounds of the images that must not come out, by what a user can give; the likeliest first."""
    targets = {probe.id for probe in data.run.probe_set.probes if probe.is_target}
    bounds = (bound for name, bound in best_bounds(data).items() if name in targets)
    return sorted(bound.nats for bound in bounds if bound.kind in USER_KINDS)


def certified_counts(data: RunData) -> dict[str, int]:
    """`1e-9` and so on: how many of these images are certified to be at least as likely."""
    nats = most_likely(data)
    return {f"1e-{power}": sum(each <= power * log(10) + _ROUNDING for each in nats) for power in COUNTED}
