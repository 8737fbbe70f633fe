"""The run folder: one run, one process, and records that are read as they were written or not at all."""

import dataclasses
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invmm_gate.core.errors import RunFolderError
from invmm_gate.core.records import Measurement
from invmm_gate.core.run_records import RunInputs
from invmm_gate.files.strict_json import canonical, from_json, to_json
from invmm_gate.runs.copies import unedited
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.identity import fingerprint
from invmm_gate.runs.stage_files import CONFIRMING, MEASURE
from tests.runs.conftest import PROBES, SELF_CHECK, confirmation, measurement, run_record

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=0)


@given(score=st.none() | finite, probe=st.from_regex(r"[A-Za-z0-9._-]{1,40}", fullmatch=True), reason=st.text())
def test_a_measurement_is_read_back_as_it_was_and_written_again_with_the_same_bytes(score, probe, reason):
    record = dataclasses.replace(measurement(probe, score), reason=reason)
    line = to_json(record)
    assert "\n" not in line
    assert from_json(Measurement, line, where="here") == record
    assert to_json(from_json(Measurement, line, where="here")) == line


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_no_record_with_nan_or_infinity_can_be_written(tmp_path, record, score):
    folder = RunFolder(tmp_path)
    folder.begin(record)
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.append(measurement("heron", score))
    assert folder.measurements() == ()


@given(st.dictionaries(st.text(), st.integers() | st.text() | finite, min_size=1))
def test_equal_values_have_one_canonical_text_in_any_order_and_others_have_another(values):
    assert canonical(dict(reversed(values.items()))) == canonical(values)
    assert canonical(json.loads(json.dumps(values))) == canonical(values)
    assert canonical(values | {next(iter(values)): "another value"}) != canonical(values | {next(iter(values)): "one"})


def test_every_input_moves_the_fingerprint_and_a_file_gives_it_again(record):
    inputs = record.inputs
    assert fingerprint(from_json(RunInputs, to_json(inputs), where="here")) == fingerprint(inputs) == record.fingerprint
    others = {
        "weights": "ema", "pickles": ("a.bin",), "family": "latent", "seed": 1, "image_size": (16, 24), "rows": 4,
        "threads": 2, "versions": {}, "settings": dataclasses.replace(inputs.settings, seeds=2),
        "confirm": dataclasses.replace(inputs.confirm, plain_sampling=None),
        "metric": dataclasses.replace(inputs.metric, threshold=0.2),
        "samplers": dataclasses.replace(inputs.samplers, grid="another"),
    }  # fmt: skip
    for field in dataclasses.fields(inputs):
        other = dataclasses.replace(inputs, **{field.name: others.get(field.name, "another")})
        assert fingerprint(other) != fingerprint(inputs), field.name


def test_all_that_was_recorded_is_read_back(tmp_path, record):
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        assert folder.begin(record) == record
        folder.append(SELF_CHECK)
        for probe in PROBES:
            folder.append(measurement(probe))
            folder.append(confirmation(probe))
            folder.note_seconds(probe, 1.23456)
    data = folder.data()
    assert data.run == record
    assert data.self_checks == (SELF_CHECK,)
    assert data.measurements == tuple(measurement(probe) for probe in PROBES)
    assert data.confirmations == tuple(confirmation(probe) for probe in PROBES)
    assert data.seconds == dict.fromkeys(PROBES, 1.235)
    assert data.verdict is None


def test_records_lie_in_the_probe_sets_order_at_the_end(tmp_path, record):
    folder = RunFolder(tmp_path)
    folder.begin(record)
    for probe in reversed(PROBES):
        folder.append(measurement(probe))
        folder.append(confirmation(probe))
    folder.end(MEASURE)
    assert [found.probe for found in folder.measurements()] == list(PROBES)
    assert [found.probe for found in folder.confirmations()] == list(reversed(PROBES)), "another stage's file"
    folder.end(CONFIRMING)
    assert [found.probe for found in folder.confirmations()] == list(PROBES)


