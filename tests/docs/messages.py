"""tests/golden/messages.txt: every message of an error that the package raises, as the source has it.

Wording is looked at there; other tests ask for exit codes, names and figures.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from invmm_gate.core import errors

PACKAGE = Path(errors.__file__).parents[1]
ERRORS = frozenset(name for name, item in vars(errors).items() if isinstance(item, type) and name.endswith("Error"))


def messages() -> str:
    """The content of the file, a line a message, sorted: code may move without it. `{...}` stands for a value."""
    found = {said for path in PACKAGE.rglob("*.py") for said in _said(ast.parse(path.read_text()))}
    return "\n".join(sorted(found)) + "\n"


def _said(tree: ast.AST) -> Iterator[str]:
    """The message of every error that is made in a module."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        kind = call.func.id if isinstance(call.func, ast.Name) else ""
        if kind in ERRORS and call.args:
            named = {keyword.arg: _text(keyword.value) for keyword in call.keywords}
            parts = [_text(call.args[0]), *(f"{key}: {named[key]}" for key in ("expected", "do") if named.get(key))]
            yield f"{kind}: {'; '.join(parts)}"


def _text(node: ast.expr) -> str:
    """A text as it is written, with the expressions in it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.FormattedValue):
        return "{" + ast.unparse(node.value) + "}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "{" + ast.unparse(node) + "}"
