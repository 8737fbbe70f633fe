"""A command that benchmarks/RESULTS.md names is one that works today."""

import re
import shlex
import subprocess
import sys
from pathlib import Path


def test_the_text_example_s_small_probe_set_is_large_enough_for_strict(root: Path, tmp_path: Path) -> None:
    page = (root / "benchmarks/RESULTS.md").read_text()
    (command,) = set(re.findall(r"`python (examples/text_to_image/probe_set\.py few [^`]*)`", page))
    script, folder, *options = shlex.split(command)
    probes = tmp_path / folder
    subprocess.run([sys.executable, root / script, probes, *options], cwd=root, check=True, timeout=120)
    linted = [sys.executable, "-m", "invmm_gate", "policy", "lint", "strict", "--probes", probes]
    done = subprocess.run(linted, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stderr, "coverage: the probe set has" in done.stdout) == ("", False), done
