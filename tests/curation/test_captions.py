"""Captions come along: files beside images as kohya's scripts read them, and `metadata` tables as `datasets` reads."""

import json
from pathlib import Path

import pytest

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.curation.training_data import open_training_data
from invmm_gate.curation.training_entries import Columns, Entry
from tests.curation.pictures import picture, png, written

IMAGES = {f"{number}.png": png(picture(number)) for number in range(3)}


def read(place: Path, columns: Columns | None = None) -> dict[str, Entry]:
    return {entry.name: entry for entry in open_training_data(place, columns or Columns()).entries()}


def captions(place: Path) -> dict[str, str]:
    return {name: entry.caption for name, entry in read(place).items() if not entry.problem}


def test_a_kohya_folder_gives_each_image_the_caption_of_its_name(tmp_path: Path) -> None:
    files = {f"10_harbour/{name}": data for name, data in IMAGES.items()}
    files |= {"10_harbour/0.txt": b"a boat", "10_harbour/1.caption": b"a mast", "1_reg/0.txt": b"of no image"}
    files |= {"10_harbour/0_sdxl.npz": b"PK\x03\x04", "10_harbour/0.npz": b"PK\x03\x04"}
    found = read(written(tmp_path, files))
    assert {name: entry.caption for name, entry in found.items() if not entry.beside} == {
        "10_harbour/0.png": "a boat",
        "10_harbour/1.png": "a mast",
        "10_harbour/2.png": "",
    }
    beside = {"1_reg/0.txt", "10_harbour/0.npz", "10_harbour/0_sdxl.npz"}
    assert {name for name, entry in found.items() if entry.beside} == beside


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (b"", ""),
        (b" \r\n\r\n", ""),
        (b"\xef\xbb\xbfa boat\r\n", "a boat"),
        ("ein Schiff \u2013 grün\n".encode(), "ein Schiff \u2013 grün"),
        (b"a boat, best quality\nanother caption\n", "a boat, best quality"),
    ],
)
def test_a_caption_file_is_read_as_training_reads_it(tmp_path: Path, content: bytes, caption: str) -> None:
    assert captions(written(tmp_path, IMAGES | {"1.txt": content}))["1.png"] == caption


CAPTION_FAULTS = {
    "latin-1": ({"1.txt": "grün".encode("latin-1")}, r"caption file '1.txt' is not UTF-8 \(byte 3 is 0xfc\)"),
    "endless": ({"1.txt": b"a" * 1_000_001}, r"1.txt' has 1.0 MB; expected at most 1 MB"),
    "two of them": ({"1.txt": b"a", "1.caption": b"b"}, r"'1.png' has several captions, '1.caption' and '1.txt'"),
}


@pytest.mark.parametrize("fault", CAPTION_FAULTS)
def test_a_caption_that_cannot_be_used_is_one_clear_line(tmp_path: Path, fault: str) -> None:
    files, says = CAPTION_FAULTS[fault]
    with pytest.raises(ProbeSetError, match=says):
        read(written(tmp_path, IMAGES | files))


