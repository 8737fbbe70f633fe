import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.options import NewProbes
from invmm_gate.core.records import GROUPS, Group
from invmm_gate.probes.edit import add_probes, init_probe_set, unique_id
from invmm_gate.probes.fields import id_problem
from invmm_gate.probes.manifest import read_manifest
from invmm_gate.probes.validate import check_probe_set, validate_probe_set
from tests.probes.conftest import TODAY, edit, encoded, noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init_probe_set(tmp_path / "probes")
    return tmp_path / "probes"


def picture(tmp_path: Path, name: str, seed: int, kind: str = "PNG") -> Path:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(encoded(noise(seed), kind))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_probe_set_is_an_empty_manifest_and_a_folder_for_images(folder: Path) -> None:
    assert read_manifest(folder) == ()
    assert (folder / "images").is_dir()
    init_probe_set(folder)
    assert contents(folder).keys() == {"manifest.csv"}


def test_a_probe_set_in_use_is_not_started_anew(folder: Path, tmp_path: Path) -> None:
    add_probes(folder, [picture(tmp_path, "a.png", 1)], NewProbes(group="control", added_on=TODAY))
    before = contents(folder)
    with pytest.raises(ProbeSetError, match=r"already lists 1 probes; .*probes add"):
        init_probe_set(folder)
    assert contents(folder) == before


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProbeSetError, match="cannot be created"):
        init_probe_set(tmp_path / "file")


def test_added_images_are_listed_copied_and_valid(folder: Path, tmp_path: Path) -> None:
    images = [
        picture(tmp_path, "Été à Paris.png", 1),
        picture(tmp_path, "x/cat.jpeg", 2, "JPEG"),
        picture(tmp_path, "y/CAT.png", 3, "WEBP"),
        picture(tmp_path, "猫.png", 4),
    ]
    added = add_probes(
        folder,
        images,
        NewProbes(
            group="duplicated",
            category="people",
            caption='a "cat", two\nlines',
            cluster="c",
            source="shoot 7",
            licence="CC0-1.0",
            added_on=TODAY,
        ),
    )
    assert [(probe.id, probe.path) for probe in added] == [
        ("Ete-a-Paris", "images/Ete-a-Paris.png"),
        ("cat", "images/cat.jpg"),
        ("CAT-2", "images/CAT-2.webp"),
        ("probe", "images/probe.png"),
    ]
    for probe, image in zip(added, images, strict=True):
        assert (folder / probe.path).read_bytes() == image.read_bytes()
        assert (probe.group, probe.category, probe.cluster, probe.added_on) == (
            "duplicated",
            "people",
            "c",
            "2026-11-21",
        )
        assert (probe.caption, probe.source, probe.licence) == ('a "cat", two\nlines', "shoot 7", "CC0-1.0")
    more = add_probes(folder, [picture(tmp_path, "z/cat.png", 5)], NewProbes(group="control", added_on=TODAY))
    assert [probe.id for probe in more] == ["cat-3"]
    assert validate_probe_set(folder, min_controls=1, captions_required=False).probes == (*added, *more)


