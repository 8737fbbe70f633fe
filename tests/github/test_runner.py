"""The local runner judges expressions, outputs and workflow commands as GitHub does; what is unknown it refuses."""

from pathlib import Path

import pytest

from tests.github import expressions, runner_files
from tests.github.run_action import run_action, with_defaults
from tests.github.services import Services

NAMES = {"inputs.a": "x", "inputs.empty": "", "steps.s.outputs.o-1": "false"}
STATUS = {"always": True, "success": False, "failure": True, "cancelled": False}


def lookup(name: str) -> str:
    if name not in NAMES:
        raise expressions.ExpressionError(name)
    return NAMES[name]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("inputs.a", "x"),
        ("inputs.a == 'X'", True),
        ("inputs.a != 'x' || inputs.empty == ''", True),
        ("inputs.empty || 'it''s'", "it's"),
        ("inputs.a && inputs.empty", ""),
        ("!(inputs.a == 'x') && always()", False),
        ("!cancelled() && steps.s.outputs.o-1 != ''", True),
        ("steps.s.outputs.o-1", "false"),
    ],
)
def test_expressions_have_githubs_values(expression: str, value: expressions.Value) -> None:
    assert expressions.evaluate(expression, lookup, STATUS) == value


@pytest.mark.parametrize(
    "expression",
    ["inputs.b", "secrets.x", "toJSON(inputs.a)", "inputs.a =", "(inputs.a", "inputs.a inputs.a", "", "inputs.a ||",
     "always", "inputs.a || unknown.name", "hashFiles('x')", "always() == 'x'"],
)  # fmt: skip
def test_expressions_that_are_not_known_are_errors(expression: str) -> None:
    with pytest.raises(expressions.ExpressionError):
        expressions.evaluate(expression, lookup, STATUS)


@pytest.mark.parametrize(
    ("written", "runs"),
    [(None, False), ("${{ inputs.a == 'x' }}", False), ("${{ !cancelled() }}", True), ("failure()", True)],
)
def test_after_a_failure_only_steps_that_ask_for_it_run(written: str | None, runs: bool) -> None:
    assert expressions.condition(written, lookup, STATUS) is runs


def test_outputs_are_read_as_github_reads_them() -> None:
    assert runner_files.outputs("a=1\nb<<END\nx=y\n\nEND\nc=\n") == {"a": "1", "b": "x=y\n", "c": ""}
    for broken in ("a<<END\nx\n", "no value\n"):
        with pytest.raises(ValueError):  # noqa: PT011
            runner_files.outputs(broken)


def test_both_spellings_of_workflow_commands_are_seen_but_none_while_they_are_stopped() -> None:
    log = (
        "  ::error file=a%2Cb,line=3::100%25%0Aof\nx ##[set-output name=a;]b\n::stop-commands::t\n::error::no\n::t::\n"
    )
    first, second = runner_files.commands(log)
    assert (first.name, first.data, first.properties) == ("error", "100%\nof", {"file": "a,b", "line": "3"})
    assert (second.name, second.data) == ("set-output", "b")


def test_inputs_are_those_that_the_action_declares() -> None:
    declared = {"model": {"required": True}, "policy": {"default": "strict"}}
    assert with_defaults(declared, {"model": "m"}) == {"model": "m", "policy": "strict"}
    for given in ({}, {"model": "m", "modle": "x"}):
        with pytest.raises(ValueError, match="inputs"):
            with_defaults(declared, given)


def test_an_action_of_others_at_another_commit_is_refused(tmp_path: Path) -> None:
    action = tmp_path / "action"
    action.mkdir()
    step = "- {uses: actions/upload-artifact@v7, with: {path: x}}"
    (action / "action.yml").write_text(f"inputs: {{}}\noutputs: {{}}\nruns:\n  steps:\n  {step}\n")
    with pytest.raises(ValueError, match="actions/upload-artifact@v7"):
        run_action({}, workspace=tmp_path, scratch=tmp_path, services=Services(tmp_path), action=action)
