"""Files that a rendering must equal byte for byte."""

import os
from pathlib import Path

from invmm_gate import __version__

GOLDEN = Path(__file__).parents[1] / "golden"


def assert_golden(name: str, text: str) -> None:
    """Compare with tests/golden/NAME, or write it where INVMM_GATE_UPDATE_GOLDENS is set."""
    shown = text.replace(f'"{__version__}"', '"VERSION"')
    path = GOLDEN / name
    if os.environ.get("INVMM_GATE_UPDATE_GOLDENS"):
        path.write_bytes(shown.encode())
    assert path.read_bytes().decode() == shown
