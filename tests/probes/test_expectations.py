"""The probe set's Great Expectations: they find what the plain checks find, and users can run them themselves."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import great_expectations as gx
import pytest

from invmm_gate import probe_set_suite, probe_set_table
from invmm_gate.cli import run
from invmm_gate.core.errors import ConfigError
from invmm_gate.probes.checks import OWN_EXPECTATION, TABLE_COLUMNS, Check, plain_results, probe_set_checks
from invmm_gate.probes.expectations import expected_results
from invmm_gate.probes.manifest import read_manifest, read_rows, write_manifest
from invmm_gate.probes.validate import build_table, check_probe_set
from tests.probes.conftest import edit, encoded, make_probe, noise
from tests.probes.test_checks import BAD_IMAGES, BAD_ROWS


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A probe set with every fault that a row can have, each in rows of its own, between sound ones."""
    probes = [make_probe(tmp_path, number) for number in range(8)]
    probes[4] = replace(probes[4], group="canary", multiplicity=4, label=3)
    images = [make_probe(tmp_path, 20 + n, data=make()) for n, (make, _) in enumerate(BAD_IMAGES.values())]
    write_manifest(tmp_path, [*probes, *images])
    rows = (tmp_path / "manifest.csv").read_text().splitlines()
    bad = [_spoilt(rows[2], old, new) for old, new in BAD_ROWS.values()]
    (tmp_path / "manifest.csv").write_text("\n".join([*rows, *bad, rows[3]]) + "\n")
    (tmp_path / "images/p5.png").unlink()
    (tmp_path / "images/p6.png").write_bytes(encoded(noise(99)))
    edit(tmp_path, probes[7].sha256, probes[7].sha256.upper())
    edit(tmp_path, "picture 0", "")
    edit(tmp_path, "2026-11-21,4,3\n", "2026-11-21,four,three\n")
    return tmp_path


def _spoilt(row: str, old: str, new: str) -> str:
    assert old in row
    return row.replace(old, new)


def test_great_expectations_and_the_plain_checks_find_the_same_faults(faulty):
    asked = {"min_controls": 5, "captions_required": True}
    table, checks = build_table(read_rows(faulty)), probe_set_checks(**asked)
    plain, expected = plain_results(table, checks), expected_results(table, checks)
    assert [each.success for each in plain] == [each.success for each in expected]
    assert {each.check.name for each in plain if each.success} == {"columns", "at least 1 probe", "sha256 given"}
    found = check_probe_set(faulty, **asked)
    assert found == check_probe_set(faulty, **asked, decide=expected_results)
    assert len(found.problems) > len(BAD_ROWS) + len(BAD_IMAGES)


@pytest.mark.parametrize("decide", [plain_results, expected_results])
def test_what_no_row_can_be_blamed_for_is_found_by_both(tmp_path, decide):
    write_manifest(tmp_path, [])
    found = check_probe_set(tmp_path, min_controls=1, decide=decide)
    assert [problem.message.split(";")[0] for problem in found.problems] == ["no probes", "control probes: 0"]
    table = [dict.fromkeys(TABLE_COLUMNS[:-1])]
    [columns, *_] = decide(table, probe_set_checks(min_controls=0, captions_required=False)[:1])
    assert not columns.success or decide is expected_results, "pandas gives a table every column that is asked for"


def test_an_unknown_fit_is_found_by_both(probe_folder):
    write_manifest(probe_folder, read_manifest(probe_folder))
    text = (probe_folder / "manifest.csv").read_text().splitlines()
    fitted = [f"{text[0]},fit", *(f"{row},stretch" for row in text[1:])]
    (probe_folder / "manifest.csv").write_text("\n".join(fitted) + "\n")
    found = check_probe_set(probe_folder)
    assert len(found.problems) == 4
    assert found == check_probe_set(probe_folder, decide=expected_results)


