"""The checks of each field of the manifest. A check returns "" or says in one line what is wrong."""

import datetime
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from invmm_gate.core.errors import ProbeSetError
from invmm_gate.core.records import FITS, GROUPS

COLUMNS: Final = (
    "id",
    "path",
    "sha256",
    "group",
    "category",
    "caption",
    "cluster",
    "source",
    "licence",
    "added_on",
)
OPTIONAL: Final = ("fit", "multiplicity", "label")
"""Columns that a manifest may lack: without them it is what it was before they were introduced."""
REQUIRED: Final = ("id", "path", "sha256", "group")
"""Columns that may not be empty."""
UNIQUE: Final = ("id", "path")
"""Columns whose values differ by more than case and Unicode form: they name files."""
ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
SHA256_PATTERN: Final = r"[0-9a-f]{64}"
MULTIPLICITY_PATTERN: Final = r"[1-9][0-9]{0,8}"
LABEL_PATTERN: Final = r"0|[1-9][0-9]{0,8}"
CELL_LIMIT: Final = 100_000
"""Characters of a cell."""
ROW_LIMIT: Final = 200_000
"""Short rows take no room in a CSV file, nor repeated cells in Parquet: the size does not bound the number of rows."""
_NAMED: Final = 20
"""Columns that a message names."""
_SHOWN: Final = 200
"""Characters of a cell that a message repeats."""


def text_problem(values: Mapping[str, str]) -> str:
    """Too much text, NUL, or text that is not Unicode (from a file name in another encoding), in any field."""
    for column, value in values.items():
        if len(value) > CELL_LIMIT:
            return f"{column} has {len(value):,} characters; expected at most {CELL_LIMIT:,}"
        if "\0" in value or any(0xD800 <= ord(character) <= 0xDFFF for character in value):
            return f"{column} {shown(value)} holds a NUL or text that is not Unicode; expected plain UTF-8 text"
    return ""


def shown(value: str) -> str:
    """A cell as a message repeats it: quoted, and cut where it is long."""
    return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}..."


def required_problem(column: str) -> str:
    """What to say of a required column that is empty."""
    return f"{column} is empty; expected a value in each of {', '.join(REQUIRED)}"


def id_problem(value: str) -> str:
    """What is wrong with an id; empty if nothing is."""
    if re.fullmatch(ID_PATTERN, value):
        return ""
    return (
        f"id {shown(value)} cannot name a file; expected 1 to 128 letters, digits, dots, dashes or underscores, "
        "the first a letter or digit"
    )


def sha256_problem(value: str) -> str:
    """What is wrong with a digest; empty if nothing is."""
    if re.fullmatch(SHA256_PATTERN, value):
        return ""
    expected = "expected 64 lower-case hexadecimal digits, as `sha256sum` prints them"
    return f"sha256 {shown(value)} is not a sha256; {expected}"


def group_problem(value: str) -> str:
    """What is wrong with a group; empty if nothing is."""
    return "" if value in GROUPS else f"group {shown(value)} is unknown; expected one of {', '.join(GROUPS)}"


def fit_problem(value: str) -> str:
    """What is wrong with a fit; empty if nothing is."""
    expected = f"expected one of {', '.join(FITS)}, as training fitted the image, or nothing for the model's own shape"
    return "" if value in ("", *FITS) else f"fit {shown(value)} is unknown; {expected}"


def multiplicity_problem(value: str, group: str) -> str:
    """What is wrong with how often an image was planted; empty if nothing is."""
    if value and group in GROUPS and group != "canary":
        return (
            f"multiplicity {shown(value)} is given for the group {shown(group)}; expected it for group canary alone: "
            "it says how often a canary was planted"
        )
    if value == "" or re.fullmatch(MULTIPLICITY_PATTERN, value):
        return ""
    expected = "expected a whole number from 1 to 999999999 in plain digits, or nothing where nobody knows"
    return f"multiplicity {shown(value)} does not say how often the canary was planted; {expected}{_of_pandas(value)}"


def label_problem(value: str) -> str:
    """What is wrong with a class label, whatever the model; empty if nothing is."""
    if value == "" or re.fullmatch(LABEL_PATTERN, value):
        return ""
    expected = "expected the number of the class, from 0 to 999999999 in plain digits, or nothing where nobody knows"
    return f"label {shown(value)} is no class label; {expected}{_of_pandas(value)}"


