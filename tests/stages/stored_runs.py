"""The run of tests/policy/policy_builders.py as a run folder on disk."""

from dataclasses import replace
from pathlib import Path

from invmm_gate.core.run_records import RunData
from invmm_gate.core.verdict_records import Waiver
from invmm_gate.models.read.checkpoint_files import digest_of
from invmm_gate.policy.schema import Policy
from invmm_gate.probes.manifest import probe_set_digest
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.identity import fingerprint
from invmm_gate.runs.stage_files import CONFIRMING, MEASURE
from invmm_gate.stages.judge import judge_run
from tests.policy.policy_builders import STRICT, TODAY, clean_run, with_score
from tests.stages.given_waivers import given
from tests.stages.judged_run import named


def stored(data: RunData, path: Path, *, judged_by: Policy | None = STRICT, waivers: tuple[Waiver, ...] = ()) -> Path:
    """Write a run's records, and its verdict by this policy. Its digests are made to fit one another."""
    folder = RunFolder(path)
    model = replace(data.run.model, digest=digest_of(data.run.model.files))
    probe_set = replace(data.run.probe_set, digest=probe_set_digest(data.run.probe_set.probes))
    said = {"model": model.digest, "probe_set": probe_set.digest} | named(data.run, model)
    inputs = replace(data.run.inputs, **said)
    identity = fingerprint(inputs)
    run = replace(data.run, model=model, probe_set=probe_set, inputs=inputs)
    with folder.locked():
        folder.begin(replace(run, fingerprint=identity, run_id=identity[:12]))
        for record in (*data.self_checks, *data.measurements, *data.confirmations, *data.likelihoods):
            folder.append(record)
        folder.end(MEASURE)
        folder.end(CONFIRMING)
        if judged_by is not None:
            beside = given(waivers, folder.run(), path.with_name(f"{path.name}-waivers"))
            judge_run(folder, judged_by, beside, today=TODAY)
    return path


def passing(path: Path) -> Path:
    """A run that strict passes."""
    return stored(clean_run(), path)


def blocked(path: Path, score: float = 0.02) -> Path:
    """A run that strict blocks: p1 scores too low."""
    return stored(with_score(clean_run(), "p1", score), path)
