"""A folder for temporary files, or one clear line where the machine has no place for one."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invmm_gate.core.errors import ConfigError


@contextmanager
def scratch_folder(prefix: str = "invmm-gate-") -> Iterator[Path]:
    """A private folder that is removed in the end. Raises ConfigError where none can be made."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        raise ConfigError(
            f"no temporary file can be written: {error.strerror or error}",
            expected="a folder that this user may write to",
            do="set TMPDIR to one",
        ) from error
    with folder as name:
        yield Path(name)
