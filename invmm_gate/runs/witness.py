"""The second witness of a run's records: Great Expectations, beside the gate's own checks."""

from dataclasses import replace

from invmm_gate.core.records import RunData
from invmm_gate.runs.expectations import write_expectations
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.suites import both_answered, run_suites
from invmm_gate.runs.unedited import unedited


def with_suites(folder: RunFolder) -> RunData:
    """All records, none of them edited, with what the suites find in them.

    What expectations.json says of these very records and suites stands; else the suites are run, which takes some
    seconds where Great Expectations is not imported yet. Raises RunFolderError.
    """
    data = unedited(folder)
    if both_answered(data.suites):
        return data
    checks = data.run.probe_set.checks
    suites = (*((checks,) if checks else ()), *run_suites(data))
    write_expectations(folder.path, data.run, suites)
    return replace(data, suites=suites)