@pytest.mark.parametrize(
    ("other", "named"),
    [({"seed": 1}, "seed"), ({"model": "x"}, "model"), ({"policy": "x", "rows": 4}, "policy, rows")],
)
def test_a_run_of_other_inputs_is_refused_by_the_name_of_what_differs(tmp_path, record, other, named):
    folder = RunFolder(tmp_path)
    folder.begin(record)
    folder.append(measurement("heron"))
    before = (tmp_path / "measurements.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match=f"holds a run with another {named};") as caught:
        folder.begin(run_record(**other))
    assert caught.value.exit_code == 2
    assert "give another --out" in str(caught.value)
    assert (tmp_path / "measurements.jsonl").read_bytes() == before


def test_a_run_record_whose_inputs_were_edited_is_refused(tmp_path, record):
    folder = RunFolder(tmp_path)
    folder.begin(record)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))
    with pytest.raises(RunFolderError, match="holds a run with another seed"):
        folder.begin(record)
    with pytest.raises(RunFolderError, match="another fingerprint than its inputs give"):
        folder.begin(dataclasses.replace(record, inputs=dataclasses.replace(record.inputs, seed=7)))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_an_input_that_is_no_finite_number_is_one_clear_line(tmp_path, record, number):
    folder = RunFolder(tmp_path)
    folder.begin(record)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"threshold": 0.1', f'"threshold": {number}'))
    with pytest.raises(RunFolderError, match="an input of the run is no finite number"):
        unedited(folder)
    with pytest.raises(RunFolderError, match=r"no finite number|another settings"):
        folder.begin(record)


