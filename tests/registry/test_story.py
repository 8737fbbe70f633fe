"""The example of the registry, as a user starts it."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(1800)
def test_killed_receivers_and_lost_webhooks_leave_no_version_without_a_verdict(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "examples" / "registry" / "run.py"), "--fast", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PERMISSION_DENIED") == 2
    assert "birds-release/1" in done.stdout
