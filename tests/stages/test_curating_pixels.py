"""`probes build` looks at every file, as training would, and says of each that it did not look at."""

import dataclasses
import datetime
import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.options import BuildOptions
from invmm_gate.core.progress import Silent
from invmm_gate.curation.build import Curation, curate
from invmm_gate.curation.training_data import open_training_data
from invmm_gate.curation.training_entries import Columns
from invmm_gate.curation.write import curation_record, planned_probes, write_curation
from invmm_gate.probes.validate import validate_probe_set
from tests.curation.pictures import near, picture, png, written
from tests.stages.world import call

TODAY = datetime.date(2026, 11, 22)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(image: Image.Image, orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "PNG", exif=exif)


def options_for(tmp_path: Path, files: dict[str, bytes], **changes: object) -> BuildOptions:
    source = written(tmp_path / "train", files)
    return dataclasses.replace(BuildOptions(folder=tmp_path / "probes", sources=(source,)), **changes)


def write(curation: Curation) -> dict[str, object]:
    planned = planned_probes(curation, today=TODAY)
    record = curation_record(curation, planned, today=TODAY)
    write_curation(curation, planned, record)
    return record


def pair(seed: int) -> dict[str, bytes]:
    """Two near-duplicates: what a probe is made of."""
    return {f"near{seed}-{number}.png": png(near(seed, number)) for number in range(2)}


def test_a_jpeg_or_webp_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    names = ("a.jfif", "a.jpe", "a.JFIF", "a", "a.tif", "a.gif", "scan.txt", ".hidden", "a.jpeg.bak")
    files = {name: encoded(picture(10 + number), "JPEG") for number, name in enumerate(names)}
    files |= {"several.jpg": encoded(picture(30), "MPO", save_all=True, append_images=[picture(31)])}
    files |= {"b.jpg": encoded(picture(32), "WEBP"), "b.webp": png(picture(33))}
    found = curate(options_for(tmp_path, files | pair(0)), Silent())
    assert {item.name for item in found.scan.items} == {*files, *pair(0)}
    assert found.scan.left_out == found.scan.beside == []


def test_every_file_that_is_no_such_image_is_listed_with_its_reason_and_counted(tmp_path: Path) -> None:
    tiff, bmp, gif = (encoded(picture(1), kind) for kind in ("TIFF", "BMP", "GIF"))
    others = {
        "a.tif": tiff,
        "a.bmp": bmp,
        "a.gif": gif,
        "a.png": gif,
        "a.dcm": bytes(128) + b"DICM",
        "a.jxl": b"\xff\x0a",
    }
    others |= {"a.heic": b"\0\0\0\x18ftypheic", "a.HEIF": b"", "a.avif": b"\0\0\0\x18ftypavif", "scan": bytes(99)}
    others |= {"latents.npy": b"\x93NUMPY", "shard.tar": bytes(512), "images.parquet": b"PAR1", "a.svg": b"<svg/>"}
    beside = {
        "nobody.txt": b"a cat",
        "meta.jsonl": b"{}",
        "d/.DS_Store": bytes(9),
        ".git/objects/x": png(near(0, 0)),
    }
    options = options_for(tmp_path, pair(0) | others | beside)
    os.mkfifo(tmp_path / "train" / "pipe.png")
    record = write(curate(options, Silent()))
    left_out = {row["name"]: row["reason"] for row in record["left_out"]}
    assert "pipe" in left_out.pop("pipe.png")
    assert left_out == dict.fromkeys(others, "is not PNG, JPEG or WebP")
    assert {row["name"] for row in record["beside"]} == {"nobody.txt", "meta.jsonl", "d/.DS_Store", ".git"}
    assert (record["counts"]["left_out"], record["counts"]["beside"]) == (len(others) + 1, 4)
    page = (options.folder / "contact_sheet.html").read_text()
    assert "15 (2 .png, " in page
    assert "a.dcm" in page


def test_the_terminal_warns_of_files_that_nobody_looked_at(tmp_path: Path) -> None:
    source = written(tmp_path / "train", pair(0) | {"a.dcm": b"x", "b.dcm": b"y", "c.txt": b"words"})
    done = call("probes", "build", tmp_path / "probes", "--from", source, "--quiet")
    assert done.code == 0
    warning = "WARNING: 2 files (2 .dcm) were not looked at, and training may have read them"
    assert warning in done.out
    assert "beside the images: 1 other files (1 .txt)" in done.out
    strict = call("probes", "build", tmp_path / "strict", "--from", source, "--quiet", "--strict")
    assert (strict.code, "a.dcm" in strict.err) == (2, True)
    (source / "a.dcm").unlink()
    (source / "b.dcm").unlink()
    assert call("probes", "build", tmp_path / "strict", "--from", source, "--quiet", "--strict").code == 0


