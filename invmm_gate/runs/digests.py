"""sha256 of a run's record files: what a verdict, a baseline and the suites' results are bound to."""

from hashlib import sha256
from pathlib import Path
from typing import Final

from invmm_gate.runs.files import explained
from invmm_gate.runs.stages import CONFIRM, CONFIRMATIONS, MEASUREMENTS, RUN, SELF_CHECKS

JUDGED: Final = (RUN, SELF_CHECKS, MEASUREMENTS, CONFIRM, CONFIRMATIONS)
"""The files that `judge` decides by."""


def record_digests(folder: Path) -> dict[str, str]:
    """The sha256 of each judged file. Taken after the records were read, it shows a change in between."""
    return {name: file_digest(folder / name) for name in JUDGED}


def file_digest(path: Path) -> str:
    """sha256 of the file; a missing one has the digest of an empty one, as it holds as many records."""
    try:
        return sha256(path.read_bytes() if path.exists() else b"").hexdigest()
    except OSError as error:
        raise explained(error, path) from error
