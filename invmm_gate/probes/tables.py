"""Tables from elsewhere: CSV with rows of bounded size, and Parquet (extra `parquet`) in small pieces.

A few kilobytes can hold terabytes, by dictionaries, by compression, or by prefixes that values share; and what footer
and page headers say of sizes may be wrong. So the decoder itself is given little room.
"""

import csv
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from invmm_gate.core.errors import ConfigError, ProbeSetError

_BUFFER: Final = 1 << 20
"""Bytes of a column that are read from the file at once; the default is all of a row group's."""
ROW_CHARACTERS: Final = 4_000_000
"""Characters of a row, the lines between its quotes included."""
_NAMES: Final = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
HEADER_CHARACTERS: Final = 10_000
"""In which the header is looked for."""


def open_parquet(source: Path | bytes, place: Path, *, room: int) -> Any:
    """A `pyarrow.parquet.ParquetFile`, its footer read in at most `room` bytes.

    Raises ProbeSetError, naming `place`; ConfigError without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(f"{place} needs pyarrow", do='install it with `pip install "invmm-gate[parquet]"`') from error
    with bounded(room, place):
        file = pa.BufferReader(source) if isinstance(source, bytes) else source
        return pq.ParquetFile(file, buffer_size=_BUFFER)


def batches(
    file: Any, place: Path, *, rows: int, room: int, group: int | None = None, columns: Collection[str] | None = None
) -> Iterator[Any]:
    """`pyarrow.RecordBatch`es of at most `rows` rows, each decoded in at most `room` bytes. Raises ProbeSetError."""
    groups = list(range(file.metadata.num_row_groups)) if group is None else [group]
    with bounded(room, place):
        found = file.iter_batches(
            rows, row_groups=groups, columns=None if columns is None else list(columns), use_threads=False
        )
    while True:
        with bounded(room, place):
            batch = next(found, None)
        if batch is None:
            return
        yield batch


@contextmanager
def bounded(room: int, place: Path, kind: str = "Parquet") -> Iterator[None]:
    """Within it at most `room` further bytes of address space can be taken. Raises ProbeSetError, naming `place`.

    Where the system does not tell how much is in use (it does on Linux), only what pyarrow itself refuses is refused.
    """
    import pyarrow as pa

    try:
        with _address_space(room):
            yield
    except MemoryError as error:  # pyarrow's own is one too
        raise ProbeSetError(
            f"{place} unpacks to more than {room / 1e6:,.0f} MB at once",
            expected="a table whose cells are texts or single images",
            do="write it again from its source, or do not trust it",
        ) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ProbeSetError(
            f"{place} cannot be read as {kind} ({str(error)[:200]})",
            expected=f"whole data in {kind}",
            do="write it again",
        ) from error


@contextmanager
def _address_space(room: int) -> Iterator[None]:
    import resource

    used = _in_use()
    if used is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([used + room, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _in_use() -> int | None:
    """Bytes of address space of this process; None where the system does not tell."""
    import resource

    try:
        pages = Path("/proc/self/statm").read_text().split()[0]
    except OSError:
        return None
    return int(pages) * resource.getpagesize()


def check_separator(text: str, columns: Collection[str], path: Path) -> None:
    """Raises ProbeSetError where the first line separates its fields by something else than commas."""
    found = separator_of(text, columns)
    if found.sign != ",":
        raise ProbeSetError(
            f"{path}:{found.line}: the fields are separated by {_NAMES[found.sign]}",
            expected=f"commas, as in {','.join(columns)}",
            do="save it as comma-separated CSV; to replace the characters alone breaks texts that hold a comma",
        )


@dataclass(frozen=True, slots=True)
class Separator:
    """What stands between the fields of a CSV file, and the line that shows it."""

    sign: str
    line: int = 1
    declared: bool = False
    """Whether that line says so, as `sep=;` does, and is no header."""


def separator_of(text: str, columns: Collection[str]) -> Separator:
    """A comma, unless the first line that is not blank shows another one. `columns`: names that a header may have.

    Spreadsheets of half of Europe write semicolons; `sep=;` as a first line is Excel's.
    """
    lines = enumerate(text[:HEADER_CHARACTERS].splitlines(), start=1)
    number, first = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    for sign in _NAMES:
        names = {cell.strip(" \"'") for cell in first.split(sign)}
        one_cell = "," not in first and sign in first
        declared = first.strip('" \r') == f"sep={sign}"
        if declared or one_cell or len(names.intersection(columns)) > 1:
            return Separator(sign, number, declared)
    return Separator(",")


def rows_of(file: TextIO, path: Path, separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row that is not blank; one row at a time in memory.

    Raises ProbeSetError for a row of more than ROW_CHARACTERS, and for text that is no CSV.
    """
    lines = Lines(file, path)
    reader = csv.reader(lines, strict=True, delimiter=separator)
    try:
        for cells in reader:
            lines.begun = 0
            if cells:
                yield lines.number, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ProbeSetError(
            f"{path}:{lines.number + 1}: cannot be read as CSV ({error})", expected="UTF-8 text with commas"
        ) from error


class Lines:
    """The lines of a file, none of which is read beyond the limit of a row. Raises ProbeSetError."""

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
