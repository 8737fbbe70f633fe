"""The table of real checkpoint folders, computed anew where their configurations are."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIGS = os.environ.get("INVMM_CHECKPOINT_CONFIGS", "")


@pytest.mark.skipif(not Path(CONFIGS).is_dir() or not CONFIGS, reason="INVMM_CHECKPOINT_CONFIGS names no folder")
def test_the_table_is_what_the_gate_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
    from checkpoint_folders import table

    page = (ROOT / "docs/studies/checkpoint-folders.md").read_text()
    shown = page.split("<!-- folders -->\n")[1].split("\n<!-- end -->")[0]
    assert shown.splitlines() == list(table(Path(CONFIGS)))
