import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from invmm_gate.core.errors import BAD_INPUT, ProbeSetError
from invmm_gate.probes.manifest import probe_set_digest, read_manifest, write_manifest
from invmm_gate.probes.validate import check_probe_set, validate_probe_set
from tests.probes.conftest import edit, encoded, make_probe, noise, raw_png, zeros


def messages(folder: Path, **options: object) -> list[tuple[int, str, str]]:
    report = check_probe_set(folder, **options)
    assert (report.probe_set is None) == bool(report.problems)
    return [(problem.line, problem.probe, problem.message) for problem in report.problems]


def replace_image(folder: Path, number: int, data: bytes) -> None:
    """Another image in a probe's place, its hash brought up to date."""
    probes = list(read_manifest(folder))
    probes[number] = replace(make_probe(folder, number, data=data), group=probes[number].group)
    write_manifest(folder, probes)


def test_a_sound_probe_set_is_returned_with_its_digest(probe_folder: Path) -> None:
    probe_set = validate_probe_set(probe_folder, min_controls=2, captions_required=True)
    assert probe_set.probes == read_manifest(probe_folder)
    assert probe_set.digest == probe_set_digest(probe_set.probes)
    assert probe_set.folder == str(probe_folder)
    report = check_probe_set(probe_folder, min_controls=2, captions_required=True)
    assert report.probe_set == probe_set
    assert report.lines() == ()


def test_all_problems_are_listed_by_line_and_the_error_names_the_first(probe_folder: Path) -> None:
    (probe_folder / "images/p0.png").unlink()
    (probe_folder / "images/p2.png").write_bytes(encoded(noise(99)))
    edit(probe_folder, "p3,images/p3.png,", "p1,images/p3.png,")
    edit(probe_folder, "control,,picture 2", "controls,,")
    found = messages(probe_folder, min_controls=5, captions_required=True)
    assert [(line, probe) for line, probe, _ in found] == [
        (2, "p0"),
        (4, "p2"),
        (4, "p2"),
        (4, "p2"),
        (5, "p1"),
        (0, ""),
    ]
    texts = [message for _, _, message in found]
    assert "p0.png' is missing" in texts[0]
    assert "group 'controls' is unknown" in texts[1]
    assert "changed since it was added" in texts[2]
    assert "caption is empty" in texts[3]
    assert "id 'p1' is also on line 3" in texts[4]
    assert "control probes: 1; expected at least 5" in texts[5]
    with pytest.raises(ProbeSetError) as caught:
        validate_probe_set(probe_folder, min_controls=5, captions_required=True)
    message = str(caught.value)
    assert message.startswith(f"{probe_folder}/manifest.csv:2: ")
    assert message.endswith(f"(and 5 more; run `invmm-gate probes validate {probe_folder}` for the list)")
    assert "\n" not in message
    assert caught.value.exit_code == BAD_INPUT


def test_a_single_problem_is_told_without_a_count(probe_folder: Path) -> None:
    (probe_folder / "images/p1.png").unlink()
    with pytest.raises(ProbeSetError) as caught:
        validate_probe_set(probe_folder)
    assert "more; run" not in str(caught.value)
    assert str(caught.value).startswith(f"{probe_folder}/manifest.csv:3: ")


