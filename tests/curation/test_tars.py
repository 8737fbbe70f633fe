"""A tar of images is read at its places: what is in it is named before an image is used, and nothing is missed."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.curation import training_rows
from invmm_gate.curation.training_data import expanded, open_training_data
from invmm_gate.curation.training_entries import Columns
from tests.curation.pictures import picture, png, written
from tests.stages.world import ROOT

IMAGES = [png(picture(number)) for number in range(3)]


def regular(name: str, data: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def other(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def packed(
    path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w", form: int = tarfile.PAX_FORMAT
) -> Path:
    with tarfile.open(path, mode, format=form) as tar:  # type: ignore[call-overload]
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, form: int = tarfile.PAX_FORMAT) -> Path:
    return packed(
        path,
        other("./", tarfile.DIRTYPE),
        other("d", tarfile.DIRTYPE),
        regular("d/0000.png", IMAGES[0]),
        regular("d/0000.txt", b"a boat\r\n"),
        regular("d/0000.json", b'{"caption": "not this one"}'),
        regular("d/0001.jpg", IMAGES[1]),
        regular("d/0001.json", json.dumps({"caption": "a mast", "sha256": "0"}).encode()),
        regular("d/0001.cls", b"7"),
        regular("d/0002.png", IMAGES[2]),
        regular("d/0003.gif", b"GIF89a"),
        form=form,
    )


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_have_the_name_of_their_shard_and_their_captions(tmp_path: Path, form: int) -> None:
    data = open_training_data(shard(tmp_path / "shard.tar", form), Columns())
    found = {entry.name: entry for entry in data.entries()}
    assert list(data.names()) == list(found)
    shown = {name: (entry.data, entry.caption) for name, entry in found.items() if not entry.problem}
    assert shown == {
        "shard.tar/d/0000.png": (IMAGES[0], "a boat"),
        "shard.tar/d/0001.jpg": (IMAGES[1], "a mast"),
        "shard.tar/d/0002.png": (IMAGES[2], ""),
    }
    assert found["shard.tar/d/0003.gif"].problem == "is not PNG, JPEG or WebP"
    assert {name for name, entry in found.items() if entry.beside} == {
        "shard.tar/d/0000.json", "shard.tar/d/0001.json", "shard.tar/d/0001.cls"
    }  # fmt: skip
    assert data.count() == 4
    assert [entry.data for entry in data.entries({0, 2})] == [IMAGES[0], IMAGES[1]]


def test_a_named_column_is_that_of_the_description(tmp_path: Path) -> None:
    place = packed(
        tmp_path / "a.tar", regular("0.png", IMAGES[0]), regular("0.json", b'{"caption": "no", "prompt": "yes"}')
    )
    [entry, _] = open_training_data(place, Columns(names={"caption": "prompt"})).entries()
    assert entry.caption == "yes"


def test_a_name_of_any_length_is_read(tmp_path: Path) -> None:
    name = "d/" * 200 + "ü.png"
    place = packed(tmp_path / "a.tar", regular(name, IMAGES[0]))
    assert [entry.name for entry in open_training_data(place, Columns()).entries()] == [f"a.tar/{name}"]


REFUSED = {
    "symbolic link": (other("1.png", tarfile.SYMTYPE, "/etc/passwd"), "'1.png' is a link to '/etc/passwd'"),
    "hard link": (other("1.png", tarfile.LNKTYPE, "0.png"), "'1.png' is a link to '0.png'"),
    "device": (other("1.png", tarfile.CHRTYPE), "'1.png' is a device"),
    "pipe": (other("1.png", tarfile.FIFOTYPE), "'1.png' is a device, a pipe"),
    "absolute path": (regular("/data/1.png", IMAGES[1]), "'/data/1.png' has an absolute path"),
    "folder outside": (other("../d", tarfile.DIRTYPE), "'../d' leads outside the tar"),
    "path of Windows": (regular("C:\\1.png", IMAGES[1]), "has an absolute path"),
    "path that leads upwards": (regular("a/../../1.png", IMAGES[1]), "'a/../../1.png' leads outside the tar"),
    "path that leads upwards on Windows": (regular("a\\..\\1.png", IMAGES[1]), "leads outside the tar"),
    "no name": (regular("./", IMAGES[1]), "has no name"),
    "name that is there twice": (regular("0.png", IMAGES[1]), "'0.png' is there twice"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_member_that_is_no_file_inside_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    member, says = REFUSED[kind]
    place = packed(tmp_path / "a.tar", regular("0.png", IMAGES[0]), member, regular("2.png", IMAGES[2]))
    with pytest.raises(ProbeSetError) as caught:
        open_training_data(place, Columns())
    assert says in str(caught.value)
    assert "nothing of it was used" in str(caught.value)


def whole(path: Path) -> bytes:
    return packed(path, *(regular(f"{number}.png", data) for number, data in enumerate(IMAGES))).read_bytes()


def header_of(name: str, content: bytes) -> int:
    return content.index(name.encode())


DAMAGED = {
    "cut short": lambda content: content[: header_of("2.png", content) + 700],
    "cut off in a header": lambda content: content[: header_of("2.png", content) + 100],
    "header that cannot be read": lambda content: content.replace(b"2.png", b"3.png", 1),
    "two tars in one file": lambda content: content + content,
    "no tar": lambda _: b"words" * 999,
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_tar_that_is_not_whole_is_refused(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "a.tar"
    place.write_bytes(DAMAGED[damage](whole(place)))
    with pytest.raises(ProbeSetError, match=r"a\.tar'? (cannot be read as a tar|goes on behind byte|holds no images)"):
        open_training_data(place, Columns())


def test_a_packed_tar_is_refused_with_what_to_do(tmp_path: Path) -> None:
    place = packed(tmp_path / "a.tar.gz", regular("0.png", IMAGES[0]), mode="w:gz")
    with pytest.raises(ProbeSetError, match="unpack it: in a packed tar no image can be read by itself"):
        open_training_data(place, Columns())
    with pytest.raises(ProbeSetError, match="expected a whole tar that is not packed"):
        open_training_data(place.rename(tmp_path / "b.tar"), Columns())


def test_a_caption_or_description_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name, data, says in (("0.txt", b"\xff", "is not UTF-8"), ("0.json", b"{", "is not valid JSON")):
        place = packed(tmp_path / "a.tar", regular("0.png", IMAGES[0]), regular(name, data))
        with pytest.raises(ProbeSetError, match=rf"'a.tar/{name}' {says}"):
            list(open_training_data(place, Columns()).entries())


def test_an_image_above_the_limit_is_left_out_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_rows, "IMAGE_LIMIT", 2_000_000)
    place = packed(tmp_path / "a.tar", regular("0.png", IMAGES[0]), regular("1.png", IMAGES[1] + bytes(3_000_000)))
    found = [(entry.data, entry.problem) for entry in open_training_data(place, Columns()).entries()]
    assert found == [(IMAGES[0], ""), (b"", "has 3.0 MB; expected at most 2 MB")]


def test_the_images_of_a_tar_are_in_memory_one_at_a_time(tmp_path: Path) -> None:
    large = png(picture(0))[:24] + bytes(2_000_000)
    place = packed(tmp_path / "a.tar", *(regular(f"{number}.png", large) for number in range(100)))
    program = f"""
