"""Strict YAML that remembers the line of every key, so that an error can name FILE:LINE."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import yaml

from invmm_gate.core.errors import ConfigError
from invmm_gate.files.regular import read_small

MAX_BYTES: Final = 1_000_000
MAX_DEPTH: Final = 20

KeyPath = tuple[str | int, ...]

_TAG: Final = "tag:yaml.org,2002:"
_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT: Final = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_BOOLEANS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A parsed file: plain data, and the line on which each value's key or list item stands."""

    file: str
    data: object
    lines: Mapping[KeyPath, int]

    def line(self, path: Sequence[str | int]) -> int:
        """Line of the value at `path`, or of its nearest parent that stands in the file."""
        for length in range(len(path), 0, -1):
            found = self.lines.get(tuple(path[:length]))
            if found is not None:
                return found
        return 1


def load_document(path: Path) -> Document:
    """Read one YAML file. Raises ConfigError with FILE:LINE.

    Refused: duplicate keys, anchors and aliases, merge keys, tags, keys that are no text, NaN and infinity, numbers
    in YAML 1.1's odd notations (010, 1:30, 1_000), yes/no/on/off, more than one document, more than 1 MB.
    """
    text = _read(path)
    try:
        node = _Composer(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: {error.problem or error.context}", do="correct the YAML") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}", expected="printable UTF-8 YAML") from error
    if node is None:
        raise ConfigError(f"{path}:1: the file is empty", expected="YAML content")
    reader = _Reader(file=str(path), lines={})
    data = reader.value(node, ())
    return Document(file=str(path), data=data, lines=reader.lines)


def _read(path: Path) -> str:
    content = read_small(path, what="a YAML file", limit=MAX_BYTES)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8", expected="a YAML file in UTF-8") from error


class _Composer(yaml.SafeLoader):
    """Builds nodes only; stops at aliases (they make small files expand without end) and at deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not accepted", event.start_mark)
        if self.depth >= MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH}", event.start_mark)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Turns nodes into plain data and notes the lines."""

    file: str
    lines: dict[KeyPath, int]

    def value(self, node: yaml.Node, path: KeyPath) -> object:
        self.lines.setdefault(path, _line(node))
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        return self._refuse(node, f"tag {node.tag} is not accepted", "plain YAML without tags")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, child in node.value:
            key = key_node.value
            if key_node.tag != f"{_TAG}str" or not isinstance(key, str):
                self._refuse(key_node, f"key {str(key)[:40]!r} is not plain text", "a name as key")
            if key in result:
                first = self.lines[(*path, key)]
                self._refuse(key_node, f"key {key!r} is given twice (first on line {first})", "each key once")
            self.lines[(*path, key)] = _line(key_node)
            result[key] = self.value(child, (*path, key))
        return result

    def _scalar(self, node: yaml.ScalarNode) -> object:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        if kind in ("str", "timestamp"):
            return text
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        if kind == "int" and _INTEGER.fullmatch(text) and len(text) <= 20:
            return int(text)
        if kind == "float" and _FLOAT.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
        return self._refuse(
            node, f"value {text[:40]!r} is not accepted", "plain text, a plain finite number, true or false"
        )

    def _refuse(self, node: yaml.Node, found: str, expected: str) -> NoReturn:
        raise ConfigError(f"{self.file}:{_line(node)}: {found}", expected=expected)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
