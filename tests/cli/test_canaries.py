"""`invmm-gate probes canaries` and `probes join`: from images to plant to a probe set that knows how often."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from invmm_gate.probes.manifest import read_manifest
from invmm_gate.probes.validate import validate_probe_set
from tests.curation.pictures import picture, png, written
from tests.stages.world import call


def made(folder: Path, *more: object):
    return call("probes", "canaries", folder, "--size", 16, *more)


def test_canaries_are_drawn_and_join_the_probes_with_their_multiplicity(tmp_path: Path) -> None:
    images = written(tmp_path, {f"{seed}.png": png(picture(seed)) for seed in range(2)})
    probes, folder = tmp_path / "probes", tmp_path / "canaries"
    done = made(folder, "--count", 3, "--multiplicities", "4,1")
    assert done.code == 0, done.err
    assert "6 canaries, 3 of each multiplicity, seed " in done.out
    assert "15 images in all" in done.out
    assert call("probes", "init", probes).code == 0
    assert call("probes", "add", probes, images / "0.png", "--group", "sensitive").code == 0
    joined = call("probes", "join", probes, folder)
    assert (joined.code, joined.out) == (0, f"added 6 probes of {folder} to {probes}\n")
    assert call("probes", "add", probes, images / "1.png", "--group", "control").code == 0
    counted = Counter((probe.group, probe.multiplicity) for probe in read_manifest(probes))
    assert counted == {("sensitive", 0): 1, ("canary", 1): 3, ("canary", 4): 3, ("control", 0): 1}
    assert len(validate_probe_set(probes).probes) == 8


def test_a_trainer_reads_the_file_list_with_a_csv_reader_alone(tmp_path: Path) -> None:
    """The lines of docs/probe-sets.md."""
    folder = tmp_path / "canaries"
    assert made(folder, "--count", 2, "--multiplicities", "1,8").code == 0
    with open(folder / "manifest.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    planted = [(folder / row["path"], row["caption"]) for row in rows for _ in range(int(row["multiplicity"]))]
    assert len(planted) == 2 * 1 + 2 * 8
    assert all(path.is_file() for path, _ in planted)
    assert len({caption for _, caption in planted}) == 4


def test_the_seed_gives_the_same_images_again_and_without_one_they_are_new(tmp_path: Path) -> None:
    for name, more in (("a", ("--seed", 5)), ("b", ("--seed", 5)), ("c", ()), ("d", ())):
        assert made(tmp_path / name, "--count", 2, "--multiplicities", 2, *more).code == 0
    first, again, fresh, other = (
        tuple(probe.sha256 for probe in read_manifest(tmp_path / name)) for name in ("a", "b", "c", "d")
    )
    assert first == again
    assert not set(first) & set(fresh)
    assert not set(fresh) & set(other)
    seed = read_manifest(tmp_path / "c")[0].source.split("seed ")[1].split(",")[0]
    assert made(tmp_path / "e", "--count", 2, "--multiplicities", 2, "--seed", seed).code == 0
    assert tuple(probe.sha256 for probe in read_manifest(tmp_path / "e")) == fresh


def test_grey_and_oblong_canaries_are_valid_probes(tmp_path: Path) -> None:
    assert made(tmp_path / "grey", "--grey", "--count", 1).code == 0
    assert len(validate_probe_set(tmp_path / "grey", image_size=(16, 16)).probes) == 7
    assert call("probes", "canaries", tmp_path / "wide", "--size", "16x24", "--count", 1).code == 0
    assert {probe.fit for probe in validate_probe_set(tmp_path / "wide", image_size=(16, 24)).probes} == {"exact"}


CASES = {
    "a count of none": (("--count", 0), "'--count'"),
    "a count of words": (("--count", "few"), "'--count'"),
    "a size of words": (("--size", "large"), "--size 'large'; expected HEIGHTxWIDTH"),
    "a small size": (("--size", 15), "--size 15x15; expected 16 to "),
    "a large size": (("--size", "16x2049"), "--size 16x2049; expected 16 to 2048 "),
    "no multiplicities": (("--multiplicities", ""), "--multiplicities ''; expected whole numbers from 1"),
    "a multiplicity of 0": (("--multiplicities", "0,1"), "--multiplicities '0,1'; expected whole numbers from 1"),
    "a multiplicity twice": (("--multiplicities", "1,1"), "--multiplicities '1,1'; expected whole numbers from 1"),
    "a negative seed": (("--seed", -1), "'--seed'"),
    "a million canaries": (("--count", 1_000_000), "7,000,000 canaries; expected at most 200,000 in all"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    more, said = CASES[case]
    done = made(tmp_path / "canaries", *more)
    assert done.code == 2, done.out
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert said in done.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "canaries"
    assert made(folder, "--count", 1).code == 0
    before = (folder / "manifest.csv").read_bytes()
    done = made(folder, "--count", 2)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "exists already; expected a new folder" in done.err
    assert (folder / "manifest.csv").read_bytes() == before
    twice = call("probes", "join", folder, folder)
    assert (twice.code, twice.err.count("\n")) == (2, 1)
    assert "is already in the probe set" in twice.err
    absent = call("probes", "join", folder, tmp_path / "absent")
    assert (absent.code, absent.err.count("\n")) == (2, 1)
    assert "is not a folder" in absent.err
