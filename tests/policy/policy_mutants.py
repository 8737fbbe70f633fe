"""Mutants of the modules that decide, and a way to run the cases against each of them."""

import ast
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace

from invmm_gate.files.strict_model import StrictModel
from tests.policy import policy_cases

MODULES = (
    *("conformal", "selection", "evidence", "rules.rule"),
    *("rules.invmm_below", "rules.confirmed", "rules.below_controls", "rules.regression", "rules.known"),
    *("soundness", "coverage", "controls", "waivers", "judge"),
)
"""In the order in which they import one another."""
MUTATED = tuple(module for module in MODULES if module != "rules.known")
"""`known` only lists the others."""
GIVEN = {
    "conformal": "conformal",
    "evidence": "evidence",
    "rules": "rules.known",
    "waivers": "waivers",
    "verdict": "judge",
}

_FLIPS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_SWAPS = {"any": "all", "all": "any", "max": "min", "min": "max", "block": "undecided"}


@dataclass(frozen=True)
class Mutant:
    module: str
    line: int
    change: str
    code: CodeType


def path_of(module: str) -> Path:
    found = importlib.import_module(f"invmm_gate.policy.{module}").__file__
    assert found is not None
    return Path(found)


def mutants(module: str) -> Iterator[Mutant]:
    """Every mutant of a module's source: one change each."""
    path = path_of(module)
    text = path.read_text()
    tree = ast.parse(text)
    for node in ast.walk(tree):
        for change in _changes(node):
            with change:
                code = compile(ast.fix_missing_locations(tree), str(path), "exec")
                yield Mutant(module=module, line=getattr(node, "lineno", 0), change=change.text, code=code)
    assert ast.dump(tree) == ast.dump(ast.parse(text))


class _Change:
    """Sets a field of a node, and puts the old value back on exit."""

    def __init__(self, node: ast.AST, field: str, value: object, text: str) -> None:
        self.node, self.field, self.value, self.text = node, field, value, text

    def __enter__(self) -> None:
        self.old = getattr(self.node, self.field)
        setattr(self.node, self.field, self.value)

    def __exit__(self, *_: object) -> None:
        setattr(self.node, self.field, self.old)


def _changes(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for flipped in _FLIPS[type(operator)]:
                ops = [*node.ops[:place], flipped(), *node.ops[place + 1 :]]
                yield _Change(node, "ops", ops, f"{type(operator).__name__} -> {flipped.__name__}")
    if isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield _Change(node, "op", other(), f"{type(node.op).__name__} -> {other.__name__}")
        for place in range(len(node.values)):
            rest = node.values[:place] + node.values[place + 1 :]
            yield _Change(node, "values", rest * (2 if len(rest) == 1 else 1), f"operand {place} dropped")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield _Change(node, "operand", ast.UnaryOp(op=node.op, operand=node.operand), "not or minus dropped")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SWAPS:
        yield _Change(node.func, "id", _SWAPS[node.func.id], f"{node.func.id} -> {_SWAPS[node.func.id]}")
    yield from _dropped(node)


def _dropped(node: ast.AST) -> Iterator[_Change]:
    if isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Load):
        for place, element in enumerate(node.elts):
            if isinstance(element, ast.Starred):
                yield _Change(node, "elts", node.elts[:place] + node.elts[place + 1 :], f"element {place} dropped")
    if isinstance(node, ast.FunctionDef) and node.name == "findings":
        yield _Change(node, "body", ast.parse("return ()").body, "rule never fires")
    if isinstance(node, ast.If):
        yield _Change(node, "test", ast.Constant(False), "condition never true")
    if isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Tuple):
        yield _Change(node, "value", ast.Constant(None), "returns None")


def _settings(module: ModuleType) -> dict[str, object]:
    """The models of policy files stay what they are: the policies of the cases were read with them."""
    found = vars(module).items()
    return {name: item for name, item in found if isinstance(item, type) and issubclass(item, StrictModel)}


def killer(mutant: Mutant, compiled: dict[str, CodeType], order: list[str]) -> str | None:
    """Name of a case that the mutant fails, moved to the front of `order`; None if it survives all of them."""
    names = [f"invmm_gate.policy.{module}" for module in MODULES]
    saved = {name: sys.modules[name] for name in names}
    try:
        built = {}
        for module, name in zip(MODULES, names, strict=True):
            built[module] = sys.modules[name] = ModuleType(name)
            exec(mutant.code if module == mutant.module else compiled[module], built[module].__dict__)
            built[module].__dict__.update(_settings(saved[name]))
        gate = SimpleNamespace(**{name: built[module] for name, module in GIVEN.items()})
        for place, name in enumerate(order):
            try:
                policy_cases.CASES[name](gate)
            except Exception:
                order.insert(0, order.pop(place))
                return name
        return None
    except Exception as error:
        return f"import: {error}"
    finally:
        sys.modules.update(saved)
