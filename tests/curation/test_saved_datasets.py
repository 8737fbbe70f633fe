"""Folders that `save_to_disk` wrote: read by `datasets`, offline, without its cache, never decoded by it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from invmm_gate.core.errors import ConfigError, ProbeSetError
from invmm_gate.curation.training_data import open_training_data
from invmm_gate.curation.training_entries import Columns
from tests.curation.pictures import picture, png, written
from tests.stages.world import ROOT

IMAGES = [png(picture(number)) for number in range(70)]


def saved(place: Path, count: int = 70, **columns: list[object]) -> Path:
    import datasets

    content = {"image": [{"bytes": data, "path": None} for data in IMAGES[:count]]} | columns
    features = datasets.Features({"image": datasets.Image(), **{name: datasets.Value("string") for name in columns}})
    datasets.Dataset.from_dict(content, features=features).save_to_disk(place, num_shards=2)
    return place


def test_rows_have_names_and_captions_and_are_read_by_position(tmp_path: Path) -> None:
    place = saved(tmp_path / "train", text=[f"words {number}" for number in range(70)])
    data = open_training_data(place, Columns())
    entries = list(data.entries())
    assert [entry.data for entry in entries] == IMAGES
    assert entries[64].caption == "words 64"
    assert [entry.name for entry in entries] == list(data.names()) == [f"train/row {row}" for row in range(1, 71)]
    assert [entry.position for entry in data.entries({69, 3})] == [3, 69]
    assert data.count() == 70


def test_dates_and_marks_are_read(tmp_path: Path) -> None:
    place = saved(tmp_path / "train", 2, date=["2026-01-01", "2026-02-01"], kind=["a", "b"])
    found = list(open_training_data(place, Columns(dated=True, marked_by="kind", marked_value="b")).entries())
    assert [(str(entry.date), entry.marked) for entry in found] == [("2026-01-01", False), ("2026-02-01", True)]


def test_of_several_splits_one_must_be_named(tmp_path: Path) -> None:
    import datasets

    parts = {name: datasets.load_from_disk(saved(tmp_path / name, 2)) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "both")
    datasets.DatasetDict(train=parts["train"]).save_to_disk(tmp_path / "one")
    with pytest.raises(ProbeSetError, match=r"both' holds the splits 'train', 'test'; .*both/train'"):
        open_training_data(tmp_path / "both", Columns())
    for place in (tmp_path / "one", tmp_path / "both" / "train"):
        assert open_training_data(place, Columns()).count() == 2


def edited(place: Path, **changes: object) -> Path:
    state = json.loads((place / "state.json").read_text())
    (place / "state.json").write_text(json.dumps(state | changes))
    return place


def test_a_state_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "other", 2)
    for number, name in enumerate(("../other/data-00000-of-00002.arrow", "/etc/passwd", "none.arrow", "", None, "..")):
        place = edited(saved(tmp_path / f"train{number}", 2), _data_files=[{"filename": name}])
        with pytest.raises(ProbeSetError, match="names the file"):
            open_training_data(place, Columns())
    linked = saved(tmp_path / "linked", 2)
    file = linked / "data-00000-of-00002.arrow"
    file.rename(tmp_path / "elsewhere.arrow")
    file.symlink_to(tmp_path / "elsewhere.arrow")
    with pytest.raises(ProbeSetError, match="which is or lies behind a symbolic link"):
        open_training_data(linked, Columns())


BROKEN = {
    "no JSON": lambda place: (place / "state.json").write_text("{"),
    "no files": lambda place: edited(place, _data_files=[]),
    "files of another kind": lambda place: edited(place, _data_files="data"),
    "cut off": lambda place: (place / "data-00000-of-00002.arrow").write_bytes(b"ARROW1"),
    "no fingerprint": lambda place: (place / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data-00000-of-00002.arrow"}]})
    ),
    "features of no kind": lambda place: (place / "dataset_info.json").write_text(
        '{"features": {"image": {"_type": "os"}}}'
    ),
    "no image column": lambda place: None,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_folder_is_one_clear_line(tmp_path: Path, fault: str) -> None:
    place = saved(tmp_path / "train", 2)
    BROKEN[fault](place)
    columns = Columns(names={"image": "picture"}) if fault == "no image column" else Columns()
    with pytest.raises(ProbeSetError) as caught:
        open_training_data(place, columns)
    assert "\n" not in str(caught.value)


def test_an_image_that_is_a_path_alone_is_told_of(tmp_path: Path) -> None:
    import datasets

    content = {"image": [{"bytes": None, "path": "/etc/passwd"}]}
    kinds = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    datasets.Dataset.from_dict(content, features=kinds).save_to_disk(tmp_path / "train")
    [entry] = open_training_data(tmp_path / "train", Columns()).entries()
    assert (entry.data, entry.problem) == (b"", "holds no image bytes")


def test_without_datasets_the_install_line_is_given_and_a_folder_of_images_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = saved(tmp_path / "train", 2)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError) as caught:
        open_training_data(place, Columns())
    assert str(caught.value) == (
        f"{str(place)!r} is a saved data set, and `datasets` is not installed; expected the extra `datasets`; "
        "run `pip install 'invmm-gate[datasets]'`"
    )
    assert caught.value.exit_code == 2
    assert open_training_data(written(tmp_path / "plain", {"0.png": IMAGES[0]}), Columns()).count() == 1


def test_nothing_is_written_to_the_home_of_the_user_and_nothing_fetched(tmp_path: Path) -> None:
    place = saved(tmp_path / "train", text=["a"] * 70)
    before = sorted(tmp_path.rglob("*"))
    program = f"""
import socket
def refuse(*_): raise SystemExit("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from pathlib import Path
from invmm_gate.curation.training_data import open_training_data
from invmm_gate.curation.training_entries import Columns
print(sum(len(entry.data) > 0 for entry in open_training_data(Path({str(place)!r}), Columns()).entries()))
"""
    home = tmp_path / "home"
    home.mkdir()
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = plain | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("70\n", 0), done.stderr
    assert sorted(home.rglob("*")) == []
    assert sorted(set(tmp_path.rglob("*")) - {home}) == before


def test_rows_of_parquet_shards_have_names_of_their_own(tmp_path: Path) -> None:
    for part in range(2):
        image = [{"bytes": data, "path": f"{row}.png"} for row, data in enumerate(IMAGES[part * 3 : part * 3 + 3])]
        pq.write_table(pa.table({"image": image, "text": [f"words {part}"] * 3}), tmp_path / f"train-{part}.parquet")
    sources = [open_training_data(tmp_path / f"train-{part}.parquet", Columns()) for part in range(2)]
    entries = [entry for source in sources for entry in source.entries()]
    assert [entry.data for entry in entries] == IMAGES[:6]
    assert [entry.name for entry in entries] == [
        f"train-{part}.parquet/row {row}" for part in range(2) for row in (1, 2, 3)
    ]
    assert [entry.caption for entry in entries] == ["words 0"] * 3 + ["words 1"] * 3