def turned_photo(tmp_path: Path, name: str = "x/cat.jpg") -> Path:
    """32 x 16 pixels as stored, 16 x 32 upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(encoded(noise(5, width=32, height=16), "JPEG", exif=exif))
    return path


def test_an_image_of_another_shape_needs_a_fit_which_the_manifest_keeps(folder: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    wide.write_bytes(encoded(noise(1, width=48, height=16)))
    before = contents(folder)
    with pytest.raises(ProbeSetError, match=r"wide.png' has 48 x 16 pixels .*--fit of `probes add`"):
        add_probes(folder, [picture(tmp_path, "a.png", 2), wide], NewProbes(group="sensitive", added_on=TODAY))
    assert contents(folder) == before
    [added] = add_probes(folder, [wide], NewProbes(group="sensitive", fit="squeeze", added_on=TODAY))
    assert added.fit == "squeeze"
    assert validate_probe_set(folder).probes == (added,)
    add_probes(folder, [picture(tmp_path, "a.png", 2)], NewProbes(group="control", added_on=TODAY))
    assert [probe.fit for probe in read_manifest(folder)] == ["squeeze", ""]


def test_a_photo_that_exif_turns_is_refused_or_stored_both_ways(folder: Path, tmp_path: Path) -> None:
    photo, plain = turned_photo(tmp_path), picture(tmp_path, "plain.png", 6)
    before = contents(folder)
    with pytest.raises(ProbeSetError, match=r"cat.jpg' has EXIF orientation 6, .*--orientation both"):
        add_probes(folder, [plain, photo], NewProbes(group="sensitive", fit="crop", added_on=TODAY))
    assert contents(folder) == before
    add_probes(folder, [plain, photo], NewProbes(group="sensitive", fit="crop", orientation="both", added_on=TODAY))
    found = validate_probe_set(folder).probes
    assert [(probe.id, probe.path, probe.cluster) for probe in found] == [
        ("plain", "images/plain.png", ""),
        ("cat-stored", "images/cat-stored.png", "cat"),
        ("cat-upright", "images/cat-upright.png", "cat"),
    ]
    with Image.open(photo) as image:
        both = [image.convert("RGB"), ImageOps.exif_transpose(image).convert("RGB")]
    for probe, expected in zip(found[1:], both, strict=True):
        with Image.open(folder / probe.path) as image:
            assert (image.format, dict(image.getexif()), image.tobytes()) == ("PNG", {}, expected.tobytes())
    with pytest.raises(ProbeSetError, match="is already in the probe set, as probe 'cat-stored'"):
        add_probes(folder, [photo], NewProbes(group="sensitive", fit="crop", orientation="both", added_on=TODAY))


def test_both_ways_of_two_photos_of_one_name_keep_apart(folder: Path, tmp_path: Path) -> None:
    first, second = turned_photo(tmp_path), turned_photo(tmp_path, "y/cat.jpg")
    exif = Image.Exif()
    exif[0x0112] = 3
    second.write_bytes(encoded(noise(8), "JPEG", exif=exif))
    for photo in (first, second):
        add_probes(
            folder,
            [photo],
            NewProbes(group="sensitive", cluster="c", fit="pad", orientation="both", added_on=TODAY),
        )
    found = read_manifest(folder)
    assert [probe.id for probe in found] == ["cat-stored", "cat-upright", "cat-2-stored", "cat-2-upright"]
    assert {probe.cluster for probe in found} == {"c"}


def test_the_same_image_twice_is_refused_with_the_probe_that_holds_it(folder: Path, tmp_path: Path) -> None:
    first = picture(tmp_path, "a.png", 1)
    add_probes(folder, [first], NewProbes(group="control", added_on=TODAY))
    before = contents(folder)
    with pytest.raises(ProbeSetError, match=r"b.png' is already in the probe set, as probe 'a'"):
        add_probes(folder, [picture(tmp_path, "b.png", 1)], NewProbes(group="control", added_on=TODAY))
    with pytest.raises(ProbeSetError, match=r"d.png' is already in the probe set, as '.*c.png' of this call"):
        add_probes(
            folder,
            [picture(tmp_path, "c.png", 2), picture(tmp_path, "d.png", 2)],
            NewProbes(group="control", added_on=TODAY),
        )
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": "controls"}, "group 'controls' is unknown"),
        ({"group": "control", "caption": "a\0b"}, "NUL"),
        ({"group": "control", "caption": "caf\udce9"}, "not Unicode"),
    ],
)
def test_details_that_cannot_be_written_leave_the_set_unchanged(
    folder: Path, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    before = contents(folder)
    with pytest.raises(ProbeSetError, match=said):
        add_probes(folder, [picture(tmp_path, "a.png", 1)], NewProbes(added_on=TODAY, **options))
    assert contents(folder) == before


@pytest.mark.parametrize("bad", ["text.png", "gone.png", "short.png"])
def test_one_bad_image_and_none_is_added(folder: Path, tmp_path: Path, bad: str) -> None:
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "short.png").write_bytes(encoded(noise(3, width=64, height=64))[:900])
    before = contents(folder)
    with pytest.raises(ProbeSetError, match=bad):
        add_probes(folder, [picture(tmp_path, "a.png", 1), tmp_path / bad], NewProbes(group="control", added_on=TODAY))
    assert contents(folder) == before


def test_a_full_disk_while_copying_leaves_the_set_unchanged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [picture(tmp_path, f"{number}.png", number) for number in range(3)]
    before, replaced, real = contents(folder), [], os.replace

    def full_at_the_third(source: Path, target: Path) -> None:
        replaced.append(target)
        if len(replaced) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", full_at_the_third)
    with pytest.raises(ProbeSetError, match=r"cannot be written \(No space left on device\)"):
        add_probes(folder, images, NewProbes(group="control", added_on=TODAY))
    assert contents(folder) == before


def test_an_interruption_while_copying_leaves_the_set_unchanged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [picture(tmp_path, f"{number}.png", number) for number in range(3)]
    before, synced, real = contents(folder), [], os.fsync

    def interrupted_at_the_fifth(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 5:
            raise KeyboardInterrupt
        real(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        add_probes(folder, images, NewProbes(group="control", added_on=TODAY))
    assert contents(folder) == before


def test_an_error_after_the_manifest_was_replaced_keeps_the_images_that_it_lists(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, real = [], os.fsync

    def fails_at_the_last(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 4:  # image, its folder, manifest, its folder
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fails_at_the_last)
    with pytest.raises(ProbeSetError, match="Input/output error"):
        add_probes(folder, [picture(tmp_path, "a.png", 1)], NewProbes(group="control", added_on=TODAY))
    assert [probe.id for probe in validate_probe_set(folder).probes] == ["a"]


def test_adding_to_a_folder_that_is_no_probe_set_says_how_to_start(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ProbeSetError, match="probes init"):
            add_probes(folder, [], NewProbes(group="control", added_on=TODAY))


def test_images_added_at_the_same_time_are_all_listed(folder: Path, tmp_path: Path) -> None:
    images = [picture(tmp_path, f"{number}/cat.png", number) for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda image: add_probes(folder, [image], NewProbes(group="control", added_on=TODAY)), images))
    assert len(validate_probe_set(folder).probes) == 12


def test_a_kill_at_any_moment_leaves_a_valid_set(folder: Path, tmp_path: Path) -> None:
    images = [str(picture(tmp_path, f"{number}.png", number)) for number in range(40)]
    code = """
