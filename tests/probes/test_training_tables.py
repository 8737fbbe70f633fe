"""Tables of training data come from elsewhere: no row of one may explode."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.curation import training_rows
from invmm_gate.curation.training_data import open_training_data
from invmm_gate.curation.training_entries import Columns
from invmm_gate.probes.tables import ROW_CHARACTERS
from tests.probes.conftest import encoded, noise


def table_of(path: Path, column: pa.Array, **options: object) -> Path:
    names = pa.array([f"{row}.png" for row in range(len(column))])
    pq.write_table(pa.table({"path": names, "image": column}), path, compression="zstd", **options)
    return path


def read_apart(path: Path) -> tuple[float, str]:
    """(peak megabytes, message) of reading a table's images in a process of its own, with 60 MB of room."""
    code = f"""
from pathlib import Path
import pyarrow.parquet
from invmm_gate.core.errors import ProbeSetError
from invmm_gate.curation import training_tables
from invmm_gate.curation.training_data import open_training_data
from invmm_gate.curation.training_entries import Columns
training_tables.ROOM = 60_000_000
try:
    for entry in open_training_data(Path({str(path)!r}), Columns()).entries():
        pass
    error = "read"
except ProbeSetError as raised:
    error = str(raised)
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(int(peak) / 1024, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    [line] = done.stdout.splitlines()
    peak, _, message = line.partition(" ")
    return float(peak), message


@pytest.mark.parametrize("shape", ["bytes", "struct"])
def test_images_that_are_one_entry_of_a_dictionary_do_not_fill_the_memory(tmp_path: Path, shape: str) -> None:
    once = pa.DictionaryArray.from_arrays(pa.array([0] * 32, pa.int32()), pa.array([bytes(3_000_000)]))
    column = once if shape == "bytes" else pa.StructArray.from_arrays([once.dictionary_decode()], ["bytes"])
    path = table_of(tmp_path / "train.parquet", column)
    assert path.stat().st_size < 1_000_000
    peak, message = read_apart(path)
    assert message.startswith(f"{path} unpacks to more than 60 MB at once; expected")
    assert peak < 300


def test_an_image_above_the_limit_of_a_file_is_left_out_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_rows, "IMAGE_LIMIT", 1_000)
    whole = encoded(noise(1, width=8, height=8))
    path = table_of(tmp_path / "train.parquet", pa.array([whole, bytes(2_000)]))
    found = list(open_training_data(path, Columns()).entries())
    assert [(entry.data, entry.problem) for entry in found] == [
        (whole, ""),
        (b"", "has 0.0 MB; expected at most 0 MB"),
    ]


ROWS = {
    "no line end": "path\n" + "a" * (ROW_CHARACTERS + 9),
    "a quote that is not closed": 'path\n"' + ("a" * 99_999 + '","\n') * 41 + '"',
    "cells without end": "path\n" + "," * (ROW_CHARACTERS + 9),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_without_end_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "train.csv"
    path.write_text(ROWS[name])
    with pytest.raises(ProbeSetError, match=rf"train.csv:\d+: the row has more than {ROW_CHARACTERS:,} characters"):
        open_training_data(path, Columns())


def test_a_file_of_zeros_is_not_read_to_its_end(tmp_path: Path) -> None:
    with open(tmp_path / "train.csv", "wb") as file:
        file.truncate(20_000_000_000)
    with pytest.raises(ProbeSetError, match="characters"):
        open_training_data(tmp_path / "train.csv", Columns())


def test_many_small_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("path,caption\n" + 'a.png,"two\nlines"\n' * 100_000)
    assert open_training_data(path, Columns()).count() == 100_000


def test_columns_without_number_are_not_all_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        ",".join(f"c{number}" for number in range(100_000)) + "\n" + "," * 99_999 + "\n"
    )
    with pytest.raises(ProbeSetError, match="and more; expected a column `path`") as caught:
        open_training_data(tmp_path / "train.csv", Columns())
    assert len(str(caught.value)) < 2_000
