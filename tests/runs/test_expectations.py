"""expectations.json says something of the very records that the suites were run over, and of no others."""

import json

import pytest

from invmm_gate.core.errors import RunFolderError
from invmm_gate.core.records import ExpectationRecord, SuiteRecord
from invmm_gate.runs.expectations import EXPECTATIONS, read_expectations, write_expectations
from invmm_gate.runs.folder import RunFolder
from tests.runs.conftest import confirmation, measurement

SUITE = SuiteRecord(
    name="measurements",
    success=False,
    rows=2,
    expectations=(
        ExpectationRecord(name="the score is a number from 0 on", kind="Expect", success=False, failing=1, rows=("a",)),
    ),
)


@pytest.fixture
def folder(tmp_path, record):
    """A run with a measurement, a confirmation and what the suites found in them."""
    folder = RunFolder(tmp_path)
    folder.begin(record)
    folder.append(measurement("heron"))
    folder.append(confirmation("heron"))
    write_expectations(tmp_path, record, (SUITE,))
    return folder


def test_what_was_found_is_read_back_with_the_records(folder, record):
    assert folder.data().suites == (SUITE,)
    found = json.loads((folder.path / EXPECTATIONS).read_text())
    assert set(found["digests"]) == {"probe_set", "suites", "measurements.jsonl", "confirmations.jsonl"}
    assert found["suites"][0]["expectations"][0]["rows"] == ["a"]


@pytest.mark.parametrize("more", [measurement("reed"), confirmation("reed")])
def test_results_over_other_records_are_not_shown(folder, more):
    folder.append(more)
    assert folder.data().suites == ()


def test_results_over_records_that_were_edited_are_not_shown(folder):
    path = folder.path / "measurements.jsonl"
    path.write_text(path.read_text().replace('"invmm": 0.1', '"invmm": 0.9'))
    assert folder.data().suites == ()


def test_results_over_another_probe_set_are_not_shown(folder, record):
    text = (folder.path / EXPECTATIONS).read_text()
    (folder.path / EXPECTATIONS).write_text(text.replace("s" * 64, "t" * 64))
    assert read_expectations(folder.path, record) == ()


@pytest.mark.parametrize("edit", [{"schema_version": 99}, {"digests": {"suites": "0" * 64}}])
def test_results_of_another_version_or_of_other_suites_are_not_shown(folder, edit):
    path = folder.path / EXPECTATIONS
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | edit | {"digests": found["digests"] | edit.get("digests", {})}))
    assert folder.data().suites == ()


def test_a_run_whose_suites_were_not_run_has_no_results(folder):
    (folder.path / EXPECTATIONS).unlink()
    assert folder.data().suites == ()


def test_a_file_that_cannot_be_read_is_an_error_with_its_name(folder):
    (folder.path / EXPECTATIONS).write_text('{"schema_version": 1')
    with pytest.raises(RunFolderError, match=r"expectations\.json cannot be read"):
        folder.data()
    (folder.path / EXPECTATIONS).unlink()
    (folder.path / EXPECTATIONS).mkdir()
    with pytest.raises(RunFolderError, match=r"expectations\.json cannot be (read|written)"):
        folder.data()
