import csv
import io
import json
import subprocess
import sys
from dataclasses import asdict, replace

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from invmm_gate.report.scores import COLUMNS, NOT_MEASURED, render_csv, render_parquet, score_rows
from tests.report.conftest import CAPTION, CONFIRMATIONS, FOLDER, MEASUREMENTS, PROBES, SOURCE
from tests.report.goldens import assert_golden
from tests.report.hostile import ALL
from tests.report.test_to_html import poisoned

STARTERS = "=+-@＝＋－＠\t\r"


def rows(data):
    """scores.csv as a spreadsheet reads it."""
    return list(csv.DictReader(io.StringIO(render_csv(data), newline=""), strict=True))


def table(data):
    return pq.read_table(io.BytesIO(render_parquet(data)))


def test_the_file_is_as_it_was(data):
    assert_golden("scores.csv", render_csv(data))


def test_there_is_one_row_a_probe_in_the_sets_order_with_its_scores(data):
    found = rows(data)
    assert [row["id"] for row in found] == [probe.id for probe in PROBES]
    assert list(found[0]) == list(COLUMNS)
    first, *_ = found
    assert float(first["invmm"]) == MEASUREMENTS[0].invmm, "exact, not rounded"
    assert (first["confirmation_status"], first["confirmation_hits"], first["confirmation_trials"]) == (
        "confirmed",
        "6",
        "512",
    )
    assert first["findings"] == "invmm_below block; confirmed block"
    by_id = {row["id"]: row for row in found}
    assert by_id["planted08-06"]["findings"] == "invmm_below waived"
    assert (by_id["face-00"]["invmm"], by_id["face-00"]["invmm_above"]) == ("", "0.061")
    assert by_id["face-01"]["outcome"] == "error"


def test_a_probe_that_was_not_measured_has_a_row_that_says_so_and_one_that_is_not_listed_too(data):
    stray = replace(MEASUREMENTS[1], probe="stray")
    found = {row["id"]: row for row in rows(replace(data, measurements=(stray,)))}
    assert len(found) == len(PROBES) + 1
    assert (found["face-00"]["outcome"], found["face-00"]["evaluations"]) == (NOT_MEASURED, "")
    assert (found["stray"]["outcome"], found["stray"]["cluster"]) == ("inverted", "")


def test_of_several_confirmations_the_one_that_tells_most_against_the_model_is_shown(data):
    weak, strong = replace(CONFIRMATIONS[1], method="caption"), CONFIRMATIONS[1]
    for order in ((weak, strong), (strong, weak)):
        for status, hits, shown in (("confirmed", 1, "gcg"), ("undecided", 0, "gcg"), ("refuted", 3, "gcg")):
            found = (*order, replace(strong, method="gcg", status=status, hits=hits))
            by_id = {row["id"]: row for row in rows(replace(data, confirmations=found))}
            assert by_id["planted08-06"]["confirmation_method"] == shown


def test_no_caption_source_path_or_prompt_is_in_either_file(data):
    found = (replace(CONFIRMATIONS[0], prompt="a heron that nobody may see"),)
    told = replace(data, confirmations=found)
    for text in (render_csv(told), str(table(told).to_pylist())):
        assert not any(secret in text for secret in (CAPTION, SOURCE, FOLDER, "nobody may see"))


def assert_harmless(data, text):
    rendered = render_csv(poisoned(data, text))
    found = list(csv.reader(io.StringIO(rendered, newline=""), strict=True))
    assert {len(cells) for cells in found} == {len(COLUMNS)}
    for separator in ",;|":
        cells = [part for line in found for cell in line for part in cell.split(separator)]
        assert not [cell for cell in cells if cell.lstrip()[:1] and cell.lstrip()[:1] in STARTERS]
    assert not any(line.lstrip().startswith("::") for line in rendered.splitlines())
    assert "\x00" not in rendered
    table(poisoned(data, text))


@pytest.mark.parametrize("text", ALL, ids=lambda text: ascii(text[:20]))
def test_a_spreadsheet_runs_nothing(data, text):
    assert_harmless(data, text)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.one_of(st.sampled_from(STARTERS + ",;|\" '\n:"), st.characters()), max_size=30))
def test_a_spreadsheet_runs_nothing_of_any_text(data, text):
    assert_harmless(data, text)


def test_the_parquet_file_holds_the_same_with_types(data):
    found = table(data)
    types = {"text": "string", "count": "int64", "number": "double"}
    assert {field.name: str(field.type) for field in found.schema} == {
        name: types[kind] for name, kind in COLUMNS.items()
    }
    assert found.to_pylist() == score_rows(data)
    assert found.column("invmm")[0].as_py() == MEASUREMENTS[0].invmm


def test_both_files_are_the_same_bytes_every_time(data):
    assert render_csv(data) == render_csv(data)
    assert render_parquet(data) == render_parquet(data)


def test_numbers_that_no_column_can_hold_are_left_out(data):
    odd = replace(MEASUREMENTS[0], invmm=float("inf"), evaluations=10**30)
    (row, *_) = rows(replace(data, measurements=(odd,), seconds={odd.probe: float("nan")}))
    assert (row["invmm"], row["evaluations"], row["seconds"]) == ("", "", "")
    table(replace(data, measurements=(odd,)))


def test_a_confirmation_without_trials_is_shown_as_it_is(data):
    odd = replace(CONFIRMATIONS[0], hits=0, trials=0)
    (row, *_) = rows(replace(data, confirmations=(odd,)))
    assert (row["confirmation_hits"], row["confirmation_trials"]) == ("0", "0")


def test_without_pyarrow_there_is_no_parquet_file(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert render_parquet(data) is None


def test_rendering_the_other_formats_imports_neither_pyarrow_nor_pandas(data, tmp_path):
    code = """
import sys
from invmm_gate.report.formats import FORMATS
heavy = {"pyarrow", "pandas", "great_expectations", "torch", "mlflow", "numpy"}
print(sorted(heavy & set(sys.modules)), sorted(FORMATS))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[] {sorted(['html', 'markdown', 'sarif', 'junit', 'csv', 'parquet'])}"


def test_rows_are_plain_values(data):
    assert json.loads(json.dumps(score_rows(data))) == score_rows(data)
    assert {name for row in score_rows(data) for name in row} == set(COLUMNS)
    assert asdict(data.run.probe_set.probes[0])["caption"] == CAPTION, "there was something to leave out"


def test_a_run_without_probes_is_a_table_without_rows(data):
    nothing = replace(data, measurements=(), run=replace(data.run, probe_set=replace(data.run.probe_set, probes=())))
    assert table(nothing).num_rows == 0
