"""`probes build --sample` in Python: the draw is a group of its own, and no other group moves it."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from invmm_gate.core.progress import Silent
from invmm_gate.curation.build import Curation, curate
from invmm_gate.probes.validate import validate_probe_set
from tests.curation.pictures import COPIES, EXACT, later_images, picture, png, training_images, written
from tests.stages.test_curating import options_for, record_of, write

DISTINCT = len(training_images()) - EXACT


@pytest.fixture
def places(tmp_path):
    return {
        "train": written(tmp_path / "train", training_images()),
        "later": written(tmp_path / "later", later_images()),
        "probes": tmp_path / "probes",
    }


def names(curation: Curation) -> list[str]:
    return [curation.training.items[row].name for row in curation.sample.rows]


def test_the_draw_does_not_depend_on_the_other_groups_and_may_repeat_their_images(places):
    listed = places["train"].parent / "sensitive.txt"
    listed.write_text("other05.png\n")
    alone = curate(options_for(places, sample=DISTINCT, duplicated=0, controls=0, controls_from=()), Silent())
    beside = curate(options_for(places, sample=DISTINCT, sensitive=listed, seed=0), Silent())
    assert names(alone) == names(beside)
    assert len(set(names(alone))) == DISTINCT
    write(beside)
    probes = validate_probe_set(places["probes"]).probes
    drawn = [probe for probe in probes if probe.group == "sample"]
    assert [probe.id for probe in drawn] == [f"sample-{number:04d}" for number in range(1, DISTINCT + 1)]
    assert {probe.cluster for probe in drawn} == {""}
    others = {probe.sha256 for probe in probes if probe.group in ("sensitive", "duplicated")}
    assert len(others) == 1 + len(COPIES)
    assert others <= {probe.sha256 for probe in drawn}


def test_another_seed_draws_other_images_and_the_record_says_what_was_drawn(places):
    first, again, other = (curate(options_for(places, sample=8, seed=seed), Silent()) for seed in (1, 1, 2))
    assert names(first) == names(again) != names(other)
    rows = [row for row in record_of(first)["probes"] if row["group"] == "sample"]
    assert [row["name"] for row in rows] == names(first)
    assert {row["reason"] for row in rows} == {f"drawn at random from {DISTINCT} training images with seed 1"}


def test_an_image_of_one_colour_is_passed_over_and_the_page_and_the_record_say_so(places):
    (places["train"] / "white.png").write_bytes(png(Image.new("RGB", (48, 48), "white")))
    found = curate(options_for(places, sample=DISTINCT), Silent())
    assert "white.png" not in names(found)
    write(found)
    record = json.loads((places["probes"] / "curation.json").read_text())
    assert [left["name"] for left in record["sample_passed_over"]] == ["white.png"]
    page = (places["probes"] / "contact_sheet.html").read_text()
    assert '<section id="sample">' in page
    assert "white.png" in page


def test_two_views_of_a_turned_image_are_one_draw(places):
    turned = picture(700)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(places["train"] / "turned.jpg", exif=exif)
    options = options_for(places, sample=DISTINCT + 1, duplicated=0, controls=0, controls_from=(), orientation="both")
    write(curate(options, Silent()))
    drawn = [probe for probe in validate_probe_set(places["probes"]).probes if probe.group == "sample"]
    twice = [probe for probe in drawn if probe.cluster]
    assert len(drawn) == DISTINCT + 2
    assert [probe.id.removeprefix(probe.cluster) for probe in twice] == ["-stored", "-upright"]
    assert replace(twice[0], id="", path="", sha256="", line=0) == replace(twice[1], id="", path="", sha256="", line=0)
