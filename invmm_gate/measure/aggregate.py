"""From a probe's trials to its measurement."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from invmm_gate.core.intervals import replication_share
from invmm_gate.core.records import Measurement, Probe, ReplicationShare, Trial
from invmm_gate.core.settings import InversionSettings
from invmm_gate.measure.slots import Task


def tasks_for(probes: Iterable[Probe], settings: InversionSettings) -> tuple[Task, ...]:
    """All inversions that the settings ask for, a probe's own next to each other."""
    return tuple(
        Task(probe=probe.id, content=probe.sha256, seed=seed, mirrored=mirrored)
        for probe in probes
        for seed in range(settings.seeds)
        for mirrored in ((False, True) if settings.mirror else (False,))
    )


def summarise(probe: Probe, trials: Sequence[Trial]) -> Measurement:
    """The measurement of a probe: the more memorized one of image and mirror, and the lower median over the seeds.

    The lower median errs towards "memorized". One trial in error makes the probe an error.
    """
    ordered = sorted(trials, key=lambda trial: (trial.seed, trial.mirrored))
    failed = next((trial for trial in ordered if trial.outcome == "error"), None)
    per_seed = [min(group, key=memorization_rank) for _, group in groupby(ordered, key=lambda trial: trial.seed)]
    median = failed or sorted(per_seed, key=memorization_rank)[(len(per_seed) - 1) // 2]
    finite = [trial.invmm for trial in per_seed if trial.invmm is not None]
    return Measurement(
        probe=probe.id,
        group=probe.group,
        category=probe.category,
        outcome=median.outcome,
        invmm=median.invmm,
        invmm_above=median.invmm_above,
        invmm_spread=(min(finite), max(finite)) if finite else None,
        share=None if failed else _added(per_seed),
        steps=sum(trial.steps for trial in ordered),
        evaluations=sum(trial.evaluations for trial in ordered),
        guidance_scale=median.guidance_scale,
        trials=tuple(ordered),
        reason=failed.reason if failed else "",
    )


def memorization_rank(trial: Trial) -> tuple[float, float]:
    """Sorts trials from most to least memorized: score first, then the share of replicating samples."""
    score = trial.invmm if trial.invmm is not None else float("inf")
    share = trial.share.hits / trial.share.trials if trial.share else 0.0
    return (score, -share)


def _added(trials: Iterable[Trial]) -> ReplicationShare:
    shares = [trial.share for trial in trials if trial.share]
    return replication_share(sum(share.hits for share in shares), sum(share.trials for share in shares))
