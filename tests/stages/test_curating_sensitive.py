"""A sensitive image becomes a probe as it is, or the build stops: it is never left out or replaced by another."""

import numpy as np
import pytest
from PIL import Image

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.options import BuildOptions
from invmm_gate.core.progress import Silent
from invmm_gate.curation.build import curate
from invmm_gate.curation.write import planned_probes
from tests.curation.pictures import picture, png, training_images, written
from tests.stages.test_curating import TODAY, write


def page(dot: int) -> bytes:
    """A white page of 512 pixels with one faint dot: squeezed to 32 pixels all of them are white."""
    pixels = np.full((512, 512, 3), 255, np.uint8)
    pixels[dot, dot] = 200
    return png(Image.fromarray(pixels))


def built(folder, sources, **changes):
    return curate(BuildOptions(folder=folder / "probes", sources=sources, **changes), Silent())


def sensitive(curation):
    return [item for item in planned_probes(curation, today=TODAY) if item.probe.group == "sensitive"]


def test_pages_that_look_alike_when_squeezed_are_not_taken_for_one_another(tmp_path):
    train = written(tmp_path / "train", {"a.png": page(100), "b.png": page(300)})
    listing = train / "list.csv"
    listing.write_text("path,caption\na.png,of A\nb.png,of B\n")
    (tmp_path / "list.txt").write_text("b.png\n")
    found = built(tmp_path, (listing,), sensitive=tmp_path / "list.txt")
    (probe,) = sensitive(found)
    assert (probe.name, probe.probe.data, probe.probe.caption) == ("b.png", page(300), "of B")
    assert found.training.multiplicity.tolist() == [1, 1]
    write(found)


def test_of_exact_copies_the_one_that_was_named_is_read(tmp_path):
    plain, other = png(picture(1)), png(picture(1))[:-12] + b"\0\0\0\0tEXt\xc8\xf6\xd7\x00" + png(picture(1))[-12:]
    train = written(tmp_path / "train", {"a.png": plain, "z.png": other, "y.png": png(picture(2))})
    (tmp_path / "list.txt").write_text("z.png\n")
    (probe,) = sensitive(built(tmp_path, (train,), sensitive=tmp_path / "list.txt"))
    assert (probe.name, probe.probe.data, probe.multiplicity) == ("z.png", other, 2)


def test_copies_with_the_very_same_pixels_give_one_probe(tmp_path):
    train = written(tmp_path / "train", {"a.png": png(picture(1)), "b.png": png(picture(1))})
    (tmp_path / "list.txt").write_text("b.png\na.png\n")
    found = built(tmp_path, (train,), sensitive=tmp_path / "list.txt")
    assert [item.name for item in sensitive(found)] == ["a.png"]
    write(found)


@pytest.mark.parametrize("cell", ["yes", "TRUE", "1", "1.0", " t "])
def test_a_cell_that_says_yes_marks_its_row(tmp_path, cell):
    train = written(tmp_path / "train", training_images())
    (train / "list.csv").write_text(f"path,private\nother03.png,{cell}\nother04.png,\nother05.png,0.0\n")
    found = built(tmp_path, (train / "list.csv",), sensitive_column="private")
    assert [item.name for item in sensitive(found)] == ["other03.png"]


def test_marks_in_a_parquet_column_of_numbers_and_gaps_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    train = written(tmp_path / "train", training_images())
    columns = {"path": ["other03.png", "other04.png", "other05.png"], "private": [1.0, None, float("nan")]}
    pq.write_table(pa.table(columns), train / "list.parquet")
    found = built(tmp_path, (train / "list.parquet",), sensitive_column="private")
    assert [item.name for item in sensitive(found)] == ["other03.png"]


def test_a_listed_path_is_found_where_images_says_that_paths_begin(tmp_path, monkeypatch):
    train = written(tmp_path / "data" / "train", training_images())
    listing = tmp_path / "list.csv"
    listing.write_text("path\nother03.png\nother04.png\n")
    (tmp_path / "list.txt").write_text("data/train/other04.png\n")
    monkeypatch.chdir(tmp_path)
    found = built(tmp_path, (listing,), images=train, sensitive=tmp_path / "list.txt")
    assert [item.name for item in sensitive(found)] == ["other04.png"]
    (tmp_path / "list.txt").write_text("other03.png\n")
    assert [
        item.name for item in sensitive(built(tmp_path, (listing,), images=train, sensitive=tmp_path / "list.txt"))
    ] == ["other03.png"]


def test_a_sensitive_image_that_no_probe_can_be_made_of_stops_the_build(tmp_path):
    train = written(tmp_path / "train", training_images() | {"tiny.png": png(picture(1, size=7))})
    (tmp_path / "list.txt").write_text("tiny.png\n")
    with pytest.raises(ProbeSetError, match=r"'tiny\.png' cannot be a probe: it has 7 x 7 pixels; expected 8 to 16384"):
        built(tmp_path, (train,), sensitive=tmp_path / "list.txt")


def test_a_listed_path_may_be_one_of_windows(tmp_path):
    train = written(tmp_path / "train", {"d/a.png": png(picture(1)), "d/b.png": png(picture(2))})
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfd\\b.png\r\n")
    (probe,) = sensitive(built(tmp_path, (train,), sensitive=tmp_path / "list.txt"))
    assert probe.name == "d/b.png"
