"""A judged run of any checkpoint, made by hand: its records pass every shipped policy unless they are spoilt."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from invmm_gate.gate import finishing
from invmm_gate.gate.finishing import Circumstances
from invmm_gate.models.inspect import inspect_checkpoint
from invmm_gate.policy.scope import content_seed
from invmm_gate.records import RunData, Waiver, Weights
from invmm_gate.runs.fingerprint import fingerprint
from invmm_gate.runs.folder import RunFolder
from tests.policy.policy_builders import STRICT, TODAY, clean_run

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
    probes = data.run.probe_set.digest
    content = content_seed(model=manifest.digest, probe_set=probes, policy=STRICT.digest)
    inputs = data.run.inputs | {
        "model": manifest.digest,
        "probe_set": probes,
        "policy": STRICT.digest,
        "profile": "gate",
        "seed": content if seed is None else seed,
        "image_size": [16, 16],
        "environment": "e" * 64,
        "versions": {"invmm-gate": "0.1.0", "torch": "2.13.0"},
        **says,
    }
    record = replace(data.run, model=manifest, inputs=inputs, fingerprint=fingerprint(inputs))
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.begin(record)
    for item in (*data.self_checks, *data.measurements, *data.confirmations):
        folder.append(item)
    finishing.judge(folder, STRICT, Circumstances(waivers=waivers), today=TODAY)
    finishing.report(folder)
    return folder
