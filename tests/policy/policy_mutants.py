"""Mutants of the modules that decide, and a way to run the cases against each of them."""

import ast
import functools
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, ModuleType, SimpleNamespace
from typing import Any

import invmm_gate.policy
from invmm_gate.files.strict_model import StrictModel
from tests.policy import likelihood_cases, policy_cases
from tests.policy.policy_cases import Case

CASES = policy_cases.CASES | likelihood_cases.CASES
MODULES = (
    *("conformal", "precedence", "evidence", "control_searches", "likelihoods", "rules.rule"),
    *("rules.invmm_below", "rules.confirmed", "rules.extraction_likelihood"),
    *("rules.below_controls", "rules.group_below_controls", "rules.regression"),
    "rules.known",
    *("soundness", "coverage", "controls", "waivers", "reasons", "judge"),
)
"""In the order in which they import one another."""
MUTATED = tuple(module for module in MODULES if module != "rules.known")
"""`known` only lists the others."""
GIVEN = {
    "conformal": "conformal",
    "evidence": "evidence",
    "rules": "rules.known",
    "invmm_below": "rules.invmm_below",
    "confirmed": "rules.confirmed",
    "extraction_likelihood": "rules.extraction_likelihood",
    "waivers": "waivers",
    "verdict": "judge",
}
"""What the cases call, by the names that they use."""
POLICY = Path(invmm_gate.policy.__file__).parent
TraceFunction = Callable[[FrameType, str, Any], Any]

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


def is_protocol(item: type) -> bool:
    return bool(getattr(item, "_is_protocol", False))  # typing has is_protocol from Python 3.13 on


@dataclass(frozen=True)
class Mutant:
    module: str
    line: int
    change: str
    code: CodeType


def path_of(module: str) -> Path:
    return POLICY / f"{module.replace('.', '/')}.py"


def mutants(module: str) -> Iterator[Mutant]:
    """Every mutant of a module's source: one change each, but for the classes that stay what they are."""
    path = path_of(module)
    text = path.read_text()
    tree = ast.parse(text)
    kept = _kept(importlib.import_module(f"invmm_gate.policy.{module}"))
    for node in _walk(tree, kept):
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


def changed() -> tuple[str, ...]:
    """The modules that differ from the main branch; all of them in CI, where git can't tell, and for changed cases.

    Where nothing differs it is the first one, which shows that mutants are still made and caught.
    """
    if "CI" in os.environ:
        return MUTATED
    base = _git("merge-base", "HEAD", "origin/main") or _git("merge-base", "HEAD", "main") or "HEAD"
    files = _git("diff", "--name-only", base, "--", str(POLICY), f"{Path(__file__).parent}/[!t]*.py")
    if files is None or "tests/policy/" in files:
        return MUTATED
    differ = {Path(file).parts[2:] for file in files.splitlines()}
    return tuple(module for module in MUTATED if path_of(module).relative_to(POLICY).parts in differ) or MUTATED[:1]


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parents[2]), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def gate() -> SimpleNamespace:
    """The modules under test, as the cases take them."""
    return SimpleNamespace(**{name: importlib.import_module(f"invmm_gate.policy.{GIVEN[name]}") for name in GIVEN})


@functools.cache
def reached() -> dict[str, frozenset[tuple[str, int]]]:
    """The lines (file, number) of the modules under test that each case runs, quick cases first. All must succeed."""
    files = {str(path_of(module)) for module in MODULES}
    lines, seconds = {}, {}
    for name, case in CASES.items():
        begun = time.process_time()
        lines[name] = frozenset(_lines(case, files))
        seconds[name] = time.process_time() - begun
    return {name: lines[name] for name in sorted(lines, key=seconds.__getitem__)}


def _lines(case: Case, files: set[str]) -> set[tuple[str, int]]:
    lines = set()

    def within(frame: FrameType, event: str, _: object) -> TraceFunction:
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return within

    def entered(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        return within if frame.f_code.co_filename in files else None

    before, given = sys.gettrace(), gate()  # imported by now: what a module runs as it is imported is no case's
    sys.settrace(entered)
    try:
        case(given)
    finally:
        sys.settrace(before)
    return lines


def killer(mutant: Mutant, order: list[str]) -> str | None:
    """Name of a case that the mutant fails, moved to the front of `order`; None if it survives all that run its line.

    A line that none of them runs is one of the module's own, as a table's: all of them are tried.
    """
    line = (str(path_of(mutant.module)), mutant.line)
    names = [name for name in order if line in reached()[name]] or list(order)
    with _in_place(mutant) as mutated:
        for name in names if mutated else ():
            try:
                CASES[name](mutated)
            except Exception:
                order.remove(name)
                order.insert(0, name)
                return name
    return None if mutated else "import"


@contextmanager
def _in_place(mutant: Mutant) -> Iterator[SimpleNamespace | None]:
    """The gate with the mutant, and with the modules that import it made anew; None if they can't be imported."""
    given = gate()
    later = MODULES[MODULES.index(mutant.module) :]
    names = {module: f"invmm_gate.policy.{module}" for module in later}
    saved = {name: sys.modules[name] for name in names.values()}
    try:
        for module, name in names.items():
            made = sys.modules[name] = ModuleType(name)
            exec(mutant.code if module == mutant.module else _compiled(module), made.__dict__)
            made.__dict__.update(_kept(saved[name]))
            vars(given).update({given_as: made for given_as, its in GIVEN.items() if its == module})
    except Exception:
        given = None
    try:
        yield given
    finally:
        sys.modules.update(saved)


def _kept(module: ModuleType) -> dict[str, type]:
    """The models of policy files, as the policies of the cases were read with them, and protocols, which do nothing."""
    classes = {name: item for name, item in vars(module).items() if isinstance(item, type)}
    return {name: item for name, item in classes.items() if issubclass(item, StrictModel) or is_protocol(item)}


def _walk(node: ast.AST, kept: Collection[str]) -> Iterator[ast.AST]:
    if not (isinstance(node, ast.ClassDef) and node.name in kept):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, kept)


@functools.cache
def _compiled(module: str) -> CodeType:
    return compile(path_of(module).read_text(), str(path_of(module)), "exec")
