"""A record that was edited, or that another run wrote, is found when the run goes on and when it is judged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from invmm_gate.core.errors import RunFolderError
from invmm_gate.runs.folder import RunFolder
from invmm_gate.runs.layout import CONFIRMING, MEASURE
from tests.runs.conftest import PLAN, PROBES, SELF_CHECK, confirmation, measurement, run_record

REFUSED = r"is not as this run wrote it; expected records that nobody edited; restore the file"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that was measured and confirmed."""
    return written(tmp_path / "run")


def written(path: Path, **inputs: object) -> RunFolder:
    folder = RunFolder(path)
    path.mkdir()
    folder.begin(run_record(**inputs))
    folder.append(SELF_CHECK)
    for probe in reversed(PROBES):
        folder.append(measurement(probe))
    folder.end(MEASURE)
    folder.begin_confirming(run_record(**inputs), PLAN)
    for probe in reversed(PROBES):
        folder.append(confirmation(probe))
    folder.end(CONFIRMING)
    return folder


def edited(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def test_what_was_written_is_accepted_in_whatever_order_it_was_put(folder):
    folder.refuse_edited()
    folder.begin(run_record())
    folder.begin_confirming(run_record(), PLAN)


EDITS = {
    "a score": ("measurements.jsonl", '"invmm": 0.1', '"invmm": 0.9', 1),
    "an outcome": ("measurements.jsonl", '"outcome": "inverted"', '"outcome": "not_inverted"', 1),
    "a space": ("measurements.jsonl", '", "group"', '",  "group"', 1),
    "a self-check": ("self_checks.jsonl", '"passed": true', '"passed": false', 1),
    "a confirmation": ("confirmations.jsonl", '"hits": 0', '"hits": 3', 1),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_record_is_refused_with_its_file_and_line_wherever_the_run_is_taken_up(folder, edit):
    name, before, after, line = EDITS[edit]
    edited(folder.path / name, before, after)
    for taken_up in (
        lambda: folder.begin(run_record()),
        lambda: folder.begin_confirming(run_record(), PLAN),
        folder.refuse_edited,
    ):
        with pytest.raises(RunFolderError, match=rf"{name}:{line} {REFUSED}") as caught:
            taken_up()
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)


def test_a_record_of_another_run_is_refused_even_with_that_runs_chain(folder, tmp_path):
    other = written(tmp_path / "other", seed=1)
    shutil.copy(other.path / "measurements.jsonl", folder.path)
    folder.refuse_edited()  # byte for byte the same rows
    shutil.copy(other.path / "measure.chain", folder.path)
    with pytest.raises(RunFolderError, match=r"measure\.chain:1 does not follow from the run and the lines before it"):
        folder.refuse_edited()


def test_a_record_that_was_added_by_hand_is_refused(folder):
    extra = json.dumps({"probe": "egret"})
    with (folder.path / "measurements.jsonl").open("a") as file:
        file.write(extra + "\n")
    with pytest.raises(RunFolderError, match=rf"measurements\.jsonl:3 {REFUSED}"):
        folder.refuse_edited()


def swap(lines: list[str]) -> list[str]:
    return [lines[1], lines[0], *lines[2:]]


BROKEN: dict[str, Callable[[list[str]], list[str]]] = {
    "in another order": swap,
    "without its first line": lambda lines: lines[1:],
    "with a line of another kind": lambda lines: ["", *lines],
    "with bytes that are no text": lambda lines: ["\udcff" * 129, *lines],
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_chain_that_does_not_hang_together_is_refused(folder, how):
    path = folder.path / "measure.chain"
    lines = BROKEN[how](path.read_text().splitlines())
    path.write_bytes("".join(line + "\n" for line in lines).encode(errors="surrogateescape"))
    with pytest.raises(RunFolderError, match=r"measure\.chain:1 does not follow from the run"):
        folder.refuse_edited()


def test_a_run_folder_without_a_chain_as_earlier_versions_wrote_it_is_not_judged(folder):
    (folder.path / "measure.chain").unlink()
    with pytest.raises(RunFolderError, match=rf"self_checks\.jsonl:1 {REFUSED}"):
        folder.refuse_edited()


def test_the_last_record_that_was_noted_and_not_written_is_made_again_and_refused_until_then(folder):
    path = folder.path / "measurements.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)  # written and noted the other way round
    path.write_bytes(second)
    with pytest.raises(RunFolderError, match=r"measure\.chain:3 notes a row that is not there; .* give the command"):
        folder.refuse_edited()
    folder.begin(run_record())
    folder.append(measurement(PROBES[0]))
    assert path.read_bytes() == second + first
    folder.refuse_edited()


@pytest.mark.parametrize(("name", "chain"), [("measurements.jsonl", "measure"), ("confirmations.jsonl", "confirm")])
def test_a_record_that_was_taken_out_is_refused_wherever_the_run_is_taken_up(folder, name, chain):
    path = folder.path / name
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])  # the last one is what was noted first
    for taken_up in (
        lambda: folder.begin(run_record()),
        lambda: folder.begin_confirming(run_record(), PLAN),
        folder.refuse_edited,
    ):
        with pytest.raises(RunFolderError, match=rf"{chain}\.chain:\d notes a row that is not there"):
            taken_up()


def test_another_policy_keeps_the_records_and_their_chain(folder):
    changed = folder.begin(run_record(policy="q" * 64), replacing=True)
    assert changed.fingerprint != run_record().fingerprint
    folder.refuse_edited()


def test_the_chains_of_equal_runs_are_equal(folder, tmp_path):
    again = written(tmp_path / "again")
    for stage in (MEASURE, CONFIRMING):
        assert (again.path / stage.chain).read_bytes() == (folder.path / stage.chain).read_bytes()
