"""`probes add` takes a folder, a table, a tar: all images in it with their captions, or none."""

import io
import tarfile
from pathlib import Path

import pytest

from invmm_gate.probes.manifest import read_manifest
from invmm_gate.probes.validate import validate_probe_set
from tests.curation.pictures import written
from tests.probes.conftest import encoded, noise
from tests.stages.world import call

IMAGES = [encoded(noise(seed)) for seed in range(4)]
FOLDER = {
    "10_a boat/0001.png": IMAGES[0],
    "10_a boat/0001.txt": b"\xef\xbb\xbfa boat\r\n",
    "10_a boat/0002.png": IMAGES[1],
    "5_mast/0001.png": IMAGES[2],
    "5_mast/0001.caption": b"a mast",
    "5_mast/0001.npz": b"PK\x03\x04",
    "README.md": b"words",
}


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    assert call("probes", "init", tmp_path / "probes").code == 0
    return tmp_path / "probes"


def add(probes: Path, *arguments: object):
    return call("probes", "add", probes, *arguments, "--group", "sensitive")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_gives_all_its_images_with_their_captions(probes: Path, tmp_path: Path) -> None:
    done = add(probes, written(tmp_path / "train", FOLDER), "--caption", "of the others")
    assert (done.code, done.out) == (0, f"added 3 probes to {probes}: 0001, 0002, 0001-2\n"), done.err
    assert [(probe.id, probe.caption) for probe in read_manifest(probes)] == [
        ("0001", "a boat"),
        ("0002", "of the others"),
        ("0001-2", "a mast"),
    ]
    assert [(probes / probe.path).read_bytes() for probe in read_manifest(probes)] == IMAGES[:3]
    assert len(validate_probe_set(probes).probes) == 3


def test_a_folder_may_stand_beside_files_and_a_table_and_a_tar(probes: Path, tmp_path: Path) -> None:
    train = written(tmp_path / "train", {f"{number}.png": data for number, data in enumerate(IMAGES)})
    (train / "list.csv").write_text("path;words\r\n1.png;one\r\n")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, data in (("two.png", IMAGES[2]), ("two.txt", b"two")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    named = ("--column", "caption=words")
    done = add(probes, train / "0.png", train / "list.csv", tmp_path / "sh*.tar", *named)
    assert done.code == 0, done.err
    assert [(probe.id, probe.caption) for probe in read_manifest(probes)] == [("0", ""), ("1", "one"), ("two", "two")]


def test_both_orientations_of_images_in_a_folder_are_added(probes: Path, tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 3
    turned = encoded(noise(9), "JPEG", exif=exif)
    train = written(tmp_path / "train", {"a.png": IMAGES[0], "b.jpg": turned, "b.txt": b"words"})
    assert add(probes, train, "--orientation", "both").code == 0
    assert [(probe.id, probe.caption) for probe in read_manifest(probes)] == [
        ("a", ""),
        ("b-stored", "words"),
        ("b-upright", "words"),
    ]


BAD = {
    "damaged": ({"z.png": IMAGES[3][:60]}, "z.png' is damaged or cut short"),
    "of another kind": ({"z.tif": b"II*\0"}, "z.tif' is not PNG, JPEG or WebP"),
    "there twice": ({"z.png": IMAGES[0]}, "z.png' is already in the probe set, as"),
    "of another shape": ({"z.png": encoded(noise(7, width=32))}, "z.png' has 32 x 16 pixels"),
    "caption that is not UTF-8": ({"z.png": IMAGES[3], "z.txt": b"\xff"}, "'z.txt' is not UTF-8"),
    "caption with a NUL": ({"z.png": IMAGES[3], "z.txt": b"a\0b"}, "holds a NUL"),
    "not named": (
        {"metadata.csv": b"file_name,text\n10_a boat/0001.png,a\n"},
        "0002.png' is not named in metadata.csv",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_image_adds_nothing(probes: Path, tmp_path: Path, kind: str) -> None:
    files, says = BAD[kind]
    before = contents(probes)
    done = add(probes, written(tmp_path / "train", FOLDER | files))
    assert done.code == 2
    assert says in done.error
    assert contents(probes) == before


def test_a_linked_image_of_a_folder_adds_nothing(probes: Path, tmp_path: Path) -> None:
    train = written(tmp_path / "train", FOLDER)
    (train / "z.png").symlink_to(written(tmp_path / "other", {"z.png": IMAGES[3]}) / "z.png")
    done = add(probes, train)
    assert (done.code, "z.png' is or lies behind a symbolic link" in done.error) == (2, True)
    assert read_manifest(probes) == ()


def test_an_image_that_changes_meanwhile_adds_nothing(probes: Path, tmp_path: Path, monkeypatch) -> None:
    from invmm_gate.probes import edit

    train = written(tmp_path / "train", FOLDER)
    plan = edit._plan

    def then_changed(*arguments, **named):
        found = plan(*arguments, **named)
        (train / "10_a boat/0002.png").write_bytes(IMAGES[3])
        return found

    monkeypatch.setattr(edit, "_plan", then_changed)
    done = add(probes, train)
    assert (done.code, "0002.png' changed since it was added" in done.error) == (2, True)
    assert contents(probes).keys() == {"manifest.csv"}


def test_a_column_of_no_kind_is_refused(probes: Path, tmp_path: Path) -> None:
    done = add(probes, written(tmp_path / "train", FOLDER), "--column", "words=x")
    assert (done.code, "--column words=...; expected one of path, image, caption, date" in done.error) == (2, True)
