"""The repository cites nothing that is not in it."""

import re
import subprocess
from pathlib import Path

import pytest

NAMES = ("MEASURES", "THREATS", "DESIGN", "INTEGRATIONS", "STYLE", "LIKELIHOOD")
"""Notes from which the project began; what they said stands where it is needed."""
OUTSIDE = re.compile(
    rf"\b(?:{'|'.join(NAMES)})(?:\.md\b|\s+\(?[A-Z]?\d)|\.\./shared\b|\bissues? #?\d",
    re.ASCII,
)
BINARY = (".png", ".safetensors")


def cited(text: str) -> list[str]:
    """Lines that point outside, with their numbers."""
    starts = {text.count("\n", 0, match.start()) for match in OUTSIDE.finditer(text)}
    lines = text.split("\n")
    return [f"{line + 1}: {lines[line].strip()}" for line in sorted(starts)]


@pytest.mark.parametrize("name", NAMES)
def test_a_citation_of_a_note_is_found(name: str) -> None:
    for end in (" D4", " 3", ".md", "\n3.6", " (d)", " E2, E3"):
        assert bool(cited(f"as the code has it ({name}{end}).")) is (end != " (d)")
    assert cited(f"{name.lower()} 3 probes, and {name}_FILE") == []


def test_a_file_beside_the_repository_is_found() -> None:
    path = "shared/data/x.gz"
    assert cited(f"see ../{path}")
    assert cited(f"see {path}") == []


def test_no_file_of_the_repository_points_outside(root: Path) -> None:
    if not (root / ".git").exists():
        pytest.skip("no clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    texts = [path for path in listed.split("\0") if path and not path.endswith(BINARY) and (root / path).is_file()]
    assert len(texts) > 500
    found = {path: lines for path in texts if (lines := cited((root / path).read_text()))}
    assert found == {}
