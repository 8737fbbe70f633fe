"""A judged run of any checkpoint, made by hand: its records pass every shipped policy unless they are spoilt."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from invmm_gate.core.records import ModelManifest, Weights
from invmm_gate.core.run_records import RunData, RunRecord
from invmm_gate.core.verdict_records import Waiver
from invmm_gate.models.read.inspect import inspect_checkpoint
from invmm_gate.policy.evidence import content_seed
from invmm_gate.probes.manifest import probe_set_digest
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.identity import fingerprint
from invmm_gate.runs.stage_files import CONFIRMING, MEASURE
from invmm_gate.stages.judge import judge_run
from invmm_gate.stages.report import write_reports
from tests.policy.policy_builders import STRICT, TODAY, clean_run
from tests.stages.given_waivers import given

NOW = datetime.datetime.combine(TODAY, datetime.time(12), datetime.UTC)


def judged_run(
    path: Path,
    model: Path,
    *,
    weights: Weights | None = None,
    loras: Sequence[Path] = (),
    waivers: tuple[Waiver, ...] = (),
    seed: int | None = None,
    says: Mapping[str, object] = MappingProxyType({}),
    spoilt: Callable[[RunData], RunData] = lambda data: data,
) -> RunFolder:
    """Measured nowhere, judged in earnest under `strict`; `says` are inputs that run.json has instead of its own."""
    data = spoilt(clean_run())
    manifest = inspect_checkpoint(model, weights=weights, loras=loras)
    probe_set = replace(data.run.probe_set, digest=probe_set_digest(data.run.probe_set.probes))
    content = content_seed(model=manifest.digest, probe_set=probe_set.digest, policy=STRICT.digest)
    own = {
        "model": manifest.digest,
        "probe_set": probe_set.digest,
        "policy": STRICT.digest,
        "profile": "gate",
        "seed": content if seed is None else seed,
    }
    inputs = replace(data.run.inputs, **(own | named(data.run, manifest) | dict(says)))
    record = replace(data.run, model=manifest, probe_set=probe_set, inputs=inputs, fingerprint=fingerprint(inputs))
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.begin(record)
    for item in (*data.self_checks, *data.measurements, *data.confirmations, *data.likelihoods):
        folder.append(item)
    folder.end(MEASURE)
    folder.end(CONFIRMING)
    beside = given(waivers, record, path.with_name(f"{path.name}-waivers"))
    judge_run(folder, STRICT, beside, today=TODAY)
    write_reports(folder)
    return folder


def named(run: RunRecord, model: ModelManifest) -> dict[str, object]:
    """What run.json says beside its inputs and in them."""
    said = {"pipeline": model.pipeline, "weights": model.weights, "pickles": model.pickles}
    return said | {"metric": run.metric}
