"""The source distribution holds all that a clone holds: the README's commands work in it."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

PAGES = ("README.md", "CONTRIBUTING.md", "Makefile", "dvc.yaml", "params.yaml", "examples/dvc/README.md", ".ci/run")
MADE = (".venv", "reports/", "runs", "probes", "pipeline", "mlruns", "build", "dist", ".git/", "mlflow.db")
"""What commands make, where it does not lie in the clone."""


@pytest.fixture(scope="module")
def unpacked(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder), str(root)]
    subprocess.run(command, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (inside,) = (path for path in folder.iterdir() if path.is_dir())
    return inside


def named(page: Path, root: Path) -> set[str]:
    words = {word.rstrip(".") for word in re.findall(r"[\w.][\w./-]*", page.read_text())}
    there = {word for word in words if (root / word).exists() and (root / word) != root}
    return {word for word in there if word.startswith("reports/templates") or not word.startswith(MADE)}


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_is_in_it(unpacked: Path, root: Path, page: str) -> None:
    paths = named(root / page, root)
    assert paths
    assert [path for path in sorted(paths) if not (unpacked / path).exists()] == []


def test_every_file_of_the_repository_is_in_it_and_no_package_of_others(unpacked: Path, root: Path) -> None:
    if not (root / ".git").exists():
        pytest.skip("no clone")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    files = [path for path in tracked.split("\0") if path and (root / path).exists()]
    assert [path for path in files if not (unpacked / path).is_file()] == []
    assert not list(unpacked.rglob("node_modules"))


@pytest.mark.parametrize("target", ["demo", "pipeline", "test", "lint", "types", "contracts", "coverage"])
def test_make_knows_its_targets_there(unpacked: Path, target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=unpacked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
