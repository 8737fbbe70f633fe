"""The built wheel works in an empty environment, from any folder."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.policy.policy_builders import clean_run
from tests.stages.stored_runs import stored


@pytest.fixture(scope="module")
def installed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in a new environment that holds the wheel and what the wheel declares."""
    built = tmp_path_factory.mktemp("built")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(root)],
        check=True,
        capture_output=True,
    )
    (wheel,) = built.glob("*.whl")
    environment = tmp_path_factory.mktemp("empty")
    venv.create(environment, with_pip=True)
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--constraint", root / "constraints.txt", wheel], check=True, capture_output=True)
    return environment / "bin" / "invmm-gate"


def run(command: Path, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_wheel_brings_policies_templates_and_the_command(installed: Path, tmp_path: Path) -> None:
    version = run(installed, "version", folder=tmp_path)
    assert (version.returncode, version.stdout[:10]) == (0, "invmm-gate"), version.stderr

    policy = run(installed, "policy", "show", "strict", folder=tmp_path)
    assert policy.returncode == 0, policy.stderr
    assert "name: strict" in policy.stdout

    stored(clean_run(), tmp_path / "run", judged_by=None)
    report = run(installed, "report", "run", folder=tmp_path)
    assert report.returncode == 0, report.stderr
    assert "NOT JUDGED" in (tmp_path / "run" / "report.html").read_text().upper()

    refused = run(installed, "check", "--model", "nowhere", "--policy", "strict", folder=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: probe set 'probes' is not a folder")
