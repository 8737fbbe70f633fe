"""What is read back from a folder may have been written by anybody: no file of it may explode."""

import os
import time
from pathlib import Path

import pytest

from invmm_gate.core.errors import (
    ConfigError,
    GateError,
    ModelError,
    PublishError,
    RegistryError,
    RunFolderError,
    VerificationError,
)
from invmm_gate.core.run_records import RunRecord
from invmm_gate.curation.proposals import _lines
from invmm_gate.files.regular import LINE_LIMIT, RECORDS_LIMIT, read_records, whole_lines
from invmm_gate.files.strict_json import from_json, parse_object, parse_plain
from invmm_gate.registry.client.artefacts import SMALL_FILE_BYTES, _small
from invmm_gate.registry.client.locations import SourceError
from invmm_gate.registry.promote.outbox import Outbox
from invmm_gate.registry.service.doctor import _is_ours
from invmm_gate.registry.service.gate_process import read_outcome
from invmm_gate.runs.folder import RunFolder
from invmm_gate.similarity.sscd import sscd_metric
from invmm_gate.stages.audit_file import verify_log
from invmm_gate.tracking import spool

DOCUMENTS = {
    "lists in lists": b"[" * 3_000_000,
    "lists in lists, closed": b"[" * 100_000 + b"]" * 100_000,
    "objects in objects": b'{"a":' * 1_000_000,
    "a number of millions of digits": b'{"a":' + b"9" * 3_000_000 + b"}",
    "one key twice among many": b"{" + b",".join(b'"%d":0' % number for number in range(200_000)) + b',"199999":0}',
    "a key of megabytes twice": b'{"' + b"a" * 3_000_000 + b'":0,"' + b"a" * 3_000_000 + b'":0}',
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_that_could_explode_is_refused_at_once_in_one_short_line(name: str) -> None:
    readers = {
        ModelError: lambda data: parse_object(data, "config.json"),
        VerificationError: parse_plain,
        RunFolderError: lambda data: from_json(RunRecord, data, where="run.json"),
    }
    for kind, reader in readers.items():
        start = time.process_time()
        with pytest.raises(kind) as caught:
            reader(DOCUMENTS[name])
        assert time.process_time() - start < 5
        assert len(str(caught.value)) < 500
        assert "\n" not in str(caught.value)


def huge(path: Path, size: int) -> Path:
    """A file of zeros that takes no room on the disk."""
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def test_a_file_is_read_up_to_its_limit_and_no_further(tmp_path: Path) -> None:
    path = huge(tmp_path / "a", 1000)
    assert read_records(path, limit=1000) == bytes(1000)
    with pytest.raises(RunFolderError, match="expected at most"):
        read_records(path, limit=999)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunFolderError, match="is a folder, pipe or device"):
        read_records(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["run.json", "confirm.json", "measurements.jsonl", "measure_end.json"])
def test_a_file_of_many_gigabytes_in_a_run_folder_is_refused_unread(tmp_path: Path, name: str) -> None:
    path = huge(tmp_path / name, 50_000_000_000)
    folder = RunFolder(tmp_path)
    readers = {"run.json": folder.run, "confirm.json": folder.confirmed, "measurements.jsonl": folder.measurements}
    with pytest.raises(RunFolderError, match=rf"{name} has 50,000 MB; expected at most"):
        readers.get(name, lambda: whole_lines(path))()


def test_a_record_of_many_megabytes_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    (tmp_path / "measurements.jsonl").write_bytes(b"{}\n[" + b"[]," * (LINE_LIMIT // 3) + b"[]]\n")
    assert (tmp_path / "measurements.jsonl").stat().st_size < RECORDS_LIMIT
    with pytest.raises(RunFolderError, match=r"measurements.jsonl:2 has 16 MB; expected records of at most 16 MB"):
        RunFolder(tmp_path).measurements()


def test_an_audit_log_of_many_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="expected at most"):
        verify_log(huge(tmp_path / "log.jsonl", 50_000_000_000))


@pytest.mark.parametrize("content", [b"[" * 200_000, b"1" * 5_000, b" " * 2_000_000 + b"{}"])
def test_a_marker_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / spool.MARKER).write_bytes(content)
    with pytest.raises(PublishError, match="is not a publish record"):
        spool.read(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"name":' + b"9" * 5_000 + b"}"])
def test_files_that_pass_between_processes_of_the_registry_are_refused_in_one_line(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "outcome.json"
    file.write_bytes(content)
    assert read_outcome(file, 0) is None
    with pytest.raises(RegistryError, match="is no parcel of the outbox"):
        Outbox(tmp_path).parcels()


def test_an_answer_of_brackets_is_no_answer() -> None:
    assert not _is_ours("[" * 200_000)


def test_a_metrics_file_and_a_list_of_sensitive_images_have_a_limit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="or larger than 4 GB"):
        sscd_metric(
            name="sscd_disc_large",
            threshold=0.5,
            size=64,
            path=huge(tmp_path / "sscd.pt", 50_000_000_000),
            expected_sha256="",
            device="cpu",
        )
    with pytest.raises(ConfigError, match=r"--sensitive: .* is larger than 256000000 bytes"):
        _lines(huge(tmp_path / "list.txt", 50_000_000_000))


def test_a_small_file_of_a_store_is_read_up_to_its_limit_whatever_size_was_listed(tmp_path: Path) -> None:
    assert _small(huge(tmp_path / "a", SMALL_FILE_BYTES)) == bytes(SMALL_FILE_BYTES)
    with pytest.raises(SourceError, match="is larger than was listed"):
        _small(huge(tmp_path / "a", 50_000_000_000))
