"""The public edition: a run's records as anybody may see them. A field is left out unless it is marked as public.

A reader without the key cannot link a probe's name to an image, and no figure of a single probe is exact: exact scores
tell which images a model was trained on. Digests, settings, thresholds, counts and the decision are what they were.
"""

import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Final, Self, final

from invmm_gate.core.likelihood_record import Certified
from invmm_gate.core.marks import only_public
from invmm_gate.core.records import Confirmation, Measurement, Probe
from invmm_gate.core.run_records import RunData, RunRecord
from invmm_gate.core.verdict_records import Finding, Verdict, Waiver
from invmm_gate.policy.certified_bounds import certified_in
from invmm_gate.policy.reasons import reasons_for, waiver_notes
from invmm_gate.policy.soundness import sound_confirmations
from invmm_gate.report.bands import (
    INVMM_EDGES,
    LIKELIHOOD_EDGES,
    bound_band,
    counts_band,
    fewest_copies,
    likelihood_band,
    score_band,
    share_band,
)
from invmm_gate.report.texts import description_of

NOTE: Final = (
    "Public edition: names of probes and clusters are keyed hashes. An InvMM is the upper end of its band "
    f"({', '.join(f'{edge:g}' for edge in INVMM_EDGES)}), a bound the lower end. A count of replicating samples is the "
    "most that its band holds (none, 1 %, 10 %, 50 %, 100 % of the samples), with an interval that covers the band's. "
    "How often an image comes out is the lower end of its band "
    f"({', '.join(f'one in {10**edge:,}' for edge in LIKELIHOOD_EDGES)}); what is rarer is left out. The full "
    "report stays in the run folder."
)


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
    coarse = replace(data, confirmations=tuple(map(fewest_copies, sound_confirmations(data))))
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
