"""Class labels come along where they are asked for: from a column, the description in a tar, or folders of classes."""

from pathlib import Path

import pytest

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.curation.training_data import open_training_data
from invmm_gate.curation.training_entries import Columns
from invmm_gate.probes.manifest import read_manifest
from tests.curation.pictures import picture, png, written
from tests.curation.test_tars import packed, regular
from tests.stages.world import call

IMAGES = [png(picture(number)) for number in range(4)]
FOLDERS = {
    "dog/0.png": IMAGES[0],
    "cat/1.png": IMAGES[1],
    "cat/old/2.png": IMAGES[2],
    "zebra/3.png": IMAGES[3],
    "README.md": b"words",
}
NAMED = Columns(names={"label": "class"})


def labels(place: Path, columns: Columns) -> dict[str, int | None]:
    return {entry.name: entry.label for entry in open_training_data(place, columns).entries() if not entry.problem}


@pytest.mark.parametrize(("cell", "label"), [("3", 3), (" 0 ", 0), ("", None), ("999999999", 999_999_999), ("3.0", 3)])
def test_a_column_of_a_table_gives_labels(tmp_path: Path, cell: str, label: int | None) -> None:
    table = f"path,class,label\n0.png,{cell},cat\n".encode()
    place = written(tmp_path, {"0.png": IMAGES[0], "list.csv": table}) / "list.csv"
    assert labels(place, NAMED) == {"0.png": label}
    assert labels(place, Columns()) == {"0.png": None}  # a column `label` that nobody named is no class


@pytest.mark.parametrize("cell", ["cat", "-1", "1.5", "1_0", "\u0663", "9999999999"])
def test_a_label_that_is_no_class_number_is_one_clear_line(tmp_path: Path, cell: str) -> None:
    table = f"path,class\n0.png,{cell}\n".encode()
    place = written(tmp_path, {"0.png": IMAGES[0], "list.csv": table}) / "list.csv"
    with pytest.raises(ProbeSetError, match=r"list\.csv:2: label .* is no class label; expected the number of the"):
        labels(place, NAMED)


@pytest.mark.parametrize(("cell", "label"), [(7, 7), (7.0, 7), (float("nan"), None), (None, None)])
def test_numbers_of_parquet_are_labels(tmp_path: Path, cell: float | None, label: int | None) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"image": [IMAGES[0]], "class": [cell]}), tmp_path / "a.parquet")
    assert list(labels(tmp_path / "a.parquet", NAMED).values()) == [label]


@pytest.mark.parametrize("cell", [True, 0.5, [1]])
def test_other_cells_of_parquet_are_none(tmp_path: Path, cell: object) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"image": [IMAGES[0]], "class": [cell]}), tmp_path / "a.parquet")
    with pytest.raises(ProbeSetError, match=r"a\.parquet: row 1: .*number the classes"):
        labels(tmp_path / "a.parquet", NAMED)


def test_the_description_in_a_tar_gives_labels(tmp_path: Path) -> None:
    place = packed(tmp_path / "a.tar", regular("0.png", IMAGES[0]), regular("0.json", b'{"class": 5, "text": "a cat"}'))
    assert labels(place, NAMED) == {"a.tar/0.png": 5}
    assert labels(place, Columns()) == {"a.tar/0.png": None}


def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    found = labels(written(tmp_path, FOLDERS), Columns(class_folders=True))
    assert found == {"cat/1.png": 0, "cat/old/2.png": 0, "dog/0.png": 1, "zebra/3.png": 2}


def test_what_is_no_folder_of_classes_is_one_clear_line(tmp_path: Path) -> None:
    files = {"dog/0.png": IMAGES[0], "1.png": IMAGES[1]}
    with pytest.raises(ProbeSetError, match=r"1\.png' lies in no folder of a class; expected every image in a folder"):
        labels(written(tmp_path / "mixed", files), Columns(class_folders=True))
    table = written(tmp_path / "table", FOLDERS | {"metadata.csv": b"file_name,text\ndog/0.png,a dog\n"})
    with pytest.raises(ProbeSetError, match=r"is no folder of folders of images, .*--column label=NAME"):
        labels(table, Columns(class_folders=True))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (".ipynb_checkpoints/1.png", "looks like no class: .*; move it elsewhere"),
        ("__MACOSX/dog/._0.png", "looks like no class: .*; move it elsewhere"),
        ("val/dog/1.png", r"/val' holds no images, only folders .*; name the folder that holds the classes"),
    ],
)
def test_folders_that_tools_number_in_other_ways_are_one_clear_line(tmp_path: Path, name: str, said: str) -> None:
    """A folder that a notebook left, or a split above the classes, would shift the number of every class."""
    with pytest.raises(ProbeSetError, match=said):
        labels(written(tmp_path, FOLDERS | {name: IMAGES[1]}), Columns(class_folders=True))


def test_classes_of_several_sources_are_not_numbered(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, FOLDERS) for name in ("first", "second"))
    done = call("probes", "build", tmp_path / "built", "--from", first, "--from", second, "--class-folders")
    assert done.code == 2
    assert "--class-folders with 2 sources; expected one folder" in done.error


def test_built_and_added_probes_have_their_labels(tmp_path: Path) -> None:
    train = written(tmp_path / "train", FOLDERS | {"dog/copy.png": IMAGES[0], "zebra/copy.png": IMAGES[3]})
    done = call("probes", "build", tmp_path / "built", "--from", train, "--class-folders", "--size", "8")
    assert done.code == 0, done.err
    assert {probe.label for probe in read_manifest(tmp_path / "built")} == {1, 2}

    (train / "list.jsonl").write_text('{"path": "cat/1.png", "class": 4}\n{"path": "dog/0.png"}\n')
    assert call("probes", "init", tmp_path / "added").code == 0
    given = ("--group", "sensitive", "--column", "label=class", "--label", "9")
    done = call("probes", "add", tmp_path / "added", train / "list.jsonl", *given)
    assert done.code == 0, done.err
    assert [probe.label for probe in read_manifest(tmp_path / "added")] == [4, 9]