def test_records_without_their_run_are_not_taken_over(tmp_path, record):
    folder = RunFolder(tmp_path)
    folder.begin(record)
    folder.append(measurement("heron"))
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunFolderError, match=r"holds measurements\.jsonl without run\.json"):
        folder.begin(record)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("measurements.jsonl", '{"probe": "heron"}'),
        ("measurements.jsonl", "not JSON"),
        ("measurements.jsonl", '{"probe": NaN}'),
        ("confirmations.jsonl", "[]"),
        ("self_checks.jsonl", '{"name": "positive_control", "passed": "perhaps", "detail": ""}'),
        ("timings.jsonl", '{"probe": "heron", "seconds": "long"}'),
    ],
)
def test_an_edited_record_is_refused_with_its_file_and_line(tmp_path, record, name, line):
    folder = RunFolder(tmp_path)
    folder.begin(record)
    folder.append(SELF_CHECK)
    folder.append(measurement("heron"))
    folder.append(confirmation("heron"))
    folder.note_seconds("heron", 1.0)
    with (tmp_path / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunFolderError) as caught:
        folder.data()
    assert str(caught.value).startswith(f"{tmp_path / name}:2 cannot be read")
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused_like_any_other_damage(tmp_path, record):
    folder = RunFolder(tmp_path)
    folder.begin(record)
    (tmp_path / "measurements.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(RunFolderError, match=r"measurements\.jsonl:1 cannot be read"):
        folder.data()


def test_a_folder_without_a_run_is_named_and_not_created(tmp_path):
    folder = RunFolder(tmp_path / "mistyped")
    with pytest.raises(RunFolderError, match=r"holds no run\.json"), folder.existing_locked():
        pytest.fail("there is nothing to hold")
    assert not (tmp_path / "mistyped").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(RunFolderError, match="cannot be written"), RunFolder(tmp_path / "run").locked():
        pytest.fail("a file cannot be a run folder")


HOLDER = """
import sys, time
from pathlib import Path
from invmm_gate.runs.copies import unedited
from invmm_gate.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_at_once_and_told_who_holds_the_folder(tmp_path, holder):
    folder = RunFolder(tmp_path / "run")
    began = time.monotonic()
    with pytest.raises(RunFolderError, match=f"is in use by process {holder.pid} on {os.uname().nodename}") as caught:
        folder.refuse_if_in_use()
    assert caught.value.exit_code == 2
    with pytest.raises(RunFolderError, match=f"is in use by process {holder.pid} on"), folder.locked():
        pytest.fail("the folder is held")
    assert time.monotonic() - began < 1, "both, one after the other"


def test_the_lock_of_a_killed_process_is_free(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunFolder(tmp_path / "run").locked():
        assert f"process {os.getpid()}" in (tmp_path / "run" / ".lock-holder").read_text()


def test_a_folder_that_nobody_holds_may_be_used(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.refuse_if_in_use()
    assert not folder.path.exists()
    with folder.locked():
        pass
    folder.refuse_if_in_use()


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_looking_whether_a_folder_is_in_use_changes_nothing_in_it(tmp_path, holder):
    folder, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "other")
    with other.locked():
        pass
    (other.path / ".lock-holder").write_text("process 1 on elsewhere")
    before = {place: contents(place.path) for place in (folder, other)}
    with pytest.raises(RunFolderError, match=f"process {holder.pid} on"):
        folder.refuse_if_in_use()
    other.refuse_if_in_use()
    assert {place: contents(place.path) for place in (folder, other)} == before


def test_a_free_folder_on_a_read_only_disk_is_not_told_to_be_in_use(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        with RunFolder(disk / "run").locked():
            pass
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        RunFolder(disk / "run").refuse_if_in_use()
    finally:
        subprocess.run(["umount", disk], check=True)


LOOKER = """
import sys
from pathlib import Path
from invmm_gate.core.errors import RunFolderError
from invmm_gate.runs.copies import unedited
from invmm_gate.runs.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.refuse_if_in_use()
print("looking", flush=True)
while True:
    try:
        folder.refuse_if_in_use()
    except RunFolderError:
        pass
"""


def test_who_only_looks_never_keeps_a_run_from_starting(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        pass
    looker = subprocess.Popen([sys.executable, "-c", LOOKER, folder.path], stdout=subprocess.PIPE, text=True)
    try:
        assert looker.stdout is not None
        assert looker.stdout.readline() == "looking\n"
        for _ in range(200):
            with folder.locked():
                pass
        assert looker.poll() is None, "somebody looked all the time"
    finally:
        looker.kill()
        looker.communicate()


def test_those_who_look_at_the_same_time_do_not_refuse_one_another(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        pass
    with (folder.path / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        folder.refuse_if_in_use()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_clear_line_and_no_run_begins_there(tmp_path, monkeypatch, code):
    def flock(*_given):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    folder = RunFolder(tmp_path / "run")
    said = f"cannot be locked: {os.strerror(code)}; .* --out on a local disk"
    with pytest.raises(RunFolderError, match=said) as caught, folder.locked():
        pytest.fail("nobody could keep others out")
    assert caught.value.exit_code == 2
    with pytest.raises(RunFolderError, match=said):
        folder.refuse_if_in_use()
    monkeypatch.undo()
    with folder.locked():
        pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match="cannot be written"), RunFolder(tmp_path).locked():
        pytest.fail("the lock is another's file")
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunFolder(tmp_path).refuse_if_in_use()
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_out_of_date_is_forgotten(tmp_path, record):
    folder = RunFolder(tmp_path)
    folder.begin(record)
    folder.write("verdict.json", "{}")
    folder.write("report.html", "<html>")
    folder.forget("verdict.json", "report.html", "summary.md")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json"]


def test_facts_for_the_reader_are_added_without_changing_the_runs_identity(tmp_path, record):
    folder = RunFolder(tmp_path)
    folder.begin(record)
    context = dataclasses.replace(record.context, reduced_rows=(4,))
    folder.note(dataclasses.replace(record, context=context))
    assert folder.run().context == context
    assert folder.begin(record).fingerprint == record.fingerprint
