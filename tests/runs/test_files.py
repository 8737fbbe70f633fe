"""A file of the run folder is there as a whole or not at all, wherever the process dies."""

import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invmm_gate.core.errors import MeasurementError, RunFolderError
from invmm_gate.files.regular import append_line, drop_torn_line, explained, remove_leftovers, whole_lines, write_whole
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.stage_files import CONFIRMING, MEASURE
from tests.runs.conftest import PLAN, PROBES, SELF_CHECK, confirmation, measurement, run_record

RECORDS = ("run.json", "measurements.jsonl", "confirm.json", "confirmations.jsonl", "self_checks.jsonl")


def test_a_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path):
    write_whole(tmp_path / "deep" / "verdict.json", "old")
    write_whole(tmp_path / "deep" / "verdict.json", b"new")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["verdict.json"]
    assert (tmp_path / "deep" / "verdict.json").read_text() == "new"


def test_files_are_for_their_owner_alone(tmp_path):
    write_whole(tmp_path / "copy.png", b"pixels")
    assert (tmp_path / "copy.png").stat().st_mode & 0o777 == 0o600


@given(lines=st.lists(st.text(st.characters(exclude_characters="\n", codec="utf-8"))), torn=st.binary(max_size=20))
def test_a_torn_last_line_is_no_line_and_is_cut_off_before_more_is_appended(tmp_path_factory, lines, torn):
    path = tmp_path_factory.mktemp("torn") / "measurements.jsonl"
    path.write_bytes("".join(line + "\n" for line in lines).encode() + torn.replace(b"\n", b"?"))
    assert [line.decode() for line in whole_lines(path)] == lines
    drop_torn_line(path)
    append_line(path, "next")
    assert [line.decode() for line in whole_lines(path)] == [*lines, "next"]


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    drop_torn_line(tmp_path / "none.jsonl")
    assert whole_lines(tmp_path / "none.jsonl") == []


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "copies").mkdir()
    for name in (".verdict.json.ab12.tmp", "copies/.i0-1.png.cd34.tmp", "verdict.json", ".lock", "notes.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    left = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert left == [".lock", "notes.tmp", "verdict.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_run_open_and_says_how_to_go_on(code):
    error = explained(OSError(code, os.strerror(code)), Path("run/verdict.json"))
    assert isinstance(error, MeasurementError)
    assert error.exit_code == 11
    assert "run/verdict.json" in str(error)
    assert "what was measured is kept" in str(error)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_any_other_refusal_is_a_bad_run_folder(code):
    error = explained(OSError(code, os.strerror(code)), Path("run"))
    assert isinstance(error, RunFolderError)
    assert error.exit_code == 2
    assert os.strerror(code) in str(error)


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_on_a_full_disk_the_old_file_stays_and_whole_lines_stay_whole(small_disk):
    write_whole(small_disk / "verdict.json", "old")
    with pytest.raises(MeasurementError, match="the disk is full"):
        write_whole(small_disk / "verdict.json", "x" * 200_000)
    assert (small_disk / "verdict.json").read_text() == "old"
    for _ in range(6):
        append_line(small_disk / "measurements.jsonl", "y" * 5_000)
    with pytest.raises(MeasurementError, match="the disk is full"):
        append_line(small_disk / "measurements.jsonl", "y" * 50_000)
    assert {len(line) for line in whole_lines(small_disk / "measurements.jsonl")} == {5_000}
    drop_torn_line(small_disk / "measurements.jsonl")  # the disk is full still
    assert (small_disk / "measurements.jsonl").read_bytes().endswith(b"\n")
    assert sorted(path.name for path in small_disk.iterdir()) == ["measurements.jsonl", "verdict.json"]


def whole_run(path: Path) -> None:
    """All that the stages write, each record once, going on after what is there."""
    folder = RunFolder(path)
    with folder.locked():
        folder.begin(run_record())
        if not folder.self_checks():
            folder.append(SELF_CHECK)
        measured = {record.probe for record in folder.measurements()}
        for probe in reversed(PROBES):
            if probe not in measured:
                folder.write(f"copies/inverted/{probe}/1.png", b"pixels")
                folder.append(measurement(probe))
                folder.note_seconds(probe, 1.5)
        folder.end(MEASURE)
        folder.begin_confirming(run_record(), PLAN)
        confirmed = {record.probe for record in folder.confirmations()}
        for probe in reversed(PROBES):
            if probe not in confirmed:
                folder.append(confirmation(probe))
        folder.end(CONFIRMING)


def killed_at(path: Path, call: int) -> bool:
    """Run `whole_run` in a child that is killed when it asks the disk for the n-th time; whether it got that far."""
    child = os.fork()
    if child == 0:
        real = {name: getattr(os, name) for name in ("fsync", "replace", "truncate")}
        seen = 0

        def deadly(name):
            def ask(*arguments):
                nonlocal seen
                seen += 1
                if seen == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real[name](*arguments)

            return ask

        for name in real:
            setattr(os, name, deadly(name))
        try:
            whole_run(path)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_at_every_single_write_the_run_ends_with_the_same_bytes(tmp_path):
    whole_run(tmp_path / "undisturbed")
    expected = {name: (tmp_path / "undisturbed" / name).read_bytes() for name in RECORDS}
    call = 1
    while killed_at(path := tmp_path / f"killed-{call}", call):
        whole_run(path)
        assert {name: (path / name).read_bytes() for name in RECORDS} == expected, f"killed at write {call}"
        assert not list(path.rglob("*.tmp")), f"killed at write {call}"
        call += 1
    assert call > 20, "the run asks the disk more often than that"


def test_killed_twice_in_a_row_the_run_still_ends_with_the_same_bytes(tmp_path):
    whole_run(tmp_path / "undisturbed")
    expected = {name: (tmp_path / "undisturbed" / name).read_bytes() for name in RECORDS}
    for first in range(3, 30, 5):
        path = tmp_path / f"killed-{first}"
        killed_at(path, first)
        killed_at(path, 4)
        whole_run(path)
        assert {name: (path / name).read_bytes() for name in RECORDS} == expected
