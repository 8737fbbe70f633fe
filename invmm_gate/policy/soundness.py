"""Whether records can be trusted: counts that add up, numbers that are finite, one record for each probe."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import exp, isclose
from typing import Final

from invmm_gate.core.intervals import upper_bound
from invmm_gate.core.likelihood_record import Likelihood
from invmm_gate.core.records import Confirmation, CurvePoint, Interval, Measurement, Probe, ReplicationShare, Trial
from invmm_gate.core.run_records import RunData, RunRecord
from invmm_gate.core.verdict_records import Finding
from invmm_gate.policy.evidence import dimensions_of, names, undecided
from invmm_gate.policy.field_types import is_number
from invmm_gate.policy.rules.rule import EVIDENCE, Description

RECORDS: Final = "records"
"""Name under which records that cannot be trusted are reported."""
DESCRIPTION: Final = Description(
    short="Records of the run cannot be trusted",
    full="Counts that do not add up, numbers that are not finite, or records of probes that are not in the set.",
    help=f"Measure again into another run folder. {EVIDENCE}",
    leaves_open="the records of {probe} cannot be trusted",
    of_run="the records cannot be trusted",
)


def record_findings(data: RunData) -> tuple[Finding, ...]:
    """Everything that is wrong with the records themselves; all of it leaves the run without a verdict."""
    probes = {probe.id: probe for probe in data.run.probe_set.probes}
    return (
        *_latent_findings(data.run),
        *_probe_set_findings(data.run.probe_set.probes),
        *_unexpected("measurement", (record.probe for record in data.measurements), probes),
        *_unexpected("confirmation", (record.probe for record in data.confirmations), probes),
        *_repeated("measurements", (record.probe for record in data.measurements)),
        *_repeated("confirmations", (f"{record.probe} by {record.method}" for record in data.confirmations)),
        *_unexpected("likelihood", (record.probe for record in data.likelihoods), probes),
        *_repeated("likelihoods", (f"{record.probe} ({record.prompt_kind})" for record in data.likelihoods)),
        *(
            _finding(found.probe, fault)
            for found in data.measurements
            for fault in faults(found, probes.get(found.probe))
        ),
        *(_finding(found.probe, fault) for found in data.confirmations for fault in confirmation_faults(found)),
        *(_finding(found.probe, fault) for found in data.likelihoods for fault in likelihood_faults(found)),
    )


def sound_measurements(
    measurements: Sequence[Measurement], probes: Iterable[Probe] | None = None
) -> dict[str, Measurement]:
    """By probe id: measurements that are alone for their probe, free of faults, and no errors."""
    count = Counter(record.probe for record in measurements)
    known = None if probes is None else {probe.id: probe for probe in probes}
    return {
        found.probe: found
        for found in measurements
        if count[found.probe] == 1
        and found.outcome != "error"
        and not any(faults(found, known.get(found.probe) if known else None))
    }


def sound_confirmations(data: RunData) -> tuple[Confirmation, ...]:
    """Confirmations of known probes whose counts add up. Repeated ones stay: each may block."""
    probes = {probe.id for probe in data.run.probe_set.probes}
    return tuple(found for found in data.confirmations if found.probe in probes and not any(confirmation_faults(found)))


def sound_likelihoods(data: RunData) -> tuple[Likelihood, ...]:
    """Likelihoods of known probes whose figures fit together. Repeated ones stay: each may block."""
    probes = {probe.id for probe in data.run.probe_set.probes}
    return tuple(found for found in data.likelihoods if found.probe in probes and not any(likelihood_faults(found)))


def faults(found: Measurement, probe: Probe | None) -> Iterator[str]:
    """The faults of a measurement; none for a measurement that reports its own error."""
    if probe is not None and (found.group, found.category) != (probe.group, probe.category):
        yield f"is measured as {found.group}/{found.category} but listed as {probe.group}/{probe.category}"
    if found.outcome == "error":
        return
    yield from _score_faults(found)
    yield from _work_faults(found)
    yield from _share_faults(found.share)
    if found.invmm_spread is not None and not _ordered((0.0, *found.invmm_spread)):
        yield "has an invalid spread of scores"
    for trial in found.trials:
        yield from _trial_faults(trial)


def confirmation_faults(found: Confirmation) -> Iterator[str]:
    """The faults of a confirmation."""
    if found.status not in ("confirmed", "refuted", "undecided"):
        yield f"has the unknown confirmation status {found.status!r}"
    yield from _count_faults(found.hits, found.trials, found.interval)
    if found.status == "confirmed" and found.hits == 0:
        yield "is called confirmed without a replicating sample"
    if found.evaluations < 1 <= found.trials:
        yield "is confirmed without a network evaluation"
    if found.labels_left < 0 or (found.labels_left and found.status == "refuted"):
        yield f"is called {found.status} with {found.labels_left} labels left"
    if found.closest is not None and not is_number(found.closest):
        yield "has an invalid closest value in its confirmation"


def likelihood_faults(found: Likelihood) -> Iterator[str]:
    """The faults of an estimated likelihood."""
    for copies, draws, least in ((found.copies, found.draws, 0), (found.plain_copies, found.plain_draws, 1)):
        if not _add_up(copies, draws, least):
            yield f"reports {copies} copies in {draws} draws"
            return
    figures = (found.lower, found.estimate, found.upper, found.confidence)
    if not all(_ordered((0.0, each, 1.0)) for each in figures):
        yield f"has a likelihood of {found.estimate}, from {found.lower} to {found.upper}"
        return
    if found.nats is not None and not _ordered((0.0, found.nats)):
        yield f"has a bound of {found.nats} nats"
        return
    lower = 0.0 if found.nats is None else exp(-found.nats)
    upper = upper_bound(found.plain_copies, found.plain_draws, confidence=(1 + found.confidence) / 2)
    if not (isclose(lower, found.lower, rel_tol=1e-6) and isclose(upper, found.upper, rel_tol=1e-6)):
        yield f"has a likelihood from {found.lower} to {found.upper}, which its figures do not give"
    if (found.nats is None) != (found.copies + found.plain_copies == 0):
        yield f"has a bound of {found.nats} nats with {found.copies + found.plain_copies} copies"


def _score_faults(found: Measurement | Trial) -> Iterator[str]:
    has_score, has_bound = found.invmm is not None, found.invmm_above is not None
    expected = {"inverted": (True, False), "not_inverted": (False, False), "above_threshold": (False, True)}
    if found.outcome not in expected:
        yield f"has the outcome {found.outcome!r}, which no sound record has"
    elif (has_score, has_bound) != expected[found.outcome]:
        yield f"is {found.outcome} with score {found.invmm} and bound {found.invmm_above}"
    for value in (found.invmm, found.invmm_above):
        if value is not None and not _ordered((0.0, value)):
            yield f"has the invalid score {value}"


def _work_faults(found: Measurement) -> Iterator[str]:
    """A result takes at least one network forward; no step where N(0, I) itself brings the image out."""
    if found.steps < 0 or found.evaluations < 1:
        yield f"reports a result after {found.steps} steps and {found.evaluations} network evaluations"


def _trial_faults(trial: Trial) -> Iterator[str]:
    yield from _score_faults(trial)
    yield from _share_faults(trial.share)
    yield from _share_faults(trial.confirmation)
    for test in trial.tests:
        yield from _share_faults(test.share)
        if not (_ordered((0.0, test.stretch)) and _ordered((0.0, test.normality))):
            yield f"has a test at stretch {test.stretch} and normality {test.normality}"
    for point in trial.curve:
        values = (point.normality, point.weight, *(() if _no_loss_yet(point) else (point.denoising_error,)))
        if not (all(map(is_number, values)) and (point.control_loss is None or is_number(point.control_loss))):
            yield f"has an invalid number in its curve at step {point.step}"


def _no_loss_yet(point: CurvePoint) -> bool:
    """Before the first step nothing was drawn."""
    return point.step == 0 and point.denoising_error is None


def _share_faults(share: ReplicationShare | None) -> Iterator[str]:
    if share is not None:
        yield from _count_faults(share.hits, share.trials, share.interval)


def _count_faults(hits: int, trials: int, interval: Interval) -> Iterator[str]:
    if not _add_up(hits, trials, 1):
        yield f"reports {hits} hits in {trials} trials"
    elif not (_ordered((0.0, interval.low, interval.high, 1.0)) and _ordered((0.0, interval.confidence, 1.0))):
        yield "has an invalid interval"
    elif not interval.low - 1e-9 <= hits / trials <= interval.high + 1e-9:
        yield f"has an interval that does not hold {hits} of {trials}"


def _add_up(hits: int, trials: int, least: int) -> bool:
    return type(hits) is int and type(trials) is int and 0 <= hits <= trials and least <= trials


def _latent_findings(run: RunRecord) -> Iterator[Finding]:
    """Thresholds in nats and bits rest on the number of dimensions."""
    shape, pixels = run.inputs.latent_shape, run.inputs.image_size
    if dimensions_of(run) is None or (
        run.inputs.family in ("pixel", "class_pixel") and tuple(shape[1:]) != tuple(pixels)
    ):
        yield undecided(RECORDS, f"the run says that its latent has the shape {shape}, and its images {pixels}")


def _probe_set_findings(probes: Sequence[Probe]) -> Iterator[Finding]:
    if not probes:
        yield undecided(RECORDS, "the probe set is empty")
    yield from _repeated("entries in the probe set", (probe.id for probe in probes))
    controls = {probe.sha256: probe.id for probe in probes if probe.group == "control"}
    for probe in probes:
        if probe.group != "control" and probe.sha256 in controls:
            yield _finding(probe.id, f"shows the same image as the control {controls[probe.sha256]}")


def _unexpected(what: str, ids: Iterable[str], probes: dict[str, Probe]) -> Iterator[Finding]:
    unknown = set(ids) - set(probes)
    if unknown:
        yield undecided(RECORDS, f"there is a {what} of {names(unknown)}, not in the probe set")


def _repeated(what: str, ids: Iterable[str]) -> Iterator[Finding]:
    repeated = {name for name, count in Counter(ids).items() if count > 1}
    if repeated:
        yield undecided(RECORDS, f"there are several {what} for {names(repeated)}")


def _finding(probe: str, fault: str) -> Finding:
    return undecided(RECORDS, f"{probe} {fault}", probe)


def _ordered(values: Sequence[float]) -> bool:
    return all(is_number(value) for value in values) and all(low <= high for low, high in pairwise(values))
