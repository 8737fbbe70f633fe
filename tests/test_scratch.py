"""Temporary files on a machine without a place for them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from invmm_gate.core.errors import ConfigError
from invmm_gate.files.scratch import scratch_folder


def test_a_folder_is_private_and_goes_away() -> None:
    with scratch_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "a").write_text("x")
    assert not folder.exists()


def test_without_a_place_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    with pytest.raises(ConfigError, match=r"no temporary file can be written.*set TMPDIR"), scratch_folder():
        pass


def test_no_code_of_the_package_makes_a_temporary_folder_of_the_system_by_itself() -> None:
    """Elsewhere the error would be a traceback; folders beside a target have a place of their own."""
    root = Path(__file__).parents[1] / "invmm_gate"
    for path in root.rglob("*.py"):
        for line in path.read_text().splitlines():
            if "tempfile." in line and "import" not in line and path.name != "scratch.py":
                assert "dir=" in line, f"{path}: {line}"


def test_python_itself_says_the_same_where_nothing_can_be_written() -> None:
    """The library's own search for a folder ends in an OSError, which is what is turned into one line."""
    code = (
        "import tempfile, os\nos.getcwd = lambda: '/nowhere'\ntempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"
    )
    code += "from invmm_gate.files.scratch import scratch_folder\nwith scratch_folder(): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert "ConfigError: no temporary file can be written" in done.stderr
