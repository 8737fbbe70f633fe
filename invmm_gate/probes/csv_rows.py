"""CSV from elsewhere: rows of bounded size, and the separator that stands where a comma is expected."""

import csv
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, TextIO

from invmm_gate.core.errors import ProbeSetError

ROW_CHARACTERS: Final = 4_000_000
"""Characters of a row, the lines between its quotes included."""
_NAMES: Final = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_HEADER_CHARACTERS: Final = 10_000
"""In which the header is looked for."""


def check_separator(text: str, columns: Collection[str], path: Path) -> None:
    """Raises ProbeSetError where the first line separates at least two of the columns by something else than commas.

    Spreadsheets of half of Europe write semicolons; `sep=;` as a first line is Excel's.
    """
    lines = enumerate(text[:_HEADER_CHARACTERS].splitlines(), start=1)
    number, first = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    for separator, name in _NAMES.items():
        names = {cell.strip(" \"'") for cell in first.split(separator)}
        if len(names.intersection(columns)) > 1 or first.strip('" \r') == f"sep={separator}":
            raise ProbeSetError(
                f"{path}:{number}: the fields are separated by {name}",
                expected=f"commas, as in {','.join(columns)}",
                do="save it as comma-separated CSV; to replace the characters alone breaks texts that hold a comma",
            )


def rows_of(file: TextIO, path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row that is not blank; one row at a time in memory.

    Raises ProbeSetError for a row of more than ROW_CHARACTERS, and for text that is no CSV.
    """
    lines = _Lines(file, path)
    reader = csv.reader(lines, strict=True)
    try:
        for cells in reader:
            lines.begun = 0
            if cells:
                yield lines.number, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ProbeSetError(
            f"{path}:{lines.number + 1}: cannot be read as CSV ({error})", expected="UTF-8 text with commas"
        ) from error


class _Lines:
    """The lines of a file, none of which is read beyond the limit of a row."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path = file, path
        self.number = self.begun = 0
        """Lines so far; characters of the row that is being read."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(ROW_CHARACTERS + 1)
        self.begun += len(line)
        if self.begun > ROW_CHARACTERS:
            raise ProbeSetError(
                f"{self._path}:{self.number + 1}: the row has more than {ROW_CHARACTERS:,} characters",
                expected="a path and a caption in each row",
                do="look for a quote that is not closed, or for a file that is no CSV",
            )
        if not line:
            raise StopIteration
        self.number += 1
        return line
