"""The public edition: a run's records as anybody may see them. A field is left out unless it is marked as public.

A reader without the key cannot link a probe's name to an image, and no figure of a single probe is exact: exact scores
tell which images a model was trained on. Digests, settings, thresholds, counts and the decision are what they were.
"""

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from math import floor, isfinite, log
from pathlib import PurePath
from typing import Final, Self, final

from invmm_gate.core.intervals import clopper_pearson, wilson
from invmm_gate.core.likelihood_record import Certified
from invmm_gate.core.marks import only_public
from invmm_gate.core.records import Confirmation, Interval, Measurement, Probe, ReplicationShare
from invmm_gate.core.run_records import RunData, RunRecord
from invmm_gate.core.verdict_records import Finding, Verdict, Waiver
from invmm_gate.policy.certified_bounds import certified_in
from invmm_gate.policy.judge import reasons_for, waiver_notes
from invmm_gate.policy.soundness import sound_confirmations
from invmm_gate.report.texts import description_of

INVMM_EDGES: Final = (0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper ends of the bands of InvMM, the thresholds of the shipped policies among them; beyond the last, the last."""
SHARE_EDGES: Final = (Fraction(0), Fraction(1, 100), Fraction(1, 10), Fraction(1, 2), Fraction(1))
"""Upper ends of the bands of a share of samples. None at all is a band of its own."""

LIKELIHOOD_EDGES: Final = (1, 2, 3, 6, 9)
"""Lower ends of the bands of a likelihood: one in 10 to this power, the limits of the shipped policies among them. A
lower bound below the last has no band: its power of ten would tell the score."""

NOTE: Final = (
    "Public edition: names of probes and clusters are keyed hashes. An InvMM is the upper end of its band "
    f"({', '.join(f'{edge:g}' for edge in INVMM_EDGES)}), a bound the lower end. A count of replicating samples is the "
    "most that its band holds (none, 1 %, 10 %, 50 %, 100 % of the samples), with an interval that covers the band's. "
    "How often an image comes out is the lower end of its band "
    f"({', '.join(f'one in {10**edge:,}' for edge in LIKELIHOOD_EDGES)}); what is rarer is left out. The full "
    "report stays in the run folder."
)

_INTERVALS: Final[dict[str, Callable[..., Interval]]] = {"wilson": wilson, "clopper_pearson": clopper_pearson}


def score_band(value: float | None) -> float | None:
    """The upper end of an InvMM's band."""
    if value is None or not isfinite(value):
        return None
    return next((edge for edge in INVMM_EDGES if value <= edge), INVMM_EDGES[-1])


def bound_band(value: float | None) -> float | None:
    """The lower end of the band of a value that the score exceeds: it exceeds that too."""
    if value is None or not isfinite(value):
        return None
    return max((edge for edge in INVMM_EDGES if edge <= value), default=0.0)


def likelihood_band(nats: float) -> float | None:
    """-ln of the lower end of the band of a likelihood that is at least exp(-nats); None below the last band."""
    edges = (edge * log(10) for edge in LIKELIHOOD_EDGES)
    return next((edge for edge in edges if nats <= edge + 1e-9), None)


def share_band(share: ReplicationShare | None) -> ReplicationShare | None:
    """The most hits of the share's band."""
    if share is None:
        return None
    hits, interval = counts_band(share.hits, share.trials, share.interval)
    return ReplicationShare(hits=hits, trials=share.trials, interval=interval)


def counts_band(hits: int, trials: int, interval: Interval) -> tuple[int, Interval]:
    """The most hits of the band, and an interval that covers those of all counts in it: both tell of the band alone."""
    return _counts_band(_band_of(hits, trials), max(trials, 0), interval.confidence, interval.method)


def _band_of(hits: int, trials: int) -> int:
    share = Fraction(hits, trials) if trials > 0 else Fraction(0)
    ends = _ends(max(trials, 0))
    return next((band for band, most in enumerate(ends) if share * trials <= most), len(ends) - 1)


@cache
def _ends(trials: int) -> tuple[int, ...]:
    """The most hits of each band. A band of a single count, which would be exact, is one with that above it."""
    ends = [0]
    for edge in SHARE_EDGES[1:]:
        most = floor(edge * trials)
        if most > ends[-1] + 1 or edge == SHARE_EDGES[-1]:
            ends.append(most)
    return tuple(ends)


@cache
def _counts_band(band: int, trials: int, confidence: float, method: str) -> tuple[int, Interval]:
    most, least = _ends(trials)[band], _least_of(band, trials)
    low, high = (_INTERVALS[method](count, trials, confidence=confidence) for count in (least, most))
    return most, Interval(low=low.low, high=high.high, confidence=confidence, method=low.method)


def _least_of(band: int, trials: int) -> int:
    ends = _ends(trials)
    return min(ends[band - 1] + 1, ends[band]) if band else 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PublicNames:
    """The public names of one run's probes; under one key, one image has one name in all runs."""

    key: bytes = field(repr=False)
    probes: Mapping[str, str]
    """Id -> public name."""

    @classmethod
    def under(cls, key: bytes, probes: Iterable[Probe]) -> Self:
        """`p-` and the first 16 hexadecimal digits of HMAC-SHA256(key, "image:" + sha256 of the image).

        Further probes of one image get `-2`, `-3` and so on behind it, in the set's order.
        """
        named: dict[str, str] = {}
        seen: dict[str, int] = {}
        for probe in probes:
            if probe.id not in named:
                name = f"p-{_hash(key, 'image', probe.sha256)}"
                seen[name] = seen.get(name, 0) + 1
                named[probe.id] = name if seen[name] == 1 else f"{name}-{seen[name]}"
        return cls(key=key, probes=named)

    def of(self, probe: str) -> str:
        """The probe's public name; an id that the set does not have gets one of its own kind, `x-...`."""
        return self.probes.get(probe) or f"x-{_hash(self.key, 'id', probe)}"

    def of_cluster(self, cluster: str) -> str:
        """The cluster's public name; empty for none."""
        return f"c-{_hash(self.key, 'cluster', cluster)}" if cluster else ""


def _hash(key: bytes, kind: str, text: str) -> str:
    return hmac.digest(key, f"{kind}:{text}".encode("utf-8", "backslashreplace"), "sha256").hex()[:16]


WITHHELD: Final = "withheld"
"""Stands for a text that somebody wrote, as it may name what is private."""


def public(data: RunData, names: PublicNames) -> RunData:
    """The records without ids, texts and exact figures of single probes, in an order that tells nothing either."""
    measurements = (_measurement(item, names) for item in data.measurements)
    confirmations = (_confirmation(item, names) for item in data.confirmations)
    return replace(
        only_public(data),
        run=_run(data.run, names),
        measurements=tuple(sorted(measurements, key=lambda item: item.probe)),
        confirmations=tuple(sorted(confirmations, key=lambda item: (item.probe, item.method))),
        bands=tuple(sorted(_bands(data, names), key=lambda band: (band.probe, band.kind))),
        verdict=None if data.verdict is None else _verdict(data, data.verdict, names),
        public=True,
    )


def _bands(data: RunData, names: PublicNames) -> Iterator[Certified]:
    """Counted copies bound no more than their own band does: few of them would else be told exactly."""
    coarse = replace(data, confirmations=tuple(map(_least, sound_confirmations(data))))
    for probe, bounds in certified_in(coarse).items():
        for bound in bounds.values():
            nats = likelihood_band(bound.nats)
            if nats is not None:
                yield replace(bound, probe=names.of(probe), nats=nats)


def _run(run: RunRecord, names: PublicNames) -> RunRecord:
    shown = only_public(run)
    probes = sorted((_probe(probe, names) for probe in run.probe_set.probes), key=lambda probe: probe.id)
    cut = {names.of(probe): 0 for probe in run.context.truncated_captions}  # what a report warns of
    return replace(
        shown,
        model=replace(shown.model, adapters=tuple(PurePath(adapter).name for adapter in run.model.adapters)),
        probe_set=replace(shown.probe_set, probes=tuple(probes)),
        context=replace(only_public(run.context), truncated_captions=cut),
    )


def _probe(probe: Probe, names: PublicNames) -> Probe:
    return replace(only_public(probe), id=names.of(probe.id), cluster=names.of_cluster(probe.cluster))


def _measurement(item: Measurement, names: PublicNames) -> Measurement:
    return replace(
        only_public(item),
        probe=names.of(item.probe),
        invmm=score_band(item.invmm),
        invmm_above=bound_band(item.invmm_above),
        share=share_band(item.share),
        reason=WITHHELD if item.reason else "",
    )


def _least(item: Confirmation) -> Confirmation:
    """With the fewest copies of its band."""
    least = _least_of(_band_of(item.hits, item.trials), item.trials)
    interval = _INTERVALS[item.interval.method](least, item.trials, confidence=item.interval.confidence)
    return replace(item, hits=least, interval=interval)


def _confirmation(item: Confirmation, names: PublicNames) -> Confirmation:
    hits, interval = counts_band(item.hits, item.trials, item.interval)
    return replace(only_public(item), probe=names.of(item.probe), hits=hits, interval=interval)


def _verdict(data: RunData, verdict: Verdict, names: PublicNames) -> Verdict:
    findings = tuple(sorted((_finding(item, names) for item in verdict.findings), key=_place))
    states = tuple(replace(state, waiver=_waiver(state.waiver, names)) for state in verdict.waivers)
    baseline = only_public(verdict.baseline) if verdict.baseline is not None else None
    return replace(
        only_public(verdict),
        reasons=(*reasons_for(verdict.decision, findings), *_tolerated(data, verdict), *waiver_notes(states)),
        findings=findings,
        waivers=states,
        baseline=None if baseline is None else replace(baseline, reason=WITHHELD),
    )


def _place(finding: Finding) -> tuple[bool, str, str, str, str]:
    """By nothing that could tell of the probe set's order."""
    return (finding.waiver is not None, finding.effect, finding.rule, finding.probe or "", finding.group or "")


def _finding(finding: Finding, names: PublicNames) -> Finding:
    probe = None if finding.probe is None else names.of(finding.probe)
    return replace(
        only_public(finding),
        probe=probe,
        message=_message(finding, probe),
        limit=finding.limit if description_of(finding.rule).limit_is_public else None,
        waiver=None if finding.waiver is None else _waiver(finding.waiver, names),
    )


def _message(finding: Finding, probe: str | None) -> str:
    """What the rule says of such a finding; its own message has the probe's figures, or names probes."""
    texts = description_of(finding.rule)
    if probe is None and finding.group is None:
        return texts.of_run or f"the rule {finding.rule} could not be decided"
    said = texts.blocks if finding.effect == "block" else texts.leaves_open
    return (said or "{probe} has a finding of another rule").format(probe=probe, group=finding.group)


def _waiver(waiver: Waiver, names: PublicNames) -> Waiver:
    probe = None if waiver.probe is None else names.of(waiver.probe)
    return replace(only_public(waiver), probe=probe, reason=WITHHELD)


def _tolerated(data: RunData, verdict: Verdict) -> tuple[str, ...]:
    """Controls that broke without a finding."""
    found = {finding.probe for finding in verdict.findings}
    broken = [item for item in data.measurements if item.outcome == "error" and item.probe not in found]
    said = f"{len(broken)} controls broke, which the policy allows for, and count against the model"
    return (said,) if broken else ()
