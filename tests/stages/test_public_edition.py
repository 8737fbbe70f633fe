"""The files that may be handed on lie beside the full ones, under names that only a key links to the images."""

import json
import os
import re
import stat
from pathlib import Path

import pytest

from invmm_gate.runs.folder import RunFolder
from invmm_gate.stages.public_edition import KEY_VARIABLE, PUBLIC_FILES
from invmm_gate.stages.report import write_reports
from tests.stages.world import LENIENT, World, call, note_again


def pages(world: World) -> dict[str, bytes]:
    return {name: (world.run / name).read_bytes() for name in PUBLIC_FILES}


def names(world: World) -> set[str]:
    verdict = json.loads((world.run / "public" / "verdict.json").read_text())
    return {finding["probe"] for finding in verdict["findings"]}


def new_key(path: Path, *, size: int = 32, mode: int = 0o600) -> Path:
    path.write_bytes(os.urandom(size))
    path.chmod(mode)
    return path


def test_a_check_leaves_pages_that_name_no_probe_and_no_score(checked):
    world, _ = checked
    assert len(names(world)) == 2
    assert all(re.fullmatch(r"p-[0-9a-f]{16}", name) for name in names(world))
    scores = [line["invmm"] for line in world.lines() if line["invmm"] is not None]
    for page in pages(world).values():
        assert not re.search(rb"\bp(1|2|16|100000|100001)\b", page)
        assert not [score for score in scores if f"{score:.6g}".encode() in page or f"{score:.4f}".encode() in page]
    assert b"BLOCK" in pages(world)["public/report.html"]
    full = (world.run / "report.html").read_text()
    assert f"{scores[0]:.4f}" in full, "the run folder's own report stays what it was"
    assert "p16" in full


def test_the_key_is_made_once_for_its_owner_alone_and_the_same_pages_come_again(finished):
    key = finished.run / "public-ids.key"
    before = key.read_bytes(), pages(finished)
    assert len(before[0]) == 32
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert call("report", finished.run, "--reveal").code == 0
    assert call(*finished.arguments()).code == 10
    assert (key.read_bytes(), pages(finished)) == before


def test_two_runs_name_an_image_alike_only_under_one_key_for_both(finished, world, tmp_path, monkeypatch):
    assert world.check().code == 10
    assert not names(world) & names(finished)
    monkeypatch.setenv(KEY_VARIABLE, str(new_key(tmp_path / "ids.key")))
    for each in (world, finished):
        assert call("report", each.run).code == 0
    assert names(world) == names(finished)
    monkeypatch.delenv(KEY_VARIABLE)
    assert call("report", finished.run).code == 0
    assert not names(world) & names(finished), "the folder's own key was kept"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: new_key(path, size=31), "holds 31 bytes; expected the key of the public names: 32 random bytes"),
        (lambda path: new_key(path, size=0), "holds 0 bytes"),
        (lambda path: new_key(path, size=33), "is larger than 32 bytes"),
        (lambda path: new_key(path, mode=0o644), "has mode 0644; expected a file that only its owner can read"),
        (lambda path: path.mkdir(), "is a folder, pipe or device"),
        (lambda path: path, "is missing"),
    ],
)
def test_a_key_that_cannot_be_used_is_one_line_before_anything_is_measured(world, tmp_path, monkeypatch, make, said):
    make(tmp_path / "ids.key")
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "ids.key"))
    called = world.check()
    assert called.code == 2
    assert said in called.error
    assert not world.run.exists()


def test_a_spoilt_key_of_the_folder_is_one_line_and_is_never_replaced(finished):
    key = finished.run / "public-ids.key"
    key.write_bytes(b"short")
    called = call("report", finished.run)
    assert called.code == 2
    assert "public-ids.key' holds 5 bytes" in called.error
    assert key.read_bytes() == b"short"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda key: key.write_bytes(b"short"), "public-ids.key' holds 5 bytes; expected the key of the public names"),
        (lambda key: key.chmod(0o644), "public-ids.key' has mode 0644; expected a file that only its owner can read"),
    ],
)
def test_where_a_run_goes_on_a_spoilt_key_of_its_folder_is_one_line_before_anything_is_measured(finished, spoil, said):
    measured = finished.run / "measurements.jsonl"
    measured.write_text(measured.read_text().splitlines(keepends=True)[0])
    (finished.run / "confirmations.jsonl").unlink()
    note_again(finished.run)
    spoil(finished.run / "public-ids.key")
    called = call(*finished.arguments())
    assert called.code == 2
    assert said in called.error
    assert len(finished.lines()) == 1
    assert "resuming" not in called.err


def test_pages_of_an_earlier_verdict_do_not_stay(finished):
    assert call("judge", finished.run, "--policy", finished.policy(), "--no-report").code == 10
    assert not [name for name in PUBLIC_FILES if (finished.run / name).exists()]
    assert call("judge", finished.run, "--policy", finished.policy(LENIENT, "lenient")).code == 0
    assert b"PASS" in pages(finished)["public/report.html"]
    (finished.run / "verdict.json").unlink()
    write_reports(RunFolder(finished.run))
    assert not (finished.run / "public" / "verdict.json").exists()
    assert b"NOT JUDGED" in (finished.run / "public" / "report.html").read_bytes()
