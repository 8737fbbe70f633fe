"""The run of tests/policy/policy_builders.py as a run folder on disk."""

from dataclasses import replace
from pathlib import Path

from invmm_gate.models.digest import digest_of
from invmm_gate.policy.schema import Policy
from invmm_gate.policy.verdict import judge
from invmm_gate.records import RunData, Waiver
from invmm_gate.runs.fingerprint import fingerprint
from invmm_gate.runs.folder import RunFolder
from tests.policy.policy_builders import STRICT, TODAY, clean_run, with_score


def stored(data: RunData, path: Path, *, judged_by: Policy | None = STRICT, waivers: tuple[Waiver, ...] = ()) -> Path:
    """Write a run's records, and its verdict by this policy. Its digests are made to fit one another."""
    folder = RunFolder(path)
    model = replace(data.run.model, digest=digest_of(data.run.model.files))
    inputs = data.run.inputs | {"model": model.digest, "probe_set": data.run.probe_set.digest}
    identity = fingerprint(inputs)
    with folder.locked():
        folder.begin(replace(data.run, model=model, inputs=inputs, fingerprint=identity, run_id=identity[:12]))
        for record in (*data.self_checks, *data.measurements, *data.confirmations):
            folder.append(record)
        if judged_by is not None:
            folder.write_verdict(judge(folder.data(), judged_by, waivers, today=TODAY))
    return path


def passing(path: Path) -> Path:
    """A run that strict passes."""
    return stored(clean_run(), path)


def blocked(path: Path, score: float = 0.02) -> Path:
    """A run that strict blocks: p1 scores too low."""
    return stored(with_score(clean_run(), "p1", score), path)