def _of_pandas(value: str) -> str:
    """What to do about a whole number with a fraction, which pandas makes of a column with empty cells."""
    return '; in pandas, save the column as "Int64"' if re.fullmatch(r"[0-9]{1,9}\.0", value) else ""


def date_problem(value: str) -> str:
    """What is wrong with a date; empty if nothing is."""
    try:
        # The length rules out 20250131 and 2025-W05-5, which fromisoformat also reads.
        if value == "" or (len(value) == 10 and datetime.date.fromisoformat(value).isoformat() == value):
            return ""
    except ValueError:
        return f"added_on {shown(value)} is not a date; expected YYYY-MM-DD or nothing"
    return f"added_on {shown(value)} is not written as a date; expected YYYY-MM-DD or nothing"


def path_text_problem(value: str) -> str:
    """Whether the text alone can name a file inside the folder: relative, with /, without . and .. parts."""
    expected = "expected a path inside the probe set's folder, such as images/cat.png"
    if value.startswith("/") or PureWindowsPath(value).drive:
        return f"path {shown(value)} is absolute; {expected}"
    if ".." in PurePosixPath(value).parts:
        return f"path {shown(value)} leads upwards; {expected}"
    if "\\" in value or str(PurePosixPath(value)) != value:
        return f"path {shown(value)} is not in its plain form; {expected}"
    return ""


def path_problem(folder: Path, value: str) -> str:
    """`path_text_problem`, and no part of the path below the folder is a symbolic link."""
    found = path_text_problem(value)
    if found:
        return found
    step = folder
    for part in PurePosixPath(value).parts:
        step = step / part
        if _is_link(step):
            return (
                f"path {shown(value)} goes through a symbolic link; expected a file in the folder itself; "
                "copy the file (under DVC: `dvc config cache.type reflink,copy`, then `dvc checkout --relink`)"
            )
    return ""


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:
        return False  # a part that cannot be looked at (name too long, no right) is reported when the file is opened


def repeated_problem(column: str, value: str, first_line: int) -> str:
    """What to say of a value that stands on an earlier line too."""
    return f"{column} {shown(value)} is also on line {first_line}; expected each {column} once, whatever its case"


def name_key(value: str) -> str:
    """Equal for names that a file system may take for one: other case, other Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", value).casefold())


def collisions(keys: Sequence[str | None]) -> dict[int, int]:
    """Index of each key that came before -> index of its first occurrence. None never collides."""
    first: dict[str, int] = {}
    found: dict[int, int] = {}
    for index, key in enumerate(keys):
        if key is not None and first.setdefault(key, index) != index:
            found[index] = first[key]
    return found


def picture_key(digest: str, group: str) -> str:
    """Equal for probes that would show one picture twice.

    A random draw stays one only if it may also draw a picture that is another probe already: a sample stands by itself.
    """
    return f"sample:{digest}" if group == "sample" else digest


def too_many_rows(path: Path) -> ProbeSetError:
    """The error for a manifest above the limit."""
    return ProbeSetError(
        f"{path} has more than {ROW_LIMIT:,} rows",
        expected="a choice of images, as every probe is inverted by itself",
        do="choose probes from a large set with `invmm-gate probes build`",
    )


_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__|Unnamed: \d+|")
"""Columns that pandas writes of an index, to Parquet and to CSV."""


def check_columns(header: Sequence[str], path: Path) -> None:
    """Raises ProbeSetError for a column that is missing, unknown or there twice."""
    missing = [column for column in COLUMNS if column not in header]
    unknown = [column for column in header if column not in (*COLUMNS, *OPTIONAL)]
    twice = sorted(column for column, count in Counter(header).items() if count > 1)
    parts = [
        f"{kind} {', '.join(map(shown, names[:_NAMED]))}"
        for kind, names in (("lacks", missing), ("has the unknown", unknown), ("repeats", twice))
        if names
    ]
    if parts:
        raise ProbeSetError(
            f"{path}:1: the manifest {' and '.join(parts)}",
            expected=f"the columns {', '.join(COLUMNS)}; fit where a probe's shape is not the model's, "
            "multiplicity where canaries were planted, and label for class-conditional models",
            do="save it without pandas' index: index=False" if any(map(_PANDAS_INDEX.fullmatch, unknown)) else "",
        )