def test_captions_need_no_memory_for_vectors(tmp_path: Path) -> None:
    source = written(
        tmp_path / "train", {"a.png": png(picture(0)), "a.txt": b"words", "d.txt": b"words", "b.heic": b"", "c": b""}
    )
    assert open_training_data(source, Columns()).count() == 3


def test_captions_are_no_candidates_for_controls(tmp_path: Path) -> None:
    later = written(tmp_path / "later", {"late.png": png(picture(50)), **{f"{n}.txt": b"words" for n in range(9)}})
    found = curate(options_for(tmp_path, pair(0), controls_from=(later,)), Silent())
    assert (found.controls.pool, found.controls.refused) == (1, ())


def test_an_image_that_exif_turns_is_left_out_or_becomes_two_probes(tmp_path: Path) -> None:
    stored = [near(1, number) for number in range(3)]
    files = pair(0) | {f"turned{number}.png": turned(image) for number, image in enumerate(stored)}
    options = options_for(tmp_path, files, cache=tmp_path / "cache")
    reasons = {left.name: left.reason for left in curate(options, Silent()).scan.left_out}
    assert sorted(reasons) == ["turned0.png", "turned1.png", "turned2.png"]
    assert all("has EXIF orientation 6" in reason and "--orientation both" in reason for reason in reasons.values())
    both = dataclasses.replace(options, orientation="both")
    record = write(curate(both, Silent()))
    assert record["inputs"]["orientation"] == "both"
    probes = {probe.id: probe for probe in validate_probe_set(options.folder).probes}
    assert set(probes) == {"duplicated-0001-stored", "duplicated-0001-upright", "duplicated-0002"}
    first, second = (probes[f"duplicated-0001-{view}"] for view in ("stored", "upright"))
    assert first.cluster == second.cluster == "duplicates-00001"
    with Image.open(options.folder / first.path) as plain, Image.open(options.folder / second.path) as upright:
        assert plain.tobytes() in {image.tobytes() for image in stored}
        assert upright.tobytes() == plain.transpose(Image.Transpose.ROTATE_270).tobytes()
        assert ImageOps.exif_transpose(plain).tobytes() == plain.tobytes()
    again = dataclasses.replace(options, folder=tmp_path / "again")
    assert len(curate(again, Silent()).scan.left_out) == 3  # the cache of the other reading vouches for nothing


def test_a_sensitive_image_that_exif_turns_becomes_two_probes_of_one_cluster(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("x.png\n")
    options = options_for(
        tmp_path, {"x.png": turned(picture(3)), "y.png": png(picture(4))}, sensitive=tmp_path / "list.txt"
    )
    with pytest.raises(ProbeSetError, match=r"x\.png.*EXIF orientation 6"):
        curate(options, Silent())
    write(curate(dataclasses.replace(options, orientation="both"), Silent()))
    found = [(probe.id, probe.cluster) for probe in validate_probe_set(options.folder).probes]
    assert found == [("sensitive-0001-stored", "sensitive-0001"), ("sensitive-0001-upright", "sensitive-0001")]


def wide(seed: int, number: int) -> bytes:
    return png(near(seed, number).resize((96, 48)))


def test_probes_of_another_shape_need_a_fit_which_all_probes_then_have(tmp_path: Path) -> None:
    files = {f"wide{number}.png": wide(1, number) for number in range(3)}
    later = written(tmp_path / "later", {"late.png": wide(50, 0), "square.png": png(picture(51))})
    options = options_for(tmp_path, files | pair(0), controls_from=(later,))
    with pytest.raises(ProbeSetError, match=r"wide.* has 96 x 48 pixels.*--fit"):
        curate(options, Silent())
    record = write(curate(dataclasses.replace(options, fit="squeeze"), Silent()))
    assert record["inputs"]["fit"] == "squeeze"
    assert {probe.fit for probe in validate_probe_set(options.folder).probes} == {"squeeze"}
    assert json.loads((options.folder / "curation.json").read_text())["inputs"]["fit"] == "squeeze"


def test_a_control_of_another_shape_is_refused_where_no_fit_was_given(tmp_path: Path) -> None:
    later = written(tmp_path / "later", {"late.png": wide(50, 0), "square.png": png(picture(51))})
    found = curate(options_for(tmp_path, pair(0), controls_from=(later,)), Silent())
    assert [left.name for left in found.controls.refused] == ["late.png"]
    assert "--fit" in found.controls.refused[0].reason
