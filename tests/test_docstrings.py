"""Every module of the package, and whatever is public in it, says what it is for."""

import ast
from collections.abc import Iterator
from pathlib import Path

Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def public(node: Documented, name: str) -> Iterator[tuple[str, Documented]]:
    """The node and the public classes, functions and methods in it; what is inside a function is private."""
    yield name, node
    for child in () if isinstance(node, ast.FunctionDef) else node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            yield from public(child, f"{name}.{child.name}")


def undocumented(source: str, name: str) -> list[str]:
    return [found for found, node in public(ast.parse(source), name) if not ast.get_docstring(node)]


def test_a_missing_docstring_is_found() -> None:
    source = '"""A."""\nclass B:\n    """B."""\n    def c(self): ...\n    def _d(self): ...\ndef e(): ...\n'
    assert undocumented(source, "a") == ["a.B.c", "a.e"]
    assert undocumented("", "a") == ["a"]


def test_everything_public_has_a_docstring(root: Path) -> None:
    modules = sorted((root / "invmm_gate").rglob("*.py"))
    assert len(modules) > 200
    found = [name for path in modules for name in undocumented(path.read_text(), str(path.relative_to(root)))]
    assert found == []