def test_a_linked_caption_is_refused(tmp_path: Path) -> None:
    written(tmp_path, {"secret": b"words", **{f"train/{name}": data for name, data in IMAGES.items()}})
    (tmp_path / "train" / "1.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ProbeSetError, match=r"1\.txt' is a symbolic link"):
        read(tmp_path / "train")


ROWS = [("0.png", "a boat"), ("1.png", 'a "mast", blue'), ("d/2.png", "NA")]
TABLES = {
    "metadata.csv": b'file_name,text\n0.png,a boat\n1.png,"a ""mast"", blue"\nd/2.png,NA\n',
    "metadata.jsonl": "".join(json.dumps({"file_name": a, "text": b}) + "\n" for a, b in ROWS).encode(),
}
FORMS = {
    "plain": lambda text: text,
    "BOM and CRLF": lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"),
    "blank lines": lambda text: text.replace(b"\n", b"\n\n"),
    "no last line end": lambda text: text.rstrip(b"\n"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("table", TABLES)
def test_a_metadata_table_captions_the_images_of_its_folder(tmp_path: Path, table: str, form: str) -> None:
    images = {name: IMAGES[Path(name).name] for name, _ in ROWS}
    place = written(tmp_path, images | {table: FORMS[form](TABLES[table])})
    assert captions(place) == dict(ROWS)
    assert open_training_data(place, Columns()).count() == 3


@pytest.mark.parametrize("table", TABLES)
def test_an_image_that_a_metadata_table_leaves_out_is_told_of(tmp_path: Path, table: str) -> None:
    images = {name: IMAGES[Path(name).name] for name, _ in ROWS}
    others = {"lost.png": png(picture(9)), "0.txt": b"another caption", "a.gif": b"GIF89a"}
    place = written(tmp_path, images | {table: TABLES[table]} | others)
    data = open_training_data(place, Columns())
    found = {entry.name: entry for entry in data.entries()}
    assert found["lost.png"].problem == f"is not named in {table}"
    assert found["lost.png"].data == b""
    assert found["a.gif"].problem == "is not PNG, JPEG or WebP"
    assert found["0.txt"].beside
    assert data.count() == 5
    assert [entry.position for entry in data.entries()] == list(range(6))
    assert [entry.name for entry in data.entries({1, 5})] == [list(found)[1], list(found)[5]]
    assert list(data.names()) == list(found)


def test_a_metadata_table_may_be_of_semicolons_with_the_paths_of_windows(tmp_path: Path) -> None:
    text = "\ufeffsep=;\r\nfile_name;text\r\nd\\0.png;one; two\r\n".replace("one; two", '"one; two"')
    place = written(tmp_path, {"d/0.png": IMAGES["0.png"], "metadata.csv": text.encode()})
    assert captions(place) == {"d/0.png": "one; two"}


def test_dates_and_marks_of_a_metadata_table_are_read(tmp_path: Path) -> None:
    table = (
        b'{"file_name": "0.png", "date": "2026-01-02", "private": true}\n{"file_name": "1.png", "date": "2026-03-01"}\n'
    )
    place = written(tmp_path, IMAGES | {"metadata.jsonl": table})
    found = read(place, Columns(dated=True, marked_by="private"))
    assert [(str(entry.date), entry.marked) for entry in found.values()] == [
        ("2026-01-02", True),
        ("2026-03-01", False),
        ("None", False),
    ]


METADATA_FAULTS = {
    "no file_name": (
        {"metadata.csv": b"isic_id,text\n0,a\n"},
        "has the columns isic_id, text; expected a column `file_name`",
    ),
    "no rows": ({"metadata.jsonl": b"\n"}, "metadata.jsonl has no rows"),
    "no JSON": ({"metadata.jsonl": b'{"file_name": "0.png"}\n{oops\n'}, r"metadata.jsonl:2' is not valid JSON"),
    "no object": ({"metadata.jsonl": b'["0.png"]\n'}, r"metadata.jsonl:1' holds a JSON list"),
    "a key twice": ({"metadata.jsonl": b'{"text": "a", "text": "b"}\n'}, "key 'text' occurs twice"),
    "not UTF-8": ({"metadata.jsonl": b'{"file_name": "\xff"}\n'}, r"metadata.jsonl:1: cannot be read"),
    "a list of captions": (
        {"metadata.jsonl": b'{"file_name": "0.png", "text": ["a", "b"]}\n'},
        r":1: the caption is a list",
    ),
    "a short row": ({"metadata.csv": b"file_name,text\n0.png,a\n1.png\n"}, r"metadata.csv:3: 1 fields; expected 2"),
    "two tables": (TABLES, "holds metadata.csv and metadata.jsonl; expected one table"),
    "a table below": (
        {"train/metadata.csv": b"file_name\n"},
        r"train/metadata.csv' describes images, and would not be",
    ),
}


@pytest.mark.parametrize("fault", METADATA_FAULTS)
def test_a_metadata_table_that_cannot_be_used_is_one_clear_line(tmp_path: Path, fault: str) -> None:
    files, says = METADATA_FAULTS[fault]
    with pytest.raises(ProbeSetError, match=says):
        read(written(tmp_path, IMAGES | files))


@pytest.mark.parametrize("name", ["../1.png", "/etc/hostname", "..\\1.png"])
def test_a_row_that_leads_outside_is_left_out(tmp_path: Path, name: str) -> None:
    files = {"1.png": IMAGES["1.png"], "train/0.png": IMAGES["0.png"]}
    written(tmp_path, files | {"train/metadata.jsonl": json.dumps({"file_name": name}).encode()})
    problems = [entry.problem for entry in read(tmp_path / "train").values()]
    assert problems[0].startswith("leads outside")
    assert problems[1] == "is not named in metadata.jsonl"


@pytest.mark.parametrize(
    "text",
    [
        "path;caption\r\nd\\0.png;a boat\r\n",
        "\ufeffpath;caption\nd/0.png;a boat\n",
        "sep=;\npath;caption\nd/0.png;a boat",
        "file_name\ttext\nd/0.png\ta boat\n",
        "path,caption\n.\\d\\0.png,a boat\n",
    ],
)
def test_tables_of_spreadsheets_are_read(tmp_path: Path, text: str) -> None:
    place = written(tmp_path, {"d/0.png": IMAGES["0.png"], "list.csv": text.encode()}) / "list.csv"
    [entry] = read(place).values()
    assert (entry.caption, entry.data) == ("a boat", IMAGES["0.png"])


def test_a_name_with_a_backslash_that_is_there_is_read_as_it_is(tmp_path: Path) -> None:
    files = {"d\\0.png": IMAGES["0.png"], "d/0.png": IMAGES["1.png"], "list.csv": b"path\nd\\0.png\n"}
    [entry] = read(written(tmp_path, files) / "list.csv").values()
    assert entry.data == IMAGES["0.png"]


def test_a_named_column_comes_before_the_usual_ones(tmp_path: Path) -> None:
    files = IMAGES | {"list.csv": b"path,text,words\n0.png,no,yes\n"}
    found = read(written(tmp_path, files) / "list.csv", Columns(names={"caption": "words"}))
    assert [entry.caption for entry in found.values()] == ["yes"]