def test_native_expectations_check_columns_and_ours_checks_images_and_hashes():
    checks = {check.name: check.expectation for check in probe_set_checks(min_controls=1, captions_required=True)}
    assert checks["group known"] == "ExpectColumnValuesToBeInSet"
    assert checks["id well formed"] == "ExpectColumnValuesToMatchRegex"
    own = {name for name, kind in checks.items() if kind == OWN_EXPECTATION}
    assert {"file unchanged", "image readable", "image shows something", "path inside the folder"} <= own


def test_a_failure_without_a_row_is_a_problem_all_the_same(probe_folder):
    def fails(table, checks):
        return tuple(
            type(result)(check=result.check, success=result.check.name != "image readable", rows=())
            for result in plain_results(table, checks)
        )

    found = check_probe_set(probe_folder, decide=fails)
    assert found.probe_set is None
    assert found.lines() == (f"{probe_folder}/manifest.csv: the check 'image readable' failed",)


def test_users_of_great_expectations_can_run_the_suite_themselves(probe_folder):
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("probes")
    batch = source.add_dataframe_asset("manifest").add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(probe_set_suite(min_controls=2))
    check = context.validation_definitions.add(gx.ValidationDefinition(name="probes", data=batch, suite=suite))
    assert check.run(batch_parameters={"dataframe": probe_set_table(probe_folder)}).success
    edit(probe_folder, "control,,picture 2", "controls,,picture 2")
    (probe_folder / "images/p1.png").write_bytes(b"another file")
    result = check.run(batch_parameters={"dataframe": probe_set_table(probe_folder)})
    failed = {item.expectation_config.meta["name"] for item in result.results if not item.success}
    assert failed == {"at least 2 controls", "group known", "file unchanged"}


def test_the_data_docs_name_the_expectation_that_failed(probe_folder, tmp_path, capsys):
    (probe_folder / "images/p1.png").write_bytes(b"another file")
    docs = tmp_path / "docs"
    assert run(["probes", "validate", str(probe_folder), "--docs", str(docs), "--quiet"]) == 2
    assert "changed since it was added" in capsys.readouterr().err
    page = (docs / "index.html").read_text()
    assert "Great Expectations" in page
    assert "file unchanged" in page
    assert (docs / "index.html").stat().st_mode & 0o077 == 0, "it shows fields of the probe set"


def test_data_docs_that_cannot_be_written_are_bad_input(probe_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(["probes", "validate", str(probe_folder), "--docs", str(tmp_path / "file"), "--quiet"]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_check_that_great_expectations_cannot_run_is_an_error_not_a_pass():
    broken = Check(
        name="broken",
        problem=lambda _: "",
        expectation="ExpectColumnValuesToBeNull",
        arguments={"column": "absent"},
    )
    unknown = Check(
        name="unknown",
        problem=lambda _: "",
        expectation=OWN_EXPECTATION,
        arguments={"column_list": ["id", "path"], "check": "unknown", "ignore_row_if": "never"},
    )
    for check in (broken, unknown):
        with pytest.raises(ConfigError, match=f"could not run the check '{check.name}'"):
            expected_results([dict.fromkeys(TABLE_COLUMNS)], [check])


def test_without_great_expectations_the_install_line_is_given(probe_folder):
    code = f"""
import sys
sys.modules["great_expectations"] = None
from invmm_gate.cli import run
sys.exit(run(["probes", "validate", {str(probe_folder)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install --upgrade invmm-gate" in done.stderr


def test_a_large_set_is_checked_row_by_row_by_both(probe_folder):
    [row, *_] = build_table(read_rows(probe_folder))
    table = [row | {"id": f"x{n}", "id_key": f"x{n}", "path_key": f"x{n}", "pixels": f"x{n}"} for n in range(3000)]
    table[2000] = table[2000] | {"one_colour": True, "pixels": "x7"}
    checks = probe_set_checks(min_controls=0, captions_required=False)
    for decide in (plain_results, partial(expected_results, docs=None)):
        failed = {each.check.name: each.rows for each in decide(table, checks) if not each.success}
        assert failed["image shows something"] == (2000,)
        assert failed["picture unique"][-1] == 2000
        assert len(failed) == 2
