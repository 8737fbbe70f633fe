"""What takes longest starts first, so that no worker idles while another one still has minutes to go."""

import os
import subprocess
import sys
from pathlib import Path

from tests.order import ALONE, LONGEST, TOGETHER, scope_of

FILES = {
    "conftest.py": "from tests.order import pytest_collection_modifyitems, pytest_xdist_make_scheduler\n",
    "test_a_few.py": "def test_one(): ...\n",
    "test_b_many.py": "".join(f"def test_{n}(): ...\n" for n in range(9)),
    LONGEST[1]: "def test_long(): ...\n",
    "test_d_more.py": "".join(f"def test_{n}(): ...\n" for n in range(5)),
}


def test_files_that_take_longest_start_first_and_then_those_with_most_tests(root: Path, tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "xdist", "-n", "1", "--dist", "loadfile"]
    done = subprocess.run(
        [*command, "--no-loadscope-reorder"],
        env=os.environ | {"PYTHONPATH": str(root), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    ran = [line.split("] ")[-1].split()[-1] for line in done.stdout.splitlines() if "PASSED" in line]
    assert list(dict.fromkeys(name.split("::")[0] for name in ran)) == [
        LONGEST[1],
        "test_b_many.py",
        "test_d_more.py",
        "test_a_few.py",
    ]


def test_files_stay_together_but_for_those_whose_tests_share_nothing(root: Path) -> None:
    assert scope_of("tests/a/test_b.py::test_c[d::e/f]") == "tests/a/test_b.py"
    for file in ALONE:
        assert (root / file).is_file()
        assert scope_of(f"{file}::test_c[d]") == f"{file}::test_c[d]"
    for folder in TOGETHER:
        assert (root / folder).is_dir()
        assert scope_of(f"{folder}/test_b.py::test_c") == folder


def test_what_takes_longest_is_there_and_handed_out_as_one(root: Path) -> None:
    for place in LONGEST:
        assert (root / place).exists()
        assert scope_of(f"{place}::test_c").split("::")[0] == place
