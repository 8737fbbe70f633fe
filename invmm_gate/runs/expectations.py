"""expectations.json: what the suites found, bound to the bytes that they were run over and to what they ask."""

from pathlib import Path
from typing import Final

from invmm_gate.core.records import Expectations, RunRecord, SuiteRecord
from invmm_gate.files.atomic import explained, read_whole, write_whole
from invmm_gate.files.record_json import from_json, to_json
from invmm_gate.runs.digests import file_digest
from invmm_gate.runs.layout import CONFIRMATIONS, MEASUREMENTS
from invmm_gate.runs.suites import suites_digest

EXPECTATIONS: Final = "expectations.json"
EXPECTATIONS_SCHEMA_VERSION: Final = 1


def write_expectations(folder: Path, run: RunRecord, suites: tuple[SuiteRecord, ...]) -> None:
    """Replace expectations.json. Raises RunFolderError."""
    record = Expectations(schema_version=EXPECTATIONS_SCHEMA_VERSION, digests=_digests(folder, run), suites=suites)
    write_whole(folder / EXPECTATIONS, to_json(record, indent=2) + "\n")


def read_expectations(folder: Path, run: RunRecord) -> tuple[SuiteRecord, ...]:
    """What the suites found in the records as they are now; empty where these suites were not run over these records.

    Raises RunFolderError for a file that cannot be read.
    """
    path = folder / EXPECTATIONS
    try:
        text = read_whole(path)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise explained(error, path) from error
    found = from_json(Expectations, text, where=str(path))
    current = (EXPECTATIONS_SCHEMA_VERSION, _digests(folder, run))
    return found.suites if (found.schema_version, found.digests) == current else ()


def _digests(folder: Path, run: RunRecord) -> dict[str, str]:
    files = {name: file_digest(folder / name) for name in (MEASUREMENTS, CONFIRMATIONS)}
    return {"probe_set": run.probe_set.digest, "suites": suites_digest()} | files
