"""What the source says of a field: the text beneath it, and its type as it is written."""

import ast
import inspect
import textwrap
from functools import cache
from typing import Any


def one_line(text: str) -> str:
    """For a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


@cache
def _class_body(kind: Any) -> dict[str, tuple[str, str]]:
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for item, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            found[item.target.id] = (ast.unparse(_plain(item.annotation)), one_line(str(text)))
    return found


def _plain(annotation: ast.expr) -> ast.expr:
    """The type without its marks."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        assert isinstance(annotation.slice, ast.Tuple)
        return annotation.slice.elts[0]
    return annotation


def documented(kind: Any) -> dict[str, tuple[str, str]]:
    """Field -> (type, text), those of the base classes first."""
    found: dict[str, tuple[str, str]] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith(("invmm_gate.", "tests.")):
            found |= _class_body(base)
    return found


def summary(kind: Any) -> str:
    """The docstring of a class as one paragraph."""
    return one_line(inspect.getdoc(kind) or "")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """In Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
