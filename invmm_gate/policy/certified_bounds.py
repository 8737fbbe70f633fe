"""How likely each probe of a run comes out at least, for those who have its records and no policy."""

from collections import defaultdict

from invmm_gate.core.likelihood_record import Certified, Likelihood, PromptKind
from invmm_gate.core.records import Confirmation
from invmm_gate.core.run_records import RunData
from invmm_gate.policy.evidence import Evidence
from invmm_gate.policy.likelihoods import certified
from invmm_gate.policy.soundness import sound_confirmations, sound_likelihoods


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