BAD_ROWS = {
    "id": ("p1,images", "p 1,images"),
    "empty id": ("p1,images", ",images"),
    "id of other case": ("p1,images", "P0,images"),
    "absolute path": ("images/p1.png", "/images/p1.png"),
    "path upwards": ("images/p1.png", "../p1.png"),
    "path used twice": ("images/p1.png", "images/p0.png"),
    "empty path": ("images/p1.png", ""),
    "group": ("sensitive,,picture 1", "secret,,picture 1"),
    "empty group": ("sensitive,,picture 1", ",,picture 1"),
    "NUL": ("picture 1", "picture \0"),
    "date": ("picture 1,,,,2026-11-21", "picture 1,,,,soon"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_the_checks_and_the_reader_refuse_the_same_rows(probe_folder: Path, name: str) -> None:
    edit(probe_folder, *BAD_ROWS[name])
    with pytest.raises(ProbeSetError) as caught:
        read_manifest(probe_folder)
    found = check_probe_set(probe_folder).lines()
    assert str(caught.value) in found
    assert all(line.startswith(f"{probe_folder}/manifest.csv:3: ") for line in found)


def test_an_unusable_sha256_is_refused_by_checks_and_reader(probe_folder: Path) -> None:
    sha256 = read_manifest(probe_folder)[1].sha256
    edit(probe_folder, sha256, sha256.upper())
    with pytest.raises(ProbeSetError) as caught:
        read_manifest(probe_folder)
    assert str(caught.value) in check_probe_set(probe_folder).lines()


def one_colour() -> bytes:
    return encoded(Image.new("RGB", (16, 16), (9, 8, 7)))


BAD_IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "blank": (one_colour, "one colour only"),
    "tiny": (lambda: encoded(noise(1, width=7, height=16)), "7 x 16 pixels; expected 8 to 16384"),
    "long": (lambda: encoded(noise(1, width=8, height=16_385)), "8 x 16385 pixels; expected 8 to 16384"),
    "not an image": (lambda: b"hello", "not an image"),
    "truncated": (lambda: encoded(noise(1, width=64, height=64))[:900], "damaged or cut short"),
    "bomb": (
        lambda: raw_png(width=50_000, height=50_000, depth=1, colour=0, scanlines=zeros(1 << 20)),
        "too large",
    ),
    "the same pixels in another file": (
        lambda: encoded(noise(0), "WEBP", lossless=True),
        "pixels of the probe on line 2",
    ),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_fails_validation_with_its_line(probe_folder: Path, name: str) -> None:
    make, said = BAD_IMAGES[name]
    replace_image(probe_folder, 2, make())
    found = messages(probe_folder)
    assert {(line, probe) for line, probe, _ in found} == {(4, "p2")}
    assert said in found[0][2]


def test_a_file_name_longer_than_any_disk_allows_is_refused(probe_folder: Path) -> None:
    edit(probe_folder, "images/p3.png", f"images/{'p' * 300}/p3.png")
    [(line, _, message)] = messages(probe_folder)
    assert line == 5
    assert "a name that is too long" in message


def test_a_linked_image_fails_validation_with_its_line(probe_folder: Path) -> None:
    image = probe_folder / "images/p3.png"
    image.symlink_to(image.rename(probe_folder.parent / "outside.png"))
    [(line, _, message)] = messages(probe_folder)
    assert line == 5
    assert "symbolic link" in message


def test_a_probe_swapped_with_its_time_restored_fails_validation(probe_folder: Path) -> None:
    image = probe_folder / "images/p3.png"
    state, data = image.stat(), bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns))
    [(line, _, message)] = messages(probe_folder)
    assert line == 5
    assert "changed since it was added" in message


@pytest.mark.parametrize(("needed", "accepted"), [(0, True), (2, True), (3, False)])
def test_controls_are_counted_only_as_far_as_a_rule_needs_them(probe_folder: Path, needed: int, accepted: bool) -> None:
    assert (check_probe_set(probe_folder, min_controls=needed).probe_set is not None) == accepted
    if not accepted:
        with pytest.raises(ProbeSetError, match=r"manifest.csv: control probes: 2; expected at least 3"):
            validate_probe_set(probe_folder, min_controls=needed)


def test_captions_may_be_empty_unless_the_model_needs_them(probe_folder: Path) -> None:
    edit(probe_folder, "picture 1", "  ")
    assert messages(probe_folder) == []
    [(line, _, message)] = messages(probe_folder, captions_required=True)
    assert line == 3
    assert "caption is empty" in message


def test_an_empty_probe_set_never_passes(tmp_path: Path) -> None:
    write_manifest(tmp_path, [])
    assert "no probes" in {message.split(";")[0] for _, _, message in messages(tmp_path, min_controls=1)}
    with pytest.raises(ProbeSetError, match="no probes"):
        validate_probe_set(tmp_path)


def test_a_manifest_that_is_not_a_table_is_refused_at_once(probe_folder: Path) -> None:
    edit(probe_folder, "licence", "license")
    with pytest.raises(ProbeSetError, match=r"lacks 'licence' and has the unknown 'license'"):
        check_probe_set(probe_folder)


def test_progress_is_told_for_each_image(probe_folder: Path) -> None:
    told: list[tuple[int, int]] = []
    check_probe_set(probe_folder, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_validation_imports_neither_torch_nor_great_expectations_and_prints_nothing(probe_folder: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from invmm_gate.probes.validate import validate_probe_set
validate_probe_set(Path({str(probe_folder)!r}), min_controls=1)
heavy = ("torch", "diffusers", "transformers", "mlflow", "great_expectations", "pandas")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""


def test_every_problem_is_listed_however_many_there_are(tmp_path: Path) -> None:
    probes = [make_probe(tmp_path, number) for number in range(60)]
    write_manifest(tmp_path, probes)
    text = (tmp_path / "manifest.csv").read_text().replace(",sensitive,", ",secret,")
    (tmp_path / "manifest.csv").write_text(text)
    assert [line for line, _, _ in messages(tmp_path)] == list(range(2, 62))