from pathlib import Path
from invmm_gate.curation import training_rows
from invmm_gate.curation.training_data import open_training_data
from invmm_gate.curation.training_entries import Columns

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024

before = peak()
read = sum(len(entry.data) for entry in open_training_data(Path({str(place)!r}), Columns()).entries())
print(read, peak() - before)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    read, megabytes = done.stdout.split()
    assert int(read) == 100 * len(large)
    assert float(megabytes) < 20


def test_dates_and_marks_need_a_table(tmp_path: Path) -> None:
    for columns in (Columns(dated=True), Columns(marked_by="private")):
        with pytest.raises(ProbeSetError, match="is a tar, which has no columns"):
            open_training_data(shard(tmp_path / "a.tar"), columns)


def test_a_pattern_names_several_shards_and_one_that_matches_nothing_is_told(tmp_path: Path) -> None:
    written(tmp_path, {"train-1.tar": b"", "train-0.tar": b"", "test-0.tar": b"", "[a].csv": b""})
    assert expanded([tmp_path / "train-*.tar"]) == (tmp_path / "train-0.tar", tmp_path / "train-1.tar")
    assert expanded([tmp_path / "[a].csv", tmp_path / "none"]) == (tmp_path / "[a].csv", tmp_path / "none")
    with pytest.raises(ProbeSetError, match=r"val-\*.tar' matches nothing"):
        expanded([tmp_path / "val-*.tar"])
