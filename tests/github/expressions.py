"""GitHub's expressions, as far as the action uses them. What is not known here is an error, never an empty text."""

import re
from collections.abc import Callable, Mapping
from typing import Final

Value = str | bool
Lookup = Callable[[str], Value]

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<name>[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)(?P<call>\(\))?"
    r"|(?P<mark>&&|\|\||==|!=|!|\(|\)))\s*"
)
_TEMPLATE: Final = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
STATUS: Final = ("always", "success", "failure", "cancelled")


class ExpressionError(ValueError):
    """An expression that GitHub would refuse, or that nothing here can judge."""


def filled(template: str, lookup: Lookup) -> str:
    """The text with every `${{ }}` replaced by its value."""
    return _TEMPLATE.sub(lambda found: as_text(evaluate(found.group(1), lookup, {})), template)


def condition(written: str | None, lookup: Lookup, status: Mapping[str, bool]) -> bool:
    """Whether a step runs; without a status function only after success, as on GitHub."""
    expression = (written or "success()").strip()
    whole = re.fullmatch(r"\$\{\{(.*)\}\}", expression, re.DOTALL)
    expression = whole.group(1) if whole else expression
    asks_status = any(f"{name}()" in expression for name in STATUS)
    held = truth(evaluate(expression, lookup, status))
    return held and (asks_status or status["success"])


def evaluate(expression: str, lookup: Lookup, status: Mapping[str, bool]) -> Value:
    """The value; both sides of every operator are looked up, so that no unknown name stays hidden."""
    tokens = _tokens(expression)
    value = _either(tokens, lookup, status)
    if tokens:
        raise ExpressionError(f"{tokens[0][1]!r} was not expected in {expression!r}")
    return value


def truth(value: Value) -> bool:
    return bool(value)


def as_text(value: Value) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _tokens(expression: str) -> list[tuple[str, str]]:
    found, place = [], 0
    while place < len(expression.rstrip()):
        token = _TOKEN.match(expression, place)
        if not token:
            raise ExpressionError(f"{expression[place:]!r} cannot be read")
        kind = "call" if token["call"] else str(token.lastgroup)
        found.append((kind, token["name"] if kind == "call" else token[kind]))
        place = token.end()
    return found


def _either(tokens: list[tuple[str, str]], lookup: Lookup, status: Mapping[str, bool]) -> Value:
    value = _both(tokens, lookup, status)
    while tokens and tokens[0] == ("mark", "||"):
        tokens.pop(0)
        other = _both(tokens, lookup, status)
        value = value if truth(value) else other
    return value


def _both(tokens: list[tuple[str, str]], lookup: Lookup, status: Mapping[str, bool]) -> Value:
    value = _equal(tokens, lookup, status)
    while tokens and tokens[0] == ("mark", "&&"):
        tokens.pop(0)
        other = _equal(tokens, lookup, status)
        value = other if truth(value) else value
    return value


def _equal(tokens: list[tuple[str, str]], lookup: Lookup, status: Mapping[str, bool]) -> Value:
    value = _single(tokens, lookup, status)
    while tokens and tokens[0] in (("mark", "=="), ("mark", "!=")):
        wanted = tokens.pop(0)[1] == "=="
        other = _single(tokens, lookup, status)
        if not (isinstance(value, str) and isinstance(other, str)):
            raise ExpressionError("only texts are compared here")
        value = (value.lower() == other.lower()) is wanted  # GitHub ignores case
    return value


def _single(tokens: list[tuple[str, str]], lookup: Lookup, status: Mapping[str, bool]) -> Value:
    if not tokens:
        raise ExpressionError("the expression ends too early")
    kind, text = tokens.pop(0)
    if kind == "text":
        return text[1:-1].replace("''", "'")
    if kind == "name":
        return lookup(text)
    if kind == "call" and text in status:
        return status[text]
    if (kind, text) == ("mark", "!"):
        return not truth(_single(tokens, lookup, status))
    if (kind, text) == ("mark", "("):
        value = _either(tokens, lookup, status)
        if not tokens or tokens.pop(0) != ("mark", ")"):
            raise ExpressionError("a bracket is not closed")
        return value
    raise ExpressionError(f"{text!r} is not known here")
