"""The pages lead somewhere: each link and each file that they name is there, and the map has every room."""

import re
from pathlib import Path

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
FILE = re.compile(r"(?<![\w./-])((?:[a-z_]+/)+[a-z_]+\.py)\b")
"""As the pages name files of the repository: from its root, or from the package."""


def pages(root: Path) -> list[Path]:
    found = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]
    assert len(found) >= 18
    return found


def dead_links(page: Path, text: str) -> list[str]:
    links = [link for link in LINK.findall(text) if not link.startswith(("http://", "https://", "mailto:"))]
    return [f"{page.name}: {link}" for link in links if not (page.parent / link).exists()]


def missing_files(root: Path, page: Path, text: str) -> list[str]:
    named = sorted(set(FILE.findall(text)))
    return [
        f"{page.name}: {name}"
        for name in named
        if not ((root / name).exists() or (root / "invmm_gate" / name).exists())
    ]


def test_what_leads_nowhere_is_found(root: Path) -> None:
    page = root / "docs" / "page.md"
    assert dead_links(page, "[a](b.md) [c](../README.md#d) [e](https://example.org)") == ["page.md: b.md"]
    assert missing_files(root, page, "core/errors.py and `policy/nothing.py`, tests/order.py") == [
        "page.md: policy/nothing.py"
    ]


def test_every_link_of_the_pages_leads_to_a_file(root: Path) -> None:
    assert [dead for page in pages(root) for dead in dead_links(page, page.read_text())] == []


def test_every_file_that_the_pages_name_is_there(root: Path) -> None:
    assert [name for page in pages(root) for name in missing_files(root, page, page.read_text())] == []


def test_every_file_that_the_code_names_is_there(root: Path) -> None:
    sources = sorted((root / "invmm_gate").rglob("*.py"))
    assert [name for path in sources for name in missing_files(root, path, path.read_text())] == []


def test_the_map_has_every_room(root: Path) -> None:
    text = (root / "docs" / "architecture.md").read_text()
    rooms = [
        path.parent.relative_to(root / "invmm_gate") for path in sorted((root / "invmm_gate").rglob("__init__.py"))
    ]
    assert len(rooms) > 20
    assert [
        str(room)
        for room in rooms
        if room != Path() and f"| `{room}/` |" not in text.replace("&nbsp;", "").replace("|   ", "| ")
    ] == []
    assert len(text.splitlines()) <= 160