import datetime, sys
from pathlib import Path
from invmm_gate.core.options import NewProbes
from invmm_gate.probes.edit import add_probes
print("ready", flush=True)
for image in sys.argv[2:]:
    add_probes(Path(sys.argv[1]), [Path(image)], NewProbes(group="control", added_on=datetime.date(2026, 11, 21)))
"""
    for number, delay in enumerate((0.003, 0.011, 0.019, 0.031)):
        command = [sys.executable, "-c", code, str(folder), *images[number * 10 : number * 10 + 10]]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert process.returncode in (-signal.SIGKILL, 0)
        for probe in read_manifest(folder):
            assert (folder / probe.path).is_file()
    add_probes(folder, [picture(tmp_path, "last.png", 99)], NewProbes(group="control", added_on=TODAY))
    assert validate_probe_set(folder).probes[-1].id == "last"


@given(stem=st.text(max_size=200), taken=st.integers(0, 3))
def test_any_file_name_becomes_a_free_and_usable_id(stem: str, taken: int) -> None:
    used: set[str] = set()
    for _ in range(taken + 1):
        identifier = unique_id(stem, used)
        assert id_problem(identifier) == ""
        assert identifier.casefold() not in used
        used.add(identifier.casefold())


def test_a_canary_is_added_with_how_often_it_was_planted_and_later_edits_keep_it(folder: Path, tmp_path: Path) -> None:
    add_probes(folder, [picture(tmp_path, "a.png", 1)], NewProbes(group="canary", multiplicity=16, added_on=TODAY))
    add_probes(folder, [picture(tmp_path, "b.png", 2)], NewProbes(group="canary", added_on=TODAY))
    add_probes(folder, [picture(tmp_path, "c.png", 3)], NewProbes(group="control", added_on=TODAY))
    assert [probe.multiplicity for probe in validate_probe_set(folder).probes] == [16, 0, 0]


def test_images_are_added_with_the_label_that_they_were_trained_under(folder: Path, tmp_path: Path) -> None:
    add_probes(folder, [picture(tmp_path, "a.png", 1)], NewProbes(group="sample", label=0, added_on=TODAY))
    add_probes(folder, [picture(tmp_path, "b.png", 2)], NewProbes(group="control", added_on=TODAY))
    assert [probe.label for probe in validate_probe_set(folder).probes] == [0, None]
    with pytest.raises(ProbeSetError, match="label '1000000000' is no class label"):
        add_probes(folder, [picture(tmp_path, "c.png", 3)], NewProbes(group="sample", label=10**9, added_on=TODAY))


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "canary"])
def test_a_multiplicity_is_refused_for_anything_else(folder: Path, tmp_path: Path, group: Group) -> None:
    with pytest.raises(ProbeSetError, match="expected it for group canary alone"):
        add_probes(folder, [picture(tmp_path, "a.png", 1)], NewProbes(group=group, multiplicity=8, added_on=TODAY))
    assert list((folder / "images").iterdir()) == []


def test_a_random_draw_may_draw_what_is_another_probe_already_but_not_twice(folder: Path, tmp_path: Path) -> None:
    image = picture(tmp_path, "a.png", 1)
    for group in ("sensitive", "sample"):
        add_probes(folder, [image], NewProbes(group=group, added_on=TODAY))
        with pytest.raises(ProbeSetError, match="is already in the probe set"):
            add_probes(folder, [image], NewProbes(group=group, added_on=TODAY))
    assert [probe.group for probe in validate_probe_set(folder).probes] == ["sensitive", "sample"]
    edit(folder, ",sample,", ",duplicated,")
    assert "has the very pixels of the probe on line 2" in check_probe_set(folder).lines()[0]
