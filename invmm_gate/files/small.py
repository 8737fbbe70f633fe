"""Small files from elsewhere: only regular files are read, up to a limit."""

import os
import stat
from pathlib import Path
from typing import Final

from invmm_gate.core.errors import ConfigError

PRIVATE_MODES: Final = frozenset({0o600, 0o400})

_NO_BLOCK: Final = getattr(os, "O_NONBLOCK", 0)  # a FIFO would make a plain open wait for a writer


def read_small(path: Path, *, what: str, limit: int, modes: frozenset[int] | None = None) -> bytes:
    """The file's bytes. Raises ConfigError for a missing, special or larger file, or one with none of the `modes`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_BLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            _check(os.fstat(descriptor).st_mode, path, what, modes)
            data = stream.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else "no path"
        raise ConfigError(f"{str(path)!r}: {reason}", expected=what) from error
    if len(data) > limit:
        raise ConfigError(f"{str(path)!r} is larger than {limit} bytes", expected=what)
    return data


def _check(mode: int, path: Path, what: str, modes: frozenset[int] | None) -> None:
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{str(path)!r} is no regular file", expected=what)
    if modes is not None and stat.S_IMODE(mode) not in modes:
        raise ConfigError(
            f"{str(path)!r} has mode {stat.S_IMODE(mode):04o}",
            expected="a file that only its owner can read: mode 0600 or 0400",
            do=f"chmod 600 {path}, and make a new key or secret if others could read this one",
        )
