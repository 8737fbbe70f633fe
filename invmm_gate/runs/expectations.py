"""expectations.json: what the suites found, bound to the bytes that they were run over."""

from hashlib import sha256
from pathlib import Path
from typing import Final

from invmm_gate.records import Expectations, RunRecord, SuiteRecord
from invmm_gate.runs.files import explained, write_whole
from invmm_gate.runs.jsonio import from_json, to_json
from invmm_gate.runs.stages import CONFIRMATIONS, MEASUREMENTS

EXPECTATIONS: Final = "expectations.json"
EXPECTATIONS_SCHEMA_VERSION: Final = 1


def write_expectations(folder: Path, run: RunRecord, suites: tuple[SuiteRecord, ...]) -> None:
    """Replace expectations.json. Raises RunFolderError."""
    record = Expectations(schema_version=EXPECTATIONS_SCHEMA_VERSION, digests=_digests(folder, run), suites=suites)
    write_whole(folder / EXPECTATIONS, to_json(record, indent=2) + "\n")


def read_expectations(folder: Path, run: RunRecord) -> tuple[SuiteRecord, ...]:
    """What the suites found in the records as they are now; empty where they were not run over these.

    Raises RunFolderError for a file that cannot be read.
    """
    path = folder / EXPECTATIONS
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise explained(error, path) from error
    found = from_json(Expectations, text, where=str(path))
    return found.suites if found.digests == _digests(folder, run) else ()


def _digests(folder: Path, run: RunRecord) -> dict[str, str]:
    return {"probe_set": run.probe_set.digest} | {
        name: _digest(folder / name) for name in (MEASUREMENTS, CONFIRMATIONS)
    }


def _digest(path: Path) -> str:
    """sha256 of the file; a missing one has the digest of an empty one, as it holds as many records."""
    try:
        return sha256(path.read_bytes() if path.exists() else b"").hexdigest()
    except OSError as error:
        raise explained(error, path) from error
