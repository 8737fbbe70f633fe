"""What a step leaves behind, read as GitHub's runner reads it: output files and workflow commands in the log."""

import re
from dataclasses import dataclass, field
from typing import Final

_COMMAND: Final = re.compile(r"^\s*::(?P<name>[A-Za-z-]+)(?: (?P<properties>.*?))?::(?P<data>.*)$")
_OLD_COMMAND: Final = re.compile(r"##\[(?P<name>[A-Za-z-]+)(?: (?P<properties>.*?))?\](?P<data>.*)$")
SUMMARY_LIMIT: Final = 1024 * 1024


@dataclass(frozen=True)
class Command:
    """One workflow command that the runner would carry out."""

    name: str
    data: str
    properties: dict[str, str] = field(default_factory=dict)


def commands(log: str) -> list[Command]:
    """Those in the log; none between `::stop-commands::TOKEN` and `::TOKEN::`. Both spellings count, as on GitHub."""
    found: list[Command] = []
    stopped = ""
    for line in re.split(r"\r\n|\r|\n", log):
        if stopped:
            stopped = "" if line.strip() == f"::{stopped}::" else stopped
            continue
        new, old = _COMMAND.match(line), _OLD_COMMAND.search(line)
        match = new or old
        if match and match["name"] == "stop-commands":
            stopped = match["data"]
        elif match:
            properties = _properties(match["properties"] or "", separator="," if new else ";")
            found.append(Command(match["name"], _unescaped(match["data"]), properties))
    return found


def _properties(written: str, *, separator: str) -> dict[str, str]:
    pairs = (item.partition("=") for item in written.split(separator) if item)
    return {name.strip(): _unescaped(_unescaped(value, {"%3A": ":", "%2C": ","})) for name, _, value in pairs}


def _unescaped(text: str, codes: dict[str, str] | None = None) -> str:
    for code, char in (codes or {"%0D": "\r", "%0A": "\n", "%25": "%"}).items():
        text = text.replace(code, char)
    return text


def outputs(text: str) -> dict[str, str]:
    """GITHUB_OUTPUT's content: `name=value` lines, and `name<<END` up to the line `END`. Anything else is an error."""
    found: dict[str, str] = {}
    lines = text.split("\n")
    while lines:
        line = lines.pop(0)
        named = re.match(r"([^=<]+)(<<|=)(.*)$", line)
        if named and named[2] == "=":
            found[named[1]] = named[3]
        elif named:
            end = lines.index(named[3])
            found[named[1]] = "\n".join(lines[:end])
            del lines[: end + 1]
        elif line:
            raise ValueError(f"GitHub refuses the line {line!r} of an output file")
    return found


def summary(text: bytes) -> str:
    """What the job's page shows; over 1 MiB nothing."""
    return text.decode("utf-8") if len(text) <= SUMMARY_LIMIT else ""
