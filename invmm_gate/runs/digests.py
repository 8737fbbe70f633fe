"""sha256 of a run's records: what a verdict and a baseline are bound to."""

import json
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from invmm_gate.core.run_records import RunRecord
from invmm_gate.files.atomic import explained, read_whole
from invmm_gate.runs.layout import CONFIRM, CONFIRMATIONS, MEASUREMENTS, RUN, SELF_CHECKS

JUDGED: Final = (SELF_CHECKS, MEASUREMENTS, CONFIRM, CONFIRMATIONS)
"""The files that `judge` decides by, beside run.json."""


def record_digests(folder: Path, run: RunRecord) -> dict[str, str]:
    """The sha256 of all that `judge` decides by. Taken after the records were read, it shows a change in between."""
    return {RUN: _run_digest(run)} | {name: file_digest(folder / name) for name in JUDGED}


def _run_digest(run: RunRecord) -> str:
    """The digest of run.json without its date, context and paths, so that equal runs have equal verdicts."""
    model = replace(run.model, path="", adapters=())
    probe_set = replace(run.probe_set, folder="")
    decisive = asdict(replace(run, created_at="", model=model, probe_set=probe_set)) | {"context": {}}
    return sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of the file; a missing one has the digest of an empty one, as it holds as many records."""
    try:
        return sha256(read_whole(path) if path.exists() else b"").hexdigest()
    except OSError as error:
        raise explained(error, path) from error
