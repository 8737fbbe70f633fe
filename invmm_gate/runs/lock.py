"""One process a run folder. The kernel frees the lock when its holder dies, however it does."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from invmm_gate.errors import RunFolderError
from invmm_gate.runs.files import explained, write_whole

_LOCK: Final = ".lock"
_HOLDER: Final = ".lock-holder"


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made if need be. Raises RunFolderError at once if another process holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise explained(error, folder) from error
    try:
        _lock(handle, folder)
        write_whole(folder / _HOLDER, f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        os.close(handle)


def refuse_locked(folder: Path) -> None:
    """Raise RunFolderError if another process holds the folder. Makes nothing."""
    if (folder / _LOCK).exists():
        with folder_lock(folder):
            return


def _lock(handle: int, folder: Path) -> None:
    import fcntl  # not on Windows, where `verify` works without a run folder

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunFolderError(
            f"{folder} is in use by {_holder(folder)}",
            expected="one run a folder",
            do="wait for that run, or give another --out",
        ) from error
    except OSError as error:  # ENOSYS, ENOLCK, EOPNOTSUPP: some network and user-space file systems
        raise RunFolderError(
            f"{folder} cannot be locked: {error.strerror or error}",
            expected="a file system with locks, as every local one has, so that no two runs mix in one folder",
            do="give an --out on a local disk",
        ) from error


def _holder(folder: Path) -> str:
    holder = folder / _HOLDER
    return holder.read_text() if holder.exists() else "another process"
