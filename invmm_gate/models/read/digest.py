"""One digest for a whole checkpoint, so that a verdict names exactly what was scored."""

import hashlib
import unicodedata
from collections.abc import Iterable

from invmm_gate.core.records import ModelFile


def digest_of(files: Iterable[ModelFile]) -> str:
    """sha256 over sorted lines `path NUL size NUL sha256 LF`; paths are posix, relative and in Unicode form NFC."""
    lines = sorted(f"{unicodedata.normalize('NFC', file.path)}\0{file.size}\0{file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
