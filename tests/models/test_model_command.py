"""`invmm-gate model`: what a user reads before a check."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from invmm_gate.cli import run
from tests.models.conftest import edit_json


def test_inspect_says_what_would_be_scored(
    checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["model", "inspect", str(checkpoint("kl"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "LDMPipeline, 16x16, raw weights, predicts epsilon"
    assert lines[1].split()[:2] == ["unet", "UNet2DModel,"]
    assert lines[-1].startswith("digest ")


def test_a_refused_folder_is_a_line_for_each_fault(
    checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ddpm = checkpoint("ddpm")
    (ddpm / "app.py").write_text("print()")
    edit_json(ddpm / "unet/config.json", surprise=1)
    assert run(["model", "inspect", str(ddpm)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line[:5] for line in lines] == ["error", "  1. ", "  2. "]
    edit_json(ddpm / "unet/config.json", surprise=1)
    assert run(["model", "export", str(ddpm), str(tmp_path / "clean")]) == 2
    assert "surprise" in capsys.readouterr().err
    assert not (tmp_path / "clean").exists()


def test_export_says_what_stayed_behind_and_what_comes_next(
    checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ddpm = checkpoint("ddpm")
    (ddpm / "app.py").write_text("print()")
    assert run(["model", "export", str(ddpm), str(tmp_path / "clean")]) == 0
    said = capsys.readouterr().out
    assert "left behind: app.py (code)" in said
    assert f"next: invmm-gate check --model {tmp_path / 'clean'}" in said
    assert run(["model", "inspect", str(tmp_path / "clean"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "pixel"


def test_looking_at_a_checkpoint_needs_no_torch(checkpoint: Callable[[str], Path]) -> None:
    code = (
        "import sys; from invmm_gate.cli import run; run(sys.argv[1:]); "
        "assert not {'torch', 'diffusers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "model", "inspect", str(checkpoint("ddpm"))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
